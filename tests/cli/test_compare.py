"""`compare`: every purifier is an ordinary `test` run, mistakes come first, and whatever stops it, it continues."""

from __future__ import annotations

import json
import os
import re
import signal
import textwrap
from functools import wraps
from pathlib import Path

import pytest
import pytorch_lightning as pl
import yaml

from lit_pursamere import stopping
from lit_pursamere.cli.main import main
from lit_pursamere.cli.plan import read_plan
from lit_pursamere.report import as_markdown, read_comparison
from lit_pursamere.store import ResultsFolder, read_rows
from lit_pursamere.tasks import LitRobustness

PARTS = """
    from lit_pursamere.purifiers import Purifier


    class Fragile(Purifier):
        def purify(self, x, noise):
            if x.requires_grad:
                raise ValueError("fragile: no gradients")
            return x


    class Bare(Purifier):
        def __init__(self, seed: int = 0):
            super().__init__()

        def purify(self, x, noise):
            return x
"""
CHECKPOINTS = Path(__file__).parents[2] / "checkpoints/digits"
WALK = {"class_path": "MALADE", "init_args": {"steps": 2, "alpha": 0.02}}
MINE = {"model.purifier": WALK}
SCORE = "test.model.init_args.score_model.init_args"


@pytest.fixture
def content(tmp_path, monkeypatch):
    """A comparison in a world whose score model is exact: two purifiers and none, two attacks, six digits."""
    (tmp_path / "comparable_parts.py").write_text(textwrap.dedent(PARTS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    attack = {"class_path": "PGD", "init_args": {"threat": {"norm": "linf", "eps": "8/255"}, "steps": 2, "eot": 2}}
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/bpda.yaml").write_text(yaml.safe_dump(attack))
    (tmp_path / "parts/walk.yaml").write_text(yaml.safe_dump({"class_path": "MALADE"}))
    network = {"class_path": "lit_pursamere.networks.WideResNet", "init_args": {"depth": 10, "width": 1, "channels": 1}}
    exact = {"class_path": "PGD", "init_args": {**attack["init_args"], "view": "exact", "steps": 1}}
    score = {
        "class_path": "lit_pursamere.diffusion.GaussianMixtureScore",
        "init_args": {"means": [[[[0.2] * 8] * 8], [[[0.6] * 8] * 8]], "std": 0.3},
    }
    task = {"score_model": score, "classifier": network, "pictures": 0}
    task["attacks"] = {"BPDA": "parts/bpda.yaml", "exact": exact}
    return {
        "output": "out",
        "test": {
            "seed_everything": 3,
            "model": {"class_path": "lit_pursamere.tasks.LitRobustness", "init_args": task},
            "data": {"class_path": "Digits", "init_args": {"eval_batch_size": 3, "test_size": 6}},
            "trainer": {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False},
        },
        "purifiers": {
            "still": {**WALK, "init_args": {**WALK["init_args"], "delta": 0.0}},
            "MALADE": {"model.purifier": "parts/walk.yaml", "model.purifier.steps": 2, "model.purifier.alpha": 0.02},
            "none": {"model.purifier": "Identity", "model.attacks.exact.eot": 1},
        },
    }


@pytest.fixture
def compare(content, capsys):
    """Run the command; returns status, stdout and stderr."""

    def run(*args: str) -> tuple[int, str, str]:
        with open("comparison.yaml", "w") as file:
            yaml.safe_dump(content, file, sort_keys=False)
        status = main(["compare", "comparison.yaml", *args])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def runs(monkeypatch):
    """Counts the runs that are started."""
    started, test = [], pl.Trainer.test

    @wraps(test)  # the command line reads its options
    def noted(self, *args, **options):
        started.append(self)
        return test(self, *args, **options)

    monkeypatch.setattr(pl.Trainer, "test", noted)
    return started


def verdicts(folder):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(folder)]


@pytest.mark.slow
def test_runs_each_as_the_same_test_alone_once_and_continues(compare, runs, tmp_path):
    status, out, err = compare()
    assert status == 0 and [line for line in err.splitlines() if line.startswith("purifier")] == [
        "purifier 1 of 3: still", "purifier 2 of 3: MALADE", "purifier 3 of 3: none",
    ]  # fmt: skip
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out[out.index("| purifier") :].splitlines()]
    found = [dict(zip(rows[0], row, strict=True)) for row in rows[2:5]]
    assert [row["purifier"] for row in found] == ["none", "still", "MALADE"]
    assert [row["network calls"] for row in found] == ["0", "2", "2"]
    assert [row["deterministic"] for row in found] == ["yes", "yes", "no"]
    assert (tmp_path / "out/comparison.md").read_text() in out and (tmp_path / "out/comparison.png").is_file()
    pairs = {(row["system"], row["attack"]) for row in read_rows("out/MALADE")}
    assert pairs == {("MALADE", attack) for attack in ("clean", "BPDA", "exact")}, "undefended only once, as `none`"

    # It draws fresh noise and came second.
    assert main(["test", "--config", "out/MALADE/config.yaml", "--model.output=alone"]) == 0
    assert verdicts("alone") == verdicts("out/MALADE")

    whole, cost = verdicts("out/still"), (tmp_path / "out/still/cost.json").read_text()
    records = tmp_path / "out/still/records-0.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[:7]) + lines[7][:20])  # as if killed while it wrote
    _, out, _ = compare("--table")
    assert "still (11 verdicts missing)" in out and "Incomplete: still lacks 11 verdicts" in out and len(runs) == 4
    status, out, err = compare()
    assert status == 0 and len(runs) == 5 and "missing" not in out
    assert "purifier 1 of 3: still\n" in err and "purifier 2 of 3: MALADE is complete" in err
    assert verdicts("out/still") == whole and (tmp_path / "out/still/cost.json").read_text() == cost


@pytest.mark.slow
def test_pictures_that_could_not_be_written_come_with_the_same_command(compare, content, runs, tmp_path):
    content["test"]["model"]["init_args"]["pictures"] = 2
    assert compare("--only", "none")[0] == 0
    picture = tmp_path / "out/none/pictures.png"
    drawn, started = picture.read_bytes(), len(runs)
    picture.unlink()
    assert compare("--only", "none")[0] == 0
    assert picture.read_bytes() == drawn and len(runs) == started + 1


@pytest.mark.slow
def test_options_of_test_hold_for_all_and_only_chooses(compare, runs):
    options = "--only", "still", "none", "--data.test_size", "3", "--output", "elsewhere"
    status, out, _ = compare(*options)
    assert status == 0 and len(runs) == 2
    assert len(read_rows("elsewhere/none")) == len(read_rows("elsewhere/still")) == 9
    assert "Not evaluated yet: MALADE." in out and "exact: eot 1, but 2 for still." in out
    report = Path("elsewhere/none/report.tex")
    before = report.read_bytes()
    report.unlink()  # as if killed between the last row and the report
    assert compare(*options)[0] == 0
    assert len(runs) == 3 and report.read_bytes() == before


@pytest.mark.slow
def test_the_networks_of_every_purifier_stand_below_the_table(compare, content):
    """As the configurations of the runs say: with its own score model, with that of all, and without any."""
    network = {"class_path": "WideResNet", "init_args": {"depth": 10, "width": 2, "channels": 1}}
    task = content["test"]["model"]["init_args"]
    task["classifier"] = {
        "class_path": "lit_pursamere.weights.trained",
        "init_args": {"network": network, "checkpoint": str(CHECKPOINTS / "classifier.safetensors")},
    }
    own = {
        "class_path": "lit_pursamere.diffusion.NCSNv2Score",
        "init_args": {"ngf": 16, "channels": 1, "image_size": 8, "checkpoint": str(CHECKPOINTS / "score.safetensors")},
    }
    with_own = {**WALK, "init_args": {**WALK["init_args"], "score_model": own}}
    still = content["purifiers"]["still"]
    content["purifiers"] = {"still": still, "own": with_own, "bare": "comparable_parts.Bare", "none": "Identity"}
    task["attacks"] = {}
    status, out, err = compare("--data.test_size", "3")
    assert status == 0, err
    (note,) = (line for line in out.splitlines() if line.startswith("Here: "))
    assert note == (
        "Here: classifier WideResNet(depth=10, width=2, num_classes=10, channels=1, dropout=0.0, weights=ema) from "
        f"{CHECKPOINTS}/classifier.safetensors; score model GaussianMixtureScore(std=0.3), but "
        f"NCSNv2Score(weights=ema, ngf=16, channels=1, image_size=8) from {CHECKPOINTS}/score.safetensors for own."
    )
    assert "GaussianMixtureScore" not in as_markdown(read_comparison("out", ("own", "bare", "none"))), "they use none"


def test_one_that_fails_does_not_stop_the_others(compare, content, runs):
    content["purifiers"] = {"fragile": "comparable_parts.Fragile", "none": "Identity"}
    status, out, err = compare()
    assert status == 1 and len(runs) == 2 and len(read_rows("out/none")) == 18
    assert "purifier fragile failed: fragile: no gradients" in err and "fragile (6 verdicts missing)" in out
    assert err.splitlines()[-2].startswith("lit-pursamere: error: 1 of 2 purifiers failed (fragile: ")


def test_a_run_that_is_told_to_stop_stops_the_comparison(compare, monkeypatch, runs):
    monkeypatch.setattr(stopping, "last", -stopping.TOGETHER)
    monkeypatch.setattr(LitRobustness, "test_step", lambda *unused: os.kill(os.getpid(), signal.SIGTERM))
    status, _, err = compare()
    assert status == 143 and len(runs) == 1
    assert err.splitlines()[-1].endswith("the same command continues")


def test_only_one_comparison_has_a_folder(compare, runs):
    with ResultsFolder("out"):
        status, _, err = compare()
    assert status == 1 and not runs and "another run" in err


def test_another_configuration_is_refused_before_anything_runs(compare, content, runs):
    assert compare("--only", "still")[0] == 0
    content["purifiers"]["still"]["init_args"]["steps"] = 3
    status, _, err = compare()
    assert status == 1 and len(runs) == 1
    assert "purifier 'still': out/still holds results of another configuration" in err


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("purifer", {}, "unknown key 'purifer'; known: output, test, purifiers"),
        ("output", ["out"], r"output in comparison.yaml must be the name of a folder.*got \['out'\]"),
        ("output", 7, "output in comparison.yaml must be the name of a folder, in quotes if it is a number; got 7"),
        ("test", None, "test in comparison.yaml must be a mapping"),
        ("test.modle", {}, "unknown key 'modle'; known: seed_everything, model, data, trainer"),
        ("test", "parts/nope.yaml", "there is no file .*parts/nope.yaml, which .*comparison.yaml names"),
        ("test.model.class_path", "LitClassifier", "test.model in comparison.yaml must be a LitRobustness"),
        ("test.model.init_args.checkpont", "x", "purifier 'still': .*LitRobustness takes no 'checkpont'; known: "),
        ("purifiers", {}, "names no purifier"),
        ("purifiers.../up", "Identity", "a name is a folder's"),
        ("purifiers.last", "Identty", "purifier 'last': .*Identty"),
        ("purifiers.last", "nope.yaml", "there is no file nope.yaml"),
        ("purifiers.last", {"data.test_size": 3}, "needs model.purifier, beside other options"),
        ("purifiers.last", {**MINE, "wiht": {}}, "options of `test` begin with model., data., trainer. .*'wiht'"),
        ("purifiers.last", {**WALK, "init_args": {"stps": 1}}, "'last': .*MALADE takes no 'stps'; did you mean steps"),
        ("purifiers.last", {**WALK, "init_args": {"steps": 0}}, "purifier 'last': MALADE needs .*steps >= 1"),
        ("purifiers.last", {**WALK, "init_args": {"steps": "x"}}, "purifier 'last': .*Got value: x"),
        ("purifiers.last", {**MINE, "evaluations": 2}, "begin with model., data., trainer. .*'evaluations'"),
        ("purifiers.last", {**MINE, "model.evals": 2}, "purifier 'last': .*takes no 'evals'; did you mean evaluations"),
        ("purifiers.last", {**MINE, "model.attacks.PGD.eot": 2}, "is about no attack .* has BPDA, exact"),
        ("purifiers.last", {**MINE, "model.output": "x"}, "model.output is given by the comparison itself"),
        ("purifiers.last", {**MINE, "data.test_seed": 3}, "last does not compare with still: images.digest"),
        ("purifiers.last", {**MINE, "model.attacks.BPDA.threat.eps": 0.1}, "eps of BPDA: .*0.1 in last"),
        (f"{SCORE}.std", -1, "purifier 'still': GaussianMixtureScore needs std >= 0"),
        (f"{SCORE}.means", [[[[i / 5] * 4] * 4] for i in (1, 3)], "purifier 'still': RuntimeError: The size of tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." not in value else "",
)  # fmt: skip
def test_mistakes_come_before_anything_runs(place, value, message, compare, content, runs):
    del content["purifiers"]["MALADE"], content["purifiers"]["none"]
    *parents, key = ["purifiers", "../up"] if "up" in place else place.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    inner[key] = value
    status, _, err = compare()
    lines = err.splitlines()
    assert status == 1 and not runs
    assert re.search(message, lines[-2]), lines
    assert lines[-2].startswith("lit-pursamere: error: ") and lines[-1].startswith("(LIT_PURSAMERE_TRACEBACK=1")


def test_a_comparison_on_top_of_another_says_only_what_differs(content, tmp_path):
    content["purifiers"]["own"] = {**MINE, "model.attacks": {"BPDA": WALK}, "data.test_size": 5}
    (tmp_path / "below.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    every = {"data.test_size": 2, "model.attacks.exact.eot": 4, "model.attacks.BPDA.steps": 7}
    rows = {"own": {"model.attacks.BPDA.steps": 8}, "none": {"data.test_size": 3}}
    (tmp_path / "above.yaml").write_text(
        yaml.safe_dump({"base": "below.yaml", "output": "two", "every": every, "purifiers": rows})
    )
    below, above = read_plan("below.yaml"), read_plan("above.yaml")
    assert (above.test, above.output) == (below.test, Path("two")) and [*above.purifiers] == [*below.purifiers]
    assert above.purifiers["still"] == {"model.purifier": content["purifiers"]["still"], **every}
    none = above.purifiers["none"]
    assert none["data.test_size"] == 3 and none["model.attacks.exact.eot"] == 1
    own = [*above.purifiers["own"]]
    assert above.purifiers["own"]["data.test_size"] == 5
    assert own.index("model.attacks.exact.eot") < own.index("model.attacks") < own.index("model.attacks.BPDA.steps")


@pytest.mark.parametrize(
    ("above", "message"),
    [
        ({"test": {}}, "unknown key 'test'; known: base, output, every, purifiers"),
        ({"purifiers": {"nobody": {}}}, "the base has no 'nobody'; it has still, MALADE, none"),
        ({"purifiers": {"still": "Identity"}}, "purifiers.still in above.yaml must be a mapping"),
        ({"every": ["x"]}, "every in above.yaml must be a mapping"),
        ({"every": {"model.output": "x"}}, "model.output is given by the comparison itself"),
        ({"base": "none.yaml"}, "there is no file none.yaml, which .*above.yaml names"),
    ],
)
def test_mistakes_in_a_comparison_on_top_of_another(above, message, content, tmp_path):
    (tmp_path / "below.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (tmp_path / "above.yaml").write_text(yaml.safe_dump({"base": "below.yaml", "output": "two", **above}))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_plan("above.yaml")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--only", "MALADE", "X"], "there is no purifier 'X' in this comparison; it has still, MALADE, none"),
        (["--data.test_sise", "4"], "Digits takes no 'test_sise'; did you mean test_size?"),
        (["--model.purifier.steps=4"], "model.purifier.steps is given by the comparison itself"),
        (["--table"], "there are no runs in out yet"),
    ],
)
def test_mistakes_on_the_command_line(args, message, compare, runs):
    status, _, err = compare(*args)
    assert status == 1 and not runs and message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("purifiers:\n  A: Identity\n  A: MALADE\n", "two entries 'A'"),
        ("test: [", "is no YAML"),
        ("output: x\n", "lacks 'test'"),
        ("", "must be a mapping"),
    ],
)
def test_files_that_cannot_be_read(text, message, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_plan(tmp_path / "x.yaml")


def test_an_entry_is_a_purifier_or_options_of_a_test_in_their_order(content, tmp_path):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    purifiers = read_plan(tmp_path / "x.yaml").purifiers
    assert purifiers["still"] == {"model.purifier": content["purifiers"]["still"]}
    assert list(purifiers["MALADE"].items()) == [
        ("model.purifier", {"class_path": "MALADE"}), ("model.purifier.steps", 2), ("model.purifier.alpha", 0.02),
    ]  # fmt: skip


def test_arguments_are_those_of_an_ordinary_test(content, tmp_path):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
    _, config, *options = read_plan(tmp_path / "x.yaml", "there").arguments("none", ["--data.test_size", "2"])
    task = json.loads(config)["model"]["init_args"]
    assert task["attacks"]["BPDA"]["class_path"] == "PGD", "files are read into it"
    assert options == [
        "--model.undefended=false", "--model.output=there/none", "--model.purifier=Identity",
        "--model.attacks.exact.eot=1", "--data.test_size", "2",
    ]  # fmt: skip
