"""What is known stays known: cut off in the middle, the table goes on elsewhere from the files that came back."""

import json

import numpy as np
import pytest
import torch

from lit_pursamere import purifiers
from lit_pursamere.networks import WideResNet
from lit_pursamere.store import Records, read_rows
from lit_pursamere.weights import save_weights

OURS = "PurSAMERE rho 2"


@pytest.fixture
def table(script):
    return script("table")


@pytest.fixture
def call(table, tmp_path):
    """Run the script on toys; `place` names its folders."""

    def run(place, *more):
        return table.main(["--toy", f"--out={tmp_path / place}", f"--work={tmp_path / place / 'work'}", *more])

    return run


@pytest.fixture
def setting(table, tmp_path):
    """Everything before the first evaluation, with a classifier that was never trained."""

    def build(*more):
        setting = table.Setting(table.parse(["--toy", f"--work={tmp_path}", *more]), torch.device("cpu"))
        table.write_images(setting)
        save_weights(WideResNet(**table.wide_resnet(setting.options)["init_args"]), setting.classifier)
        return setting

    return build


def cells(report):
    return {(line["system"], line["attack"]): line for line in report["table"]}


@pytest.mark.slow
def test_a_table_that_is_cut_off_goes_on_elsewhere(script, call, tmp_path, monkeypatch, capsys):
    append, time_up = Records.append, script("session").TimeUp

    def cut(records, rows):
        append(records, rows)
        if rows[-1]["attack"] == "exact2":  # the first batch under the exact attack
            raise time_up

    def rows(place):
        found = read_rows(tmp_path / place / f"work/records/exact/{OURS}")
        return {row["index"]: row for row in found if row["attack"] == "exact2"}

    chosen = ("--only", OURS, "--stages", "exact")
    with monkeypatch.context() as patch:
        patch.setattr(Records, "append", cut)
        first = call("first", *chosen)
    assert first == json.loads(capsys.readouterr().out)  # the report, and nothing else
    assert list(first["faults"]) == [f"{OURS}: exact"] and "broken off" in first["faults"][f"{OURS}: exact"]
    assert {attack: line["n"] for (_, attack), line in cells(first).items()} == {
        "clean": 8, "exact2": 4, "worst case": 4,
    }  # fmt: skip
    second = call("second", *chosen, f"--resume={tmp_path / 'first'}")
    assert second["results"].keys() == {"images", f"{OURS}: exact"} and not second["faults"]
    assert second["results"][f"{OURS}: exact"]["new verdicts"] == 4
    assert {line["n"] for line in second["table"]} == {8}
    assert len(rows("first")) == 4 and len(rows("second")) == 8 and rows("first").items() <= rows("second").items()


def test_every_purifier_is_in_it(setting, repository_root):
    built = setting()
    plans = {stage: built.plan(stage) for stage in built.stages()}
    exported = {name: getattr(purifiers, name) for name in purifiers.__all__}
    concrete = {name for name, found in exported.items() if issubclass(found, purifiers.Purifier)} - {"Purifier"}
    entries = plans["apgd"].purifiers
    given = [entry["model.purifier"] for entry in entries.values()]
    named = {one if isinstance(one, str) else one["class_path"].rpartition(".")[2] for one in given}
    assert named == concrete
    shared = plans["apgd"].test["model"]["init_args"]["score_model"]
    assert shared["init_args"]["checkpoint"] == str(built.score)
    assert not any("score_model" in str(entry) for entry in entries.values()), "no purifier brings its own"
    assert plans["bpda"].purifiers["DP_DDPM"]["model.attacks.BPDA2.eot"] == 2
    assert entries["DP_DDPM"]["model.attacks.APGD2.evaluations"] == 2
    assert entries["DP_DDPM"]["model.purifier.steps"] == 200
    assert "model.purifier.steps" not in setting("--official").plan("apgd").purifiers["DP_DDPM"]
    assert not any("eot" in key or "evaluations" in key for key in entries["MagNet"])


@pytest.mark.slow
def test_a_purifier_that_starts_above_the_score_model_is_left_out(table, setting):
    built = setting("--known", "0.01", "0.2")
    plan = built.plan("bpda")
    assert table.evaluate(built, plan, "ADP") == {
        "left out": "starts at sigma 0.25, and the score model knows none above 0.2"
    }
    assert not (plan.output / "ADP/records-0.jsonl").exists()
    told = table.evaluate(built, plan, "MagNet")  # at sigma 0.025
    assert told == {"new verdicts": 24, "asked at sigma": pytest.approx([0.025, 0.025])}
    assert table.evaluate(built, plan, "MagNet") == {"new verdicts": 0}


def test_images_are_in_the_order_of_their_positions(table, setting, monkeypatch):
    built = setting()
    built.options.test = [3, 7]

    def shuffled(options, split, count):
        order = torch.tensor([9, 3, 6, 5, 4, 0]) if split == "test" else 2 * torch.arange(60).flip(0)
        return order.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16), order % 10, order

    monkeypatch.setattr(table, "the_images", shuffled)
    assert table.write_images(built)["test"] == {"images": 4, "positions": [3, 6]}
    with np.load(built.images) as arrays:
        assert arrays["test_images"][:, 0, 0, 0].tolist() == arrays["test_positions"].tolist() == [3, 4, 5, 6]
        assert arrays["train_positions"].tolist() == list(range(0, 100, 2))
    built.options.test = [3, 8]
    with pytest.raises(ValueError, match="test images 3 to 7 are needed, and only 4"):
        table.write_images(built)


def test_the_network_is_read_from_the_card(table, tmp_path):
    def built(card, given=None):
        save_weights(torch.nn.Linear(1, 1), tmp_path / "score.safetensors", card)
        found = table.score_model(tmp_path / "score.safetensors", given)
        assert found["init_args"].pop("checkpoint") == str(tmp_path / "score.safetensors")
        return found

    own = {"class_path": "lit_pursamere.diffusion.EDMScore", "init_args": {"num_blocks": 1}}
    assert built({"network": '{"num_blocks": 1}'}) == own == built({}, given='{"num_blocks": 1}')
    other = {"class_path": "lit_pursamere.diffusion.NCSNv2Score", "init_args": {"ngf": 8}}
    assert built({"configuration": json.dumps({"model": {"score_model": other}})}) == other
    with pytest.raises(ValueError, match="--network"):
        built({})


@pytest.mark.slow
def test_what_train_score_exports_is_taken(script, table, setting, tmp_path):
    script("train_score").main(["--toy", f"--out={tmp_path}", "--steps=1", "--no-compile"])
    built = setting(f"--score={tmp_path / 'score.safetensors'}")
    found = table.evaluate(built, built.plan("bpda"), OURS)
    assert found == {"new verdicts": 24, "asked at sigma": pytest.approx([0.02, 0.15])}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--score is needed"),
        (["--toy", "--classifier", "28-10"], "WRN-28-10 takes 70 MiB"),
        (["--toy", "--only", "DDPM"], "there is no DDPM; known: undefended"),
        (["--score", "nowhere.safetensors"], "there is no nowhere.safetensors"),
    ],
)
def test_mistakes_are_refused_before_the_work(table, args, message, capsys):
    with pytest.raises(SystemExit):
        table.main(args)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_with_rivals(call, tmp_path):
    systems = ["undefended", OURS, "ADBM"]
    report = call("out", "--rivals", "--seed=3", "--only", *systems)
    assert report["faults"] == {} and report["left_out"] == []
    lines = cells(report)
    assert set(lines) == {(s, a) for s in systems for a in ("clean", "gPGD2", "BPDA2", "exact2", "APGD2", "worst case")}
    for line in lines.values():
        low, high = line["interval"]
        assert line["n"] == 8 and low <= line["accuracy"] <= high < 1 + 1e-9 and high - low > 0.3
    text = (tmp_path / "out/table.md").read_text()
    assert "seed 3" in text and "--rivals" in text and report["machine"]["date"] in text and "| ADBM " in text
    back = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert back.keys() == {"table.json", "table.md", "classifier.safetensors", "records.zip"}
    assert max(back.values()) < 16 * 2**20
    again = call("out", "--rivals", "--seed=3", "--only", *systems)
    assert [found["new verdicts"] for name, found in again["results"].items() if ":" in name] == [0] * 9
    assert again["table"] == report["table"]


@pytest.mark.slow
def test_a_rival_that_takes_the_classifier(table, setting):
    built = setting()
    assert table.evaluate(built, built.plan("bpda"), "COUP")["new verdicts"] == 24
