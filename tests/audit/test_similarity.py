"""The comparison of fresh and known noise: its twin, its rows, and what a second run does."""

import json
from dataclasses import replace

import pytest
import torch

from lit_pursamere.attacks import PGD
from lit_pursamere.audit import Similarity, Trial
from lit_pursamere.audit.similarity import known_twin
from lit_pursamere.cli.main import main
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import FreshNoise, PartlySeededNoise, SeededNoise
from lit_pursamere.purifiers import DP_DDIM, DP_DDPM, Identity
from lit_pursamere.threat import ThreatModel

ATTACK = PGD(ThreatModel("linf", 0.1), "exact", 2, eot=5)


@pytest.fixture
def defense(mixture, linear_classifier):
    """Three steps back, and a classifier of the result."""
    return Defense(DP_DDPM(mixture, t_star=100, steps=20), linear_classifier)


@pytest.fixture
def compare(defense, images, tmp_path):
    """Run the comparison on the first images; returns the table and what was written."""

    def run(count=3, attack=ATTACK, defense=defense, pixel=None, label=1, precision="32-true", **changes):
        settings = Similarity(**{"draws": 6, "output": str(tmp_path / "out"), **changes})
        x, y = images[:count].clone(), torch.arange(count) % 3
        x[1, 0, 0, 0], y[1] = x[1, 0, 0, 0] if pixel is None else pixel, label
        index = [10 * i for i in range(count)]
        trial = Trial(defense, "PGD2", attack, x, y, index, "a set", batch=4, precision=precision)
        return settings.run(trial).text, json.loads((tmp_path / "out/similarity.json").read_text())

    return run


def test_the_twin_knows_all_noise_and_changes_nothing_else(defense, images):
    twin = known_twin(defense, table=3)
    assert torch.equal(twin(images), defense(images, SeededNoise(3))) and torch.equal(twin(images), twin(images))
    assert defense.purifier.noise == FreshNoise() and twin.purifier.score_model is defense.purifier.score_model


@pytest.mark.parametrize("build", [lambda model: Identity(), lambda model: DP_DDIM(model).under("fixed")])
def test_a_deterministic_defence_is_refused(mixture, linear_classifier, build):
    with pytest.raises(ValueError, match="draws no fresh noise"):
        known_twin(Defense(build(mixture), linear_classifier), 0)


def test_everything_is_written(compare, tmp_path):
    before = torch.get_rng_state()
    table, summary = compare()
    assert torch.equal(torch.get_rng_state(), before)
    assert summary["counts"] == [1, 2, 4, 6] and summary["images"] == 3
    assert [row["index"] for row in summary["rows"]] == [0, 10, 20]
    for name in ("gradient", "direction"):
        means = [sum(row[name][i] for row in summary["rows"]) / 3 for i in range(4)]
        assert [cell["mean"] for cell in summary[name]] == pytest.approx(means)
        assert all(cell["low"] < cell["mean"] < cell["high"] for cell in summary[name])
    assert f"| 6 | {summary['gradient'][3]['mean']:.3f} [" in " ".join(table.split())
    assert summary["compared"]["attack"]["eot"] == 1 and summary["compared"]["defense"]["purifier"]["noise"] == "fresh"
    assert (tmp_path / "out/similarity.png").stat().st_size > 5_000


def test_a_run_that_was_stopped_goes_on_and_may_grow(compare, tmp_path, monkeypatch):
    table, whole = compare()
    file = tmp_path / "out/images.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:30])
    assert compare()[0] == table and file.read_bytes() == b"".join(lines)
    monkeypatch.setattr("lit_pursamere.audit.similarity.eot_similarity", None)  # nothing is left to do
    assert compare() == (table, whole)
    monkeypatch.undo()
    assert compare(count=4)[1]["rows"][:3] == whole["rows"]


@pytest.mark.parametrize(
    "change",
    [{"draws": 7}, {"seed": 1}, {"table": 1}, {"attack": replace(ATTACK, steps=3)}, {"precision": "64-true"}],
    ids=str,
)
def test_another_comparison_is_refused_in_the_same_folder(compare, change):
    compare()
    with pytest.raises(ValueError, match="results of another configuration"):
        compare(**change)


@pytest.mark.parametrize("change", [{"pixel": 0.5}, {"label": 2}], ids=str)
def test_another_image_at_the_same_place_is_refused(compare, change):
    compare()
    with pytest.raises(ValueError, match=r"image 10 of a set is not the one that .*images\.jsonl has a row of"):
        compare(**change)


def test_with_all_but_no_noise_fresh_the_gradients_agree(mixture, linear_classifier, compare):
    """A flow knows no reverse noise: where the forward noise is the table's, fresh gradients are those of the twin."""
    partly = Defense(DP_DDIM(mixture).drawing_from(PartlySeededNoise(0, ("forward",))), linear_classifier)
    _, summary = compare(defense=partly)
    assert [cell["mean"] for cell in summary["gradient"]] == pytest.approx([1.0] * 4)


def test_mistakes_are_named():
    for change in ({"images": 1}, {"draws": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"got {next(iter(change.values()))}"):
            Similarity(**change)


def test_from_the_command_line(repository_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(repository_root)
    args = [
        "audit", "--config=configs/digits/views.yaml", "--trainer.logger=false", "--audit=Similarity",
        "--model.purifier=configs/purifier/dp_ddim.yaml", "--model.purifier.steps=20",
        "--model.attacks.exact20.steps=1", "--audit.images=2", "--audit.draws=2",
        f"--audit.output={tmp_path}/out",
    ]  # fmt: skip
    assert main(args) == 0
    assert "| 2 " in capsys.readouterr().out
    summary = json.loads((tmp_path / "out/similarity.json").read_text())
    assert [row["index"] for row in summary["rows"]] == [0, 1] and summary["compared"]["data"] == "digits, test images"
    assert main([*args, "--audit.draws=0"]) == 1
    assert "Similarity needs draws >= 1; got 0" in capsys.readouterr().err
    assert main([*args, "--audit.queries=3"]) == 1
    assert "queries" in capsys.readouterr().err, "an option of the checklist"
    assert main([*args, "--trainer.precision=64-true"]) == 1
    assert "precision: there '32-true', now '64-true'" in capsys.readouterr().err
    assert main([*args, "--trainer.precision=16-true"]) == 1
    assert "--trainer.precision 16-true rounds pixels" in capsys.readouterr().err
    assert main([*args, "--model.noise=fixed"]) == 1
    assert "draws no fresh noise" in capsys.readouterr().err
    assert main(["audit", "--config=configs/digits/score.yaml", "--audit=Similarity"]) == 1
    assert "an audit needs the configuration of a `test`" in capsys.readouterr().err
