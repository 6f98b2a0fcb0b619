"""An evaluation in one line is a `test` run, and leaves the user's model and the process as they were."""

from __future__ import annotations

import copy
import os
import sys
import textwrap

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from lit_pursamere.attacks import PGD
from lit_pursamere.cli.main import main
from lit_pursamere.data import Digits
from lit_pursamere.front.evaluate import evaluate
from lit_pursamere.pretrained import load_purifier
from lit_pursamere.store import read_rows
from lit_pursamere.threat import ThreatModel

SIGMAS = {"sigma_max": 5.0, "sigma_min": 0.01, "count": 64, "first": 1.0, "last": 0.02, "stride": 20}
WALK = {"class_path": "PurSAMERE", "init_args": {"rho_pur": 1.5, "rho_sam": 0, "draws": 1, "sigmas": SIGMAS}}
BPDA = {"BPDA": {"class_path": "PGD", "init_args": {"view": "bpda", "steps": 2}}}
QUICK = {"score_model": "digits", "threat": "linf 0.15", "attacks": BPDA, "pictures": 0, "progress": False}
MINE = """
    from torch import nn

    class Mine(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.width = width
            layers = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(36 * width, 10)
            self.net = nn.Sequential(*layers)

        def forward(self, x):
            return self.net(x)
"""


@pytest.fixture(scope="module")
def images():
    data = Digits(test_size=4)
    data.setup("test")
    x, y, _ = next(iter(data.test_dataloader()))
    return x, y


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A class of the user's own, in training mode, that knows a little."""
    (tmp_path / "own_network.py").write_text(textwrap.dedent(MINE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("own_network", None)
    from own_network import Mine

    torch.manual_seed(0)
    return Mine(width=3)


def bare(rows):
    return [{key: value for key, value in row.items() if key not in ("seconds", "dataset", "run")} for row in rows]


def test_its_rows_are_those_of_test_on_the_configuration_that_it_writes(mine, images, tmp_path):
    result = evaluate(mine, images, purifier=WALK, normalise=(0.5, 0.25), output="one", seed=3, **QUICK)
    assert yaml.safe_load(result.configuration.read_text())["seed_everything"] == 3
    assert main(["test", "--config", "one/config.yaml", "--model.output=two"]) == 0
    assert [row["run"] for row in read_rows("two")] == [row["run"] for row in result.rows]
    assert bare(read_rows("two")) == bare(result.rows) and len(result.rows) == 4 * 2 * 2
    assert main(["test", "--config", "one/config.yaml"]) == 0, "it is the same run, which is complete"
    assert bare(read_rows("one")) == bare(result.rows)


def test_nothing_of_the_model_or_the_process_is_changed(mine, images):
    mine.net[0].weight.requires_grad_(False)
    mine.net[1].eval()
    before, state = copy.deepcopy(mine), (torch.get_rng_state(), np.random.get_state()[1].tolist(), dict(os.environ))
    with torch.inference_mode():
        result = evaluate(mine, images, purifier=None, **QUICK)
    assert [m.training for m in mine.modules()] == [m.training for m in before.modules()]
    for (name, now), (_, then) in zip(mine.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(now, then) and now.requires_grad == then.requires_grad and now.grad is None, name
    assert all(torch.equal(a, b) for a, b in zip(mine.buffers(), before.buffers(), strict=True))
    assert torch.equal(torch.get_rng_state(), state[0]) and np.random.get_state()[1].tolist() == state[1]
    assert dict(os.environ) == state[2]
    assert {row["attack"] for row in result.rows} == {"clean", "BPDA"}


def test_models_of_other_kinds(images):
    def found(model):
        return bare(evaluate(model, images, purifier=None, **QUICK).rows)

    def made():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 10)))
        network(images[0])  # computes its weight, which is no leaf
        return network

    plain = made()
    with torch.inference_mode():
        inference = made()
    rows = found(plain)
    assert found(nn.DataParallel(plain)) == rows and found(inference) == rows
    assert found(plain.eval()) == rows
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module; got function"):
        evaluate(lambda x: x, images)


def test_normalisation_is_what_the_model_wants(mine, images):
    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mine

        def forward(self, x):
            return self.inner((x - 0.5) / 0.25)

    given = evaluate(mine, images, purifier=None, normalise=([0.5], 0.25), **QUICK)
    own = evaluate(Behind(), images, purifier=None, **QUICK)
    assert bare(given.rows) == bare(own.rows)
    assert given.configuration is not None and own.configuration is None, "a class of a function cannot be told"


def test_parts_may_be_objects(mine, images):
    purifier = load_purifier("pursamere_digits", "digits/ncsnv2", sigmas=SIGMAS)
    attack = PGD(ThreatModel("linf", 0.1), view="gray", steps=1)
    result = evaluate(mine, images, purifier=purifier, attacks=[attack, BPDA], threat="linf 0.15", pictures=0)
    assert [*result.report.runs[0].attacks] == ["PGD-gray", "BPDA"]
    assert result.report.runs[0].attacks["PGD-gray"].eps == 0.1 and result.configuration is None


def test_a_defence_that_draws_noise_is_judged_more_than_once_and_attacked_by_averages(mine, images):
    noisy = {"class_path": "Langevin", "init_args": {"step_size": 1e-5, "sigmas": {**SIGMAS, "first": 0.1}}}
    once = {"score_model": "digits", "threat": "linf 0.15", "pictures": 0, "undefended": False}
    result = evaluate(mine, images, purifier=noisy, attacks=BPDA, **once)
    assert {row["evaluations"] for row in result.rows} == {4}


def test_a_folder_keeps_what_is_in_it(mine, images):
    first = evaluate(mine, images, purifier=None, output="kept", **QUICK)
    again = evaluate(mine, images, purifier=None, output="kept", **QUICK)
    assert again.rows == first.rows, "no row is new, or its seconds would be"
    with pytest.raises(ValueError, match="holds the evaluation of other images"):
        evaluate(mine, (images[0][:3], images[1][:3]), purifier=None, output="kept", **QUICK)
    with pytest.raises(ValueError, match="another configuration"):
        evaluate(mine, images, purifier=None, output="kept", **{**QUICK, "threat": "linf 0.1"})


def test_a_result_in_every_form(mine, images, tmp_path):
    result = evaluate(mine, images, purifier=None, output="run", **{**QUICK, "pictures": 1})
    assert "| Identity | BPDA " in result.table()
    assert result.worst_case.n == 4 and 0 <= result.worst_case.value <= 1
    assert "<td>BPDA</td>" in result._repr_html_()
    assert result.to_html().startswith("<!doctype html>") and "<script" not in result.to_html()
    assert result.plot().axes and result.plot("survival").axes
    with pytest.raises(ValueError, match=r"a figure is one of worst-case, .*; got 'surviving'"):
        result.plot("surviving")
    assert repr(result) == f"<Identity: {100 * result.worst_case.value:.1f} % of 4 images withstand BPDA>"
    kept = result.save(tmp_path / "copy")
    assert (kept / "report.csv").read_bytes() == (tmp_path / "run/report.csv").read_bytes()
    with pytest.raises(FileExistsError, match="is there already"):
        result.save(kept)


def test_a_result_as_a_frame(mine, images):
    pandas = pytest.importorskip("pandas")
    frame = evaluate(mine, images, purifier=None, **QUICK).to_pandas()
    assert isinstance(frame, pandas.DataFrame) and set(frame["attack"]) == {"clean", "BPDA", "worst case"}


@pytest.mark.parametrize(("change", "message"), [
    ({"threat": "8/255"}, "a norm and a radius"),
    ({"threat": "linf 8"}, "was 8/255 meant"),
    ({"n": 0}, "n must be at least 1"),
    ({"purifier": "pursamer"}, "pursamer"),
    ({"attacks": "quik"}, "quik"),
    ({"attacks": [BPDA, BPDA]}, "two attacks are called BPDA"),
    ({"purifier": WALK, "score_model": None}, "needs a score model"),
])  # fmt: skip
def test_mistakes_are_told(change, message, mine, images):
    from argparse import ArgumentError

    with pytest.raises((ValueError, ArgumentError), match=message):
        evaluate(mine, images, **{"purifier": None, **QUICK, **change})


def test_what_makes_no_sense_stops_before_anything_is_kept(mine, images, tmp_path):
    with pytest.raises(ValueError, match=r"label.*\(preflight=False, or --no-preflight, runs it"):
        evaluate(mine, (images[0], images[1] + 9), purifier=None, output="none", **QUICK)
    assert not (tmp_path / "none").exists()


def test_a_doubt_is_a_warning(mine, images):
    eight = torch.cat([images[0], images[0]]), torch.zeros(8)
    with pytest.warns(UserWarning, match=r"the 8 images are of one class out of 10 \(0\)"):
        evaluate(mine, eight, purifier=None, **QUICK)
