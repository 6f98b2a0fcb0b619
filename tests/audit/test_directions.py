"""Steps made for one noise table and for many: exact lines where the loss is linear, rows that stay."""

import json

import numpy as np
import pytest
import torch

from lit_pursamere.attacks import PGD
from lit_pursamere.audit import Directions, Trial
from lit_pursamere.cli.main import main
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import SeededNoise
from lit_pursamere.purifiers import DP_DDPM, Identity, Purifier
from lit_pursamere.threat import ThreatModel

ATTACK = PGD(ThreatModel("linf", 0.05), "exact", 1, loss="margin")


class Shift(Purifier):
    """Adds a little noise and does nothing else."""

    streams = ("forward",)

    def purify(self, x, noise):
        return x + 0.01 * noise.draw("forward", 0, 1, x)[0]


@pytest.fixture
def ask(mixture, linear_classifier, images, tmp_path):
    """Run the audit on the first images; returns the answer and what was written."""

    def run(count=3, purifier=None, attack=ATTACK, **changes):
        defense = Defense(purifier or DP_DDPM(mixture, t_star=100, steps=20), linear_classifier)
        x, y = images[:count], torch.arange(count) % 3
        trial = Trial(defense, "FGSM", attack, x, y, [10 * i for i in range(count)], "a set", batch=2)
        answer = Directions(**{"points": 5, "tables": 3, "output": str(tmp_path / "out"), **changes}).run(trial)
        return answer.text, json.loads((tmp_path / "out/directions.json").read_text())

    return run


def test_where_the_loss_is_linear_one_direction_suits_all_noise(ask, linear_classifier, images):
    linear_classifier[1].weight.data[1:] = linear_classifier[1].weight.data[1]
    linear_classifier[1].bias.data[2] = -100.0
    _, summary = ask(count=2, purifier=Shift())
    assert [row["cosine"] for row in summary["rows"]] == pytest.approx([1, 1])
    loss, spread = (np.array([row[name] for row in summary["rows"]]) for name in ("loss", "spread"))
    weights = linear_classifier[1].weight.detach()
    slope = float((weights[0] - weights[1]).abs().sum()) * 0.05
    assert np.allclose(np.diff(loss[:, 0, :2], axis=-1), slope), "eps times the l1 norm, per length of eps"
    assert np.allclose(np.diff(loss[:, 0, 2], 2, axis=-1), 0) and (np.abs(np.diff(loss[:, 0, 2])) <= slope + 1e-9).all()
    assert np.allclose(spread[:, 1:] - spread[:, :1], slope) and (spread.std(-1) > 1e-4).all()
    shifted = images[:2] + 0.01 * SeededNoise(0).draw("forward", 0, 1, images[:2])[0]
    logits = linear_classifier(shifted).detach()
    margin = (logits[:, 1] - logits[:, 0]) * torch.tensor([1, -1])
    assert np.allclose(loss[:, 0, 0, 2], margin) and np.allclose(spread[:, 0, 0], margin)


def test_everything_is_written_once(ask, tmp_path, monkeypatch):
    before = torch.get_rng_state()
    text, whole = ask()
    assert torch.equal(torch.get_rng_state(), before)
    assert whole["lengths"] == [-2, -1, 0, 1, 2] and whole["directions"] == ["one table", "3 tables", "random signs"]
    row = whole["rows"][0]
    assert np.array(row["loss"]).shape == (2, 3, 5) and np.array(row["spread"]).shape == (3, 3)
    assert row["loss"][0][0][2:4] == pytest.approx([row["spread"][0][0], row["spread"][1][0]])
    assert "3 images" in text and (tmp_path / "out/directions.png").stat().st_size > 5_000
    monkeypatch.setattr("lit_pursamere.audit.directions.losses_at", None)  # nothing is left to do
    assert ask() == (text, whole)
    with pytest.raises(ValueError, match="results of another configuration"):
        ask(tables=2)


def test_mistakes_are_named(ask):
    for change in ({"images": 1}, {"tables": 1}, {"points": 4}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"got {next(iter(change.values()))}"):
            Directions(**change)
    with pytest.raises(ValueError, match="Identity draws no fresh noise"):
        ask(purifier=Identity())


def test_from_the_command_line(repository_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(repository_root)
    args = [
        "audit", "--config=configs/digits/views.yaml", "--trainer.logger=false", "--audit=Directions",
        "--model.purifier=dp_ddim", "--model.purifier.steps=20", "--audit.images=2", "--audit.tables=2",
        "--audit.points=3", f"--audit.output={tmp_path}/out",
    ]  # fmt: skip
    assert main(args) == 0
    assert "2 tables" in capsys.readouterr().out
