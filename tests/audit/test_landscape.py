"""The landscape of two attacks: planes where the loss is linear, ends where the attacks end, rows that stay."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_pursamere.attacks import APGD, PGD
from lit_pursamere.audit import Landscape, Trial
from lit_pursamere.cli.main import main
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import SeededNoise
from lit_pursamere.purifiers import DP_DDPM, Identity
from lit_pursamere.threat import ThreatModel

ATTACK = PGD(ThreatModel("linf", 0.1), "exact", 3, eot=2)


@pytest.fixture
def stochastic(mixture, linear_classifier):
    return Defense(DP_DDPM(mixture, t_star=100, steps=20), linear_classifier)


@pytest.fixture
def draw(stochastic, images, tmp_path):
    """Run the audit on the first images; returns the answer and what was written."""

    def run(count=3, attack=ATTACK, defense=stochastic, batch=2, **changes):
        x, y = images[:count], torch.arange(count) % 3
        trial = Trial(defense, "PGD3", attack, x, y, [10 * i for i in range(count)], "a set", batch=batch)
        answer = Landscape(**{"points": 5, "output": str(tmp_path / "out"), **changes}).run(trial)
        return answer.text, json.loads((tmp_path / "out/landscape.json").read_text())

    return run


def arrays(summary, name):
    return np.array([row[name] for row in summary["rows"]])


def test_a_linear_loss_is_a_plane_and_the_way_is_straight(draw, linear_classifier, tmp_path):
    linear_classifier[1].weight.data[1:] = linear_classifier[1].weight.data[1]
    linear_classifier[1].bias.data[2] = -100.0  # never the best: two classes
    attack = PGD(ThreatModel("linf", 0.05), "exact", 3, loss="margin")
    text, summary = draw(attack=attack, defense=Defense(Identity(), linear_classifier))
    assert summary["noises"] == summary["attackers"] == ["known noise"] and "fresh" not in text
    values, coordinates = arrays(summary, "map")[:2, 0], arrays(summary, "plane")[:, 0]  # of classes 0 and 1
    assert np.allclose(np.diff(values, 2, axis=1), 0) and np.allclose(np.diff(values, 2, axis=2), 0)
    assert np.allclose(np.diff(np.diff(values, axis=1), axis=2), 0) and (np.diff(values, axis=1) > 0.01).all()
    assert np.allclose(coordinates[..., 1], 0) and np.allclose(coordinates[:, -1], [1, 0])
    assert (tmp_path / "out/landscape.png").stat().st_size > 5_000


def test_the_map_and_the_ways_meet(draw, stochastic, images, tmp_path):
    before = torch.get_rng_state()
    text, summary = draw()
    assert torch.equal(torch.get_rng_state(), before)
    assert summary["attackers"] == ["fresh noise", "fresh noise, EoT 2", "known noise"]
    assert summary["grid"] == [-0.5, 0, 0.5, 1, 1.5]
    loss, maps = arrays(summary, "loss"), arrays(summary, "map")
    assert loss.shape == (3, 2, 3, 4) and maps.shape == (3, 2, 5, 5)
    assert np.allclose(maps[:, 0, 1, 1][:, None], loss[:, 0, :, 0]), "the image"
    assert np.allclose(maps[:, 0, 3, 1], loss[:, 0, -1, -1]), "the end of the attack with known noise"
    known = Defense(stochastic.purifier.drawing_from(SeededNoise(0)), stochastic.classifier)
    adversarial = replace(ATTACK, eot=1)(known, images[:3], torch.arange(3)).last
    expected = torch.nn.functional.cross_entropy(known(adversarial), torch.arange(3), reduction="none")
    assert np.allclose(loss[:, 0, -1, -1], expected.detach().numpy())
    assert (loss[:, 0, -1, -1] > loss[:, 0, :-1, -1].max(1) - 1e-9).all(), "who knows the noise raises its loss most"
    assert np.allclose(arrays(summary, "cosine")[:, -1], 1) and not np.allclose(maps[:, 0], maps[:, 1])
    assert "3 images" in text and "under fresh noise" in text
    assert (tmp_path / "out/trajectories.png").stat().st_size > 5_000


def test_a_run_that_was_stopped_goes_on_and_may_grow(draw, tmp_path, monkeypatch):
    monkeypatch.setattr("lit_pursamere.audit.landscape.save_figure", lambda figure, file: None)
    text, whole = draw()
    file = tmp_path / "out/images.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1] + lines[2][:30])
    assert draw()[0] == text
    assert np.allclose(arrays(whole, "map"), arrays(draw()[1], "map")), "noise follows the image, not its group"
    with monkeypatch.context() as patch:
        patch.setattr("lit_pursamere.audit.landscape.seen_flat", None)  # nothing is left to do
        assert draw()[0] == text
    assert draw(count=4)[1]["rows"][:2] == whole["rows"][:2]
    with pytest.raises(ValueError, match="results of another configuration"):
        draw(points=3)


def test_mistakes_are_named(draw):
    for change in ({"images": 1}, {"points": 1}, {"table": -1}, {"projection": "umap"}):
        with pytest.raises(ValueError, match=f"got '?{next(iter(change.values()))}"):
            Landscape(**change)
    with pytest.raises(ValueError, match="PGD3 is APGD, which makes no steps that could be drawn"):
        draw(attack=APGD(ThreatModel("linf", 0.1)))


def test_from_the_command_line(repository_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(repository_root)
    args = [
        "audit", "--config=configs/digits/views.yaml", "--trainer.logger=false", "--audit=Landscape",
        "--model.purifier=dp_ddim", "--model.purifier.steps=20", "--model.attacks.exact20.steps=1",
        "--audit.images=2", "--audit.points=2", f"--audit.output={tmp_path}/out",
    ]  # fmt: skip
    assert main(args) == 0
    assert "| known noise" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/landscape.json").read_text())["asked"]["data"] == "digits, test images"
