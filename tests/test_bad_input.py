"""Mistakes in a defence, its data or its settings end a command in one line that names the value and the mend."""

from __future__ import annotations

import re
import textwrap

import numpy as np
import pytest

from lit_pursamere.cli.main import main

PARTS = """
    import torch
    from torch import nn

    from lit_pursamere.purifiers import Identity, Purifier


    class Brightened(Identity):
        def forward(self, x, noise=None):
            return x + 0.3


    class Shrunken(Purifier):
        def purify(self, x, noise):
            return x[..., ::2, ::2]


    class Overflowing(Purifier):
        def purify(self, x, noise):
            return x / x.amax() * torch.inf


    class Net(nn.Module):
        def __init__(self, fault: str):
            super().__init__()
            self.fault, self.linear = fault, nn.Linear(64, 10)

        def forward(self, x):
            logits = self.linear(x.flatten(1))
            if self.fault == "best class alone":
                return logits.amax(1)
            if self.fault == "one for all":
                return logits.mean(0, keepdim=True)
            if self.fault == "infinite":
                return logits / 0
            if self.fault == "detached":
                return logits.detach()
            self.train()  # "restless"
            return logits
"""
IDENTITY = ["--model.purifier=Identity"]


@pytest.fixture
def judged(tmp_path, monkeypatch, capsys):
    """Runs one tiny attack on digits with more arguments; returns the exit status and the lines on stderr."""
    (tmp_path / "broken_parts.py").write_text(textwrap.dedent(PARTS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, list[str]]:
        base = ["test", "--model=LitRobustness", "--model.classifier=lit_pursamere.networks.WideResNet"]
        base += ["--model.classifier.depth=10", "--model.classifier.width=1", "--model.classifier.channels=1"]
        base += ["--model.attacks.A=PGD", "--model.attacks.A.threat={norm: linf, eps: 8/255}"]
        base += [
            "--model.attacks.A.steps=1",
            "--model.pictures=0",
            "--data=Digits",
            "--data.test_size=8",
            "--data.eval_batch_size=8",
        ]
        base += ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.logger=false"]
        base += ["--trainer.enable_progress_bar=false"]
        status = main([*base, *args])
        return status, capsys.readouterr().err.splitlines()

    return run


def net(fault: str) -> list[str]:
    return [*IDENTITY, "--model.classifier=broken_parts.Net", f"--model.classifier.fault={fault}"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.purifier=broken_parts.Brightened"], r"Brightened must return images in \[0, 1\].* to 1\.3 .*clamp"),
        (["--model.purifier=broken_parts.Shrunken"], r"Shrunken turned images of shape \(8, 1, 8, 8\) into .*4, 4\)"),
        (["--model.purifier=broken_parts.Overflowing"], "Overflowing must return images.*nan.*score model"),
        (net("best class alone"), r"classifier Net must return logits \(B, K\).*got \(1,\) for 1 images"),
        (net("one for all"), r"one row per image.*got \(1, 10\) for 8 images"),
        (net("infinite"), "classifier Net returned logits from .*must be finite.*half precision"),
        (net("restless"), r"classifier of a defence was put in training mode.*call \.eval\(\)"),
        (
            [*IDENTITY, "--model.classifier.num_classes=4"],
            r"label \d is no class: the classifier tells 4 apart, 0 to 3",
        ),
        ([*IDENTITY, "--model.attacks.A.threat.eps=-1/255"], "eps must be a number of at least 0.*-1/255"),
        ([*IDENTITY, "--model.attacks.A.threat.eps=nan"], "eps must be a number of at least 0.*nan"),
        ([*IDENTITY, "--model.attacks.A.view=surrogate"], "surrogate.*view exact"),
        ([*IDENTITY, "--config=configs/protocol/leekm.yaml"], "configs/protocol/leekm.yaml"),
        ([*IDENTITY, "--model.attacks.A=pgdd.yaml"], "there is no file pgdd.yaml"),
        ([*IDENTITY, "--trainer.precision=bf16-true"], "precision bf16-true rounds pixels.*one of 32-true.*bf16-mixed"),
        ([*IDENTITY, "--model.output="], "LitRobustness needs an output, a folder; got ''"),
        ([*IDENTITY, "--model.output=null"], "LitRobustness needs an output, a folder; got None"),
        ([*IDENTITY, "--model.pictures=-1"], "pictures >= 0; got -1"),
        ([*IDENTITY, "--data.crop=9"], "crop is the padding in pixels, up to 8 here; got 9"),
        (["--model.purifier=ADP", "--model.purifier.sigmas=x"], "ADP takes no 'sigmas'; did you mean sigma"),
        ([*IDENTITY, "--model.attacks.A.threat.eps=8"], "eps 8 in linf is more than .*; was 8/255 meant"),
        ([*net("detached"), "--model.attacks.A.view=exact"], "logits without a gradient; .* detaches its input"),
    ],
)
def test_a_mistake_is_one_line(judged, args, message):
    status, lines = judged(*args)
    assert status == 1 and re.search(message, lines[-2]), lines
    assert lines[-1].startswith("(LIT_PURSAMERE_TRACEBACK=1")
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    ("value", "message"), [(2.0, r"range from 0 to 2 \(divide by 255"), (np.nan, r"must lie in \[0, 1\].*nan")]
)
def test_images_in_other_units_or_with_holes_are_one_line(judged, tmp_path, value, message):
    images = np.zeros((8, 8, 8), dtype=np.float32)
    images[3, 2, 1] = value
    np.savez(tmp_path / "odd.npz", test_images=images, test_labels=np.arange(8))
    status, lines = judged(*IDENTITY, "--data=NPZ", f"--data.path={tmp_path}/odd.npz")
    assert status == 1 and re.search(message, lines[-2]), lines


def test_without_a_mistake_the_same_command_succeeds(judged):
    status, lines = judged(*IDENTITY)
    assert status == 0, lines
