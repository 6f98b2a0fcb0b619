"""A LightningModule's checkpoint is a classifier: its arguments come from the file, and nothing in the file is run."""

from __future__ import annotations

import sys
import textwrap

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lit_pursamere import load_module
from lit_pursamere.cli.main import main
from lit_pursamere.configuration.building import build
from lit_pursamere.front.named import network_of
from lit_pursamere.store import read_rows

OWN = """
    import pytorch_lightning as pl
    from torch import nn

    class LitNet(pl.LightningModule):
        def __init__(self, width, classes=2, act="relu", beta=(0.9, 0.99), extra=None):
            super().__init__()
            self.save_hyperparameters()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, classes))

        def forward(self, x):
            return self.body(x)

    class Whole(pl.LightningModule):
        def __init__(self, conf):
            super().__init__()
            self.save_hyperparameters(conf)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, conf["classes"]))

        def forward(self, x):
            return self.body(x)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_lit.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("own_lit", None)
    monkeypatch.syspath_prepend(tmp_path)
    import own_lit

    yield own_lit
    sys.modules.pop("own_lit", None)


def saved(module, name="epoch=3.ckpt", **entries):
    """A checkpoint as a trainer of Lightning writes it."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(name, weights_only=True)
    if entries:
        torch.save(torch.load(name, weights_only=False) | entries, name)
    return name


def test_its_arguments_and_weights_are_those_of_the_file(own):
    module = own.LitNet(5, classes=3)
    file, x = saved(module), torch.rand(2, 1, 4, 4)
    for found in (
        load_module("own_lit:LitNet", file),
        load_module(own.LitNet, file),
        network_of("own_lit:LitNet", file),
    ):
        assert torch.equal(found(x), module(x)) and not found.training
    told = {"class_path": "lit_pursamere.load_module", "init_args": {"module": "own_lit:LitNet", "checkpoint": file}}
    assert torch.equal(build(nn.Module, told)(x), module(x)), "in a configuration"


def test_given_arguments_win(own):
    file = saved(own.LitNet(5))
    assert network_of("own_lit:LitNet", file, '{"act": "gelu"}').hparams.act == "gelu"
    with pytest.raises(ValueError, match="shapes differ"):
        network_of("own_lit:LitNet", file, '{"width": 6}')
    with pytest.raises(ValueError, match=r"LitNet\(width.* cannot be built with .*'depth'.* --arguments"):
        network_of("own_lit:LitNet", file, '{"depth": 6}')
    for wrong in ("{", "[1]"):
        with pytest.raises(ValueError, match="--arguments"):
            network_of("own_lit:LitNet", file, wrong)


def test_what_its_constructor_does_not_take_is_left_out_and_one_argument_may_hold_all(own):
    module = own.LitNet(5)
    file = saved(module)
    content = torch.load(file, weights_only=False)
    content["hyper_parameters"] |= {"note": "mine", "_instantiator": "os.system"}
    torch.save(content, file)
    assert load_module("own_lit:LitNet", file).hparams.width == 5
    whole = own.Whole({"classes": 4})
    assert load_module("own_lit:Whole", saved(whole, "whole.ckpt"))(torch.rand(1, 1, 4, 4)).shape == (1, 4)


class Spy:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self):
        return open, ("trace", "w")


@pytest.mark.parametrize(("value", "message"), [
    ({"class_path": "os.system", "init_args": {"command": "touch trace"}}, r"argument extra as a os\.system"),
    (nn.Linear(2, 2), "argument extra as a"),
    (Spy(), "is not|not read|not a readable|argument extra as a"),
])  # fmt: skip
def test_what_is_no_plain_value_is_neither_built_nor_run(value, message, own, tmp_path):
    file = saved(own.LitNet(5))
    content = torch.load(file, weights_only=False)
    content["hyper_parameters"]["extra"] = value
    torch.save(content, file)
    with pytest.raises(ValueError, match=message):
        load_module("own_lit:LitNet", file)
    assert not (tmp_path / "trace").exists()


def test_given_in_its_place_it_does_not_matter(own):
    module = own.LitNet(5)
    file = saved(module)
    content = torch.load(file, weights_only=False)
    content["hyper_parameters"]["extra"] = {"class_path": "torch.nn.ReLU"}
    torch.save(content, file)
    assert load_module("own_lit:LitNet", file, {"extra": None}).hparams.extra is None


def test_by_command_line_and_again_by_its_configuration(own, tmp_path, capsys):
    file = saved(own.LitNet(5))
    draws = np.random.default_rng(0)
    np.savez("photos.npz", test_images=draws.integers(0, 256, (4, 4, 4), dtype=np.uint8), test_labels=np.arange(4) % 2)
    command = ["evaluate", "own_lit:LitNet", file, "photos.npz", "--purifier", "Identity", "--threat", "linf 0.1"]
    assert main([*command, "--attacks", "fgsm", "--output", "one", "--device", "cpu"]) == 0, capsys.readouterr().err
    assert len(read_rows("one")) == 8
    assert main(["test", "--config", "one/config.yaml", "--model.output", "two"]) == 0, capsys.readouterr().err
    assert [row["prediction_last"] for row in read_rows("two")] == [row["prediction_last"] for row in read_rows("one")]
