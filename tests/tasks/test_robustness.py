"""LitRobustness: the verdict is the defence's own, every image counts once, and a second run continues the first."""

import json
import math
import os
import signal
from dataclasses import dataclass

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from lit_pursamere.attacks import PGD, Attack, Outcome
from lit_pursamere.data import Digits, ImageDataModule
from lit_pursamere.data.base import ArrayDataset
from lit_pursamere.defense.detectors import ScoreNorm
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.purifiers import Identity, PurSAMERE
from lit_pursamere.report import accuracies, worst_cases
from lit_pursamere.store import ResultsFolder, read_rows
from lit_pursamere.store.images import read_images
from lit_pursamere.tasks import LitRobustness
from lit_pursamere.threat import ThreatModel


class NearestMean(nn.Module):
    """Logits are minus squared distances to the class means: accurate on digits without training."""

    def __init__(self):
        super().__init__()
        train = Digits().load("train")
        self.register_buffer("means", torch.stack([train.images[train.labels == k].mean(0) for k in range(10)]))

    def forward(self, x):
        return -(x.unsqueeze(1) - self.means).square().flatten(2).sum(2)


def world():
    classifier = NearestMean()
    return PurSAMERE(GaussianMixtureScore(classifier.means, 0.2), 0.8, 0.2, 1, [0.5, 0.3, 0.1]), classifier


ATTACKS = {
    "gray": PGD(ThreatModel("linf", 0.1), "gray", 3),
    "bpda": PGD(ThreatModel("linf", 0.1), "bpda", 3),
}


def evaluate(tmp_path, attacks=ATTACKS, n=12, limit=None, batch=5, pictures=0, **options):
    """Metrics and rows of a run below a folder; drawing pictures takes longer than all the rest."""
    purifier, classifier = world()
    task = LitRobustness(purifier, classifier, attacks, output=str(tmp_path / "out"), pictures=pictures, **options)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        default_root_dir=tmp_path, limit_test_batches=limit,
    )  # fmt: skip
    metrics = trainer.test(task, Digits(eval_batch_size=batch, test_size=n), verbose=False)[0]
    return metrics, read_rows(tmp_path / "out")


def without_times(rows):
    return [{key: value for key, value in row.items() if key not in ("seconds", "stored")} for row in rows]


def test_verdicts_are_the_defence_s_own(tmp_path):
    _, rows = evaluate(tmp_path)
    purifier, classifier = world()
    source = Digits().load("test")
    x, y = source.images[:12], source.labels[:12]
    clean = (classifier(purifier(x)).argmax(1) == y).tolist()
    assert [row["votes_last"] for row in rows if (row["system"], row["attack"]) == ("PurSAMERE", "clean")] == clean
    # BPDA by hand: the gradient at the purified image, applied to the image
    x_adv = x
    for _ in range(3):
        purified = purifier(x_adv).detach().requires_grad_()
        loss = F.cross_entropy(classifier(purified), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, purified)
        x_adv = (x_adv + 2.5 * 0.1 / 3 * gradient.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    attacked = (classifier(purifier(x_adv)).argmax(1) == y).tolist()
    assert [row["votes_last"] for row in rows if (row["system"], row["attack"]) == ("PurSAMERE", "bpda")] == attacked
    assert 0 < sum(attacked) + sum(clean) < 24, "the world must tell right from wrong"


def test_rows_are_complete_and_metrics_agree(tmp_path):
    metrics, rows = evaluate(tmp_path)
    assert len(rows) == 2 * 3 * 12
    assert all(row["linf"] <= 0.1 + 1e-6 for row in rows)
    table = accuracies(rows)
    assert {cell.n for cell in table.values()} == {12}
    expected = {
        f"{prefix}/{attack}": table[
            system, attack, "last" if (system, attack) == ("PurSAMERE", "gray") else "any"
        ].value
        for system, prefix in (("PurSAMERE", "robustness"), ("undefended", "undefended"))
        for attack in ("gray", "bpda")
    }
    expected |= {"robustness/clean": table["PurSAMERE", "clean", "last"].value,
                 "undefended/clean": table["undefended", "clean", "last"].value}  # fmt: skip
    for system, prefix in (("PurSAMERE", "robustness"), ("undefended", "undefended")):
        expected[f"{prefix}/worst_case"] = worst_cases(rows, ("gray", "bpda"), "any")[system].value
    assert metrics == pytest.approx(expected)
    assert ("PurSAMERE", "gray", "any") not in table, "a gray attacker does not see the defence"
    assert table["PurSAMERE", "bpda", "any"].correct <= table["PurSAMERE", "bpda", "last"].correct
    assert ("undefended", "gray", "any") in table


def test_batch_size_does_not_matter(tmp_path):
    def verdicts(rows):
        return {(r["system"], r["attack"], r["index"]): (r["votes_last"], r["votes_any"]) for r in rows}

    assert verdicts(evaluate(tmp_path / "a", batch=1)[1]) == verdicts(evaluate(tmp_path / "b", batch=12)[1])


def test_continues_where_it_stopped(tmp_path):
    partial = evaluate(tmp_path, limit=1)[1]
    assert {row["index"] for row in partial} == set(range(5))
    stamps = {json.dumps(row) for row in partial}
    metrics, rows = evaluate(tmp_path)
    assert stamps <= {json.dumps(row) for row in rows}, "finished images are not evaluated again"
    fresh_metrics, fresh = evaluate(tmp_path / "fresh")
    assert metrics == fresh_metrics
    assert without_times(rows) == without_times(fresh)


def test_another_configuration_is_refused(tmp_path):
    evaluate(tmp_path)
    with pytest.raises(ValueError, match=r"results of another configuration \(attacks\.bpda\..*0\.2"):
        evaluate(tmp_path, {"bpda": PGD(ThreatModel("linf", 0.2), "bpda", 3)})


def test_writes_report_and_pictures(tmp_path):
    evaluate(tmp_path, pictures=6)
    out = tmp_path / "out"
    table = [line.split("|") for line in (out / "report.md").read_text().splitlines() if line.startswith("| ")]
    assert [line[2].strip() for line in table[1:3]] == ["clean", "gray"], "attacks follow the configuration"
    for picture in ("pictures.png", "levels.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_inference_mode_is_refused(tmp_path):
    purifier, classifier = world()
    task = LitRobustness(purifier, classifier, {}, output=str(tmp_path / "out"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(RuntimeError, match="inference_mode=False"):
        trainer.test(task, Digits(test_size=2), verbose=False)


def test_clean_is_not_a_name_for_an_attack():
    purifier, classifier = world()
    with pytest.raises(ValueError, match="cannot be named 'clean'"):
        LitRobustness(purifier, classifier, {"clean": ATTACKS["gray"]})


class CoinFlip(nn.Module):
    """Ignores the image: right with probability 0.7 at each call and image, else wrong."""

    def forward(self, x):
        logits = torch.zeros(len(x), 10)
        logits[:, 0] = (torch.rand(len(x)) < 0.7).float() - 0.5
        return logits + 0.0 * x.flatten(1).sum(1, keepdim=True)


class Zeros(Digits):
    """Digits that all count as the first class."""

    def load(self, split):
        source = super().load(split)
        source.labels.zero_()
        return source


def test_repeated_verdicts_give_mean_worst_case_and_vote(tmp_path):
    task = LitRobustness(Identity(), CoinFlip(), {}, output=str(tmp_path / "out"), evaluations=5)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    torch.manual_seed(0)
    metrics = trainer.test(task, Zeros(eval_batch_size=100, test_size=397), verbose=False)[0]
    rows = read_rows(tmp_path / "out")
    assert {row["evaluations"] for row in rows} == {5} and {row["votes_last"] for row in rows} == {0, 1, 2, 3, 4, 5}
    table = accuracies(rows)
    expected = {
        "last": 0.7,
        "last worst": 0.7**5,
        "last vote": sum(math.comb(5, k) * 0.7**k * 0.3 ** (5 - k) for k in (3, 4, 5)),
    }
    for semantics, share in expected.items():
        cell = table["Identity", "clean", semantics]
        assert cell.n == 397 and cell.value == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 397))
    assert metrics["robustness/clean"] == pytest.approx(table["Identity", "clean", "last"].value)
    report = (tmp_path / "out/report.csv").read_text()
    assert "Identity,clean,last worst," in report and "Identity,clean,last vote," in report


def test_the_worse_candidate_decides_and_evaluations_must_be_positive(tmp_path):
    _, rows = evaluate(tmp_path, evaluations=3)
    attacked = [row for row in rows if row["attack"] == "bpda"]
    assert all(row["votes_any"] <= row["votes_last"] for row in attacked)
    assert {row["votes_last"] for row in attacked} <= {0, 3}, "a deterministic defence repeats its verdict"
    with pytest.raises(ValueError, match="got 0"):
        evaluate(tmp_path, evaluations=0)


@dataclass(frozen=True)
class Signalling(PGD):
    """PGD during whose third step the machine asks the process to stop."""

    def step(self, view, x, y, state):
        Signalling.taken += 1
        if Signalling.taken == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(view, x, y, state)


def test_sigterm_stops_within_an_attack(tmp_path):
    Signalling.taken = 0
    with pytest.raises(SystemExit, match="143"):
        evaluate(tmp_path, {"long": Signalling(ThreatModel("linf", 0.1), "bpda", 50)})
    assert Signalling.taken == 3
    done = {(row["system"], row["attack"]) for row in read_rows(tmp_path / "out")}
    assert done == {("PurSAMERE", "clean")}, "finished verdicts are kept"


# --- rows


def test_rows_say_what_they_should(tmp_path):
    _, rows = evaluate(tmp_path)
    purifier, classifier = world()
    source = Digits().load("test")
    by_key = {(row["system"], row["attack"], row["index"]): row for row in rows}
    for (system, attack, index), row in by_key.items():
        assert (row["dataset"], row["label"], row["evaluations"]) == ("digits", int(source.labels[index]), 1)
        assert row["prediction_clean"] == by_key[system, "clean", index]["prediction_last"]
        for kind in ("last", "any"):
            entries = [row[f"{name}_{kind}"] for name in ("prediction", "votes", "margin", "loss")]
            if entries[0] is None:
                assert entries == [None] * 4 and kind == "any"
                continue
            right = entries[0] == row["label"]
            assert entries[1] == right and (entries[2] > 0) == right and entries[3] > 0
        assert (row["prediction_any"] is None) == (attack == "clean" or (system, attack) == ("PurSAMERE", "gray"))
        assert row["linf"] <= row["l2"] <= row["l1"] and row["linf"] <= 0.1 + 1e-6
        assert (row["l1"] == 0) == (attack == "clean") and (row["moved"] == 0) == (system == "undefended")
        assert row["stored"] is None and row["seconds"] >= 0
    x = torch.stack([source.images[i] for i in range(12)])
    moved = (purifier(x) - x).flatten(1).norm(dim=1)
    assert [by_key["PurSAMERE", "clean", i]["moved"] for i in range(12)] == pytest.approx(moved.tolist(), rel=1e-4)
    loss = F.cross_entropy(classifier(x), source.labels[:12], reduction="none")
    assert [by_key["undefended", "clean", i]["loss_last"] for i in range(12)] == pytest.approx(loss.tolist(), rel=1e-4)


def test_first_success_is_the_step_that_broke_it(tmp_path):
    _, rows = evaluate(tmp_path, {"bpda": PGD(ThreatModel("linf", 0.2), "bpda", 4, step_size=0.05)}, n=40)
    attacked = [row for row in rows if row["attack"] == "bpda"]
    assert {row["first_success"] for row in attacked} >= {-1, 4}, "the last iterate counts as well"
    for row in attacked:
        assert (row["first_success"] == -1) == (row["votes_any"] == 1)
        assert (row["first_success"] == 0) == (row["prediction_clean"] != row["label"])
    assert {row["first_success"] for row in rows if row["attack"] == "clean"} == {None}


def test_the_manifest_says_what_decides(tmp_path):
    evaluate(tmp_path)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert set(manifest) == {
        "data", "images", "systems", "defenses", "weights", "attacks", "evaluations", "success", "seed", "slots",
        "precision", "manifest_format",
    }  # fmt: skip
    assert manifest["images"]["count"] == 12 and manifest["slots"] == 5 and manifest["precision"] == "32-true"
    assert manifest["attacks"] == {name: attack.settings for name, attack in ATTACKS.items()}
    environment = (tmp_path / "out/environment.jsonl").read_text().splitlines()
    assert len(environment) == 1 and json.loads(environment[0])["processes"] == 1


# --- pools and slots


@pytest.mark.parametrize("pool", [1, 7])
def test_the_pool_does_not_matter(tmp_path, pool):
    attacks = ATTACKS | {"stop": PGD(ThreatModel("linf", 0.3), "bpda", 5, True), "neighbours": Neighbours(THREAT)}
    whole = evaluate(tmp_path / "whole", attacks)
    small = evaluate(tmp_path / "small", attacks, pool=pool)
    assert without_times(small[1]) == without_times(whole[1]) and small[0] == whole[0]
    with pytest.raises(ValueError, match="pool of at least 1 image; got 0"):
        evaluate(tmp_path, pool=0)


THREAT = ThreatModel("linf", 0.3)


@dataclass(frozen=True)
class Neighbours(Attack):
    """Adds to every image what lies between it and the next image of its batch, within the budget."""

    sizes = []

    def perturb(self, view, x, y, progress):
        self.sizes.append(len(x))
        return Outcome(x.roll(1, 0), x.roll(1, 0))


def remove_rows(folder, attack, indices):
    """Remove the rows of some images, as a deleted or damaged shard does."""
    file = folder / "records-0.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [row for row in rows if not (row["attack"] == attack and row["index"] in indices)]
    assert len(kept) < len(rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))


def test_batches_of_other_attacks_stay_whole(tmp_path):
    """Images 3 and 11 lost: their batches are attacked again as they were, and only the missing rows are added."""
    attacks = {"neighbours": Neighbours(THREAT)}
    _, rows = evaluate(tmp_path, attacks)
    remove_rows(tmp_path / "out", "neighbours", {3, 11})
    kept = {json.dumps(row) for row in read_rows(tmp_path / "out")}
    Neighbours.sizes.clear()
    _, again = evaluate(tmp_path, attacks)
    assert Neighbours.sizes == [5, 2, 5, 2]
    assert without_times(again) == without_times(rows) and kept <= {json.dumps(row) for row in again}


@pytest.mark.parametrize("attack", ["clean", "bpda"])
def test_missing_rows_are_made_again_and_come_out_the_same(tmp_path, attack):
    _, rows = evaluate(tmp_path)
    remove_rows(tmp_path / "out", attack, {0, 6, 7})
    assert without_times(evaluate(tmp_path)[1]) == without_times(rows)
    (tmp_path / "out/records-0.jsonl").unlink()
    assert without_times(evaluate(tmp_path)[1]) == without_times(rows)


@dataclass(frozen=True)
class Dying(PGD):
    """PGD that dies at its n-th step."""

    def step(self, view, x, y, state):
        assert len(x) == 5, "every call gets as many images as a batch has"
        Dying.left -= 1
        if Dying.left == 0:
            raise KeyboardInterrupt
        return super().step(view, x, y, state)


PICTURES = ("pictures.png", "levels.png", "pictures.npz")


def test_pictures_are_those_of_a_run_that_was_not_interrupted(tmp_path):
    """Of the six images in the grid five are done when the run dies; and a picture that is missing is drawn again."""
    attacks = {"first": PGD(THREAT, "gray", 1), "long": Dying(THREAT, "bpda", 4)}
    Dying.left = 10_000
    evaluate(tmp_path / "whole", attacks, pictures=6)
    Dying.left = 5
    with pytest.raises(BaseException):  # noqa: B017 (Lightning turns it into an exit)
        evaluate(tmp_path, attacks, pictures=6)
    out = tmp_path / "out"
    assert not (out / "pictures.png").exists() and 0 < sum(row["attack"] == "long" for row in read_rows(out)) < 12
    Dying.left = 10_000
    evaluate(tmp_path, attacks, pictures=6)
    assert [(out / name).read_bytes() for name in PICTURES] == [
        (tmp_path / "whole/out" / name).read_bytes() for name in PICTURES
    ]
    before = (out / "levels.png").read_bytes()
    (out / "levels.png").unlink()
    evaluate(tmp_path, attacks, pictures=6)
    assert (out / "levels.png").read_bytes() == before


class Many(ImageDataModule):
    """Grey images (1, 2, 2), whose brightness is their class, one of 10,000."""

    name, num_classes, channels, image_size = "many", 10_000, 1, 2
    class_names = tuple(f"brightness {k}" for k in range(10_000))

    def load(self, split):
        labels = torch.arange(0, 10_000, 999)
        return ArrayDataset((labels / 10_000).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2), labels)


class Brightness(nn.Module):
    def forward(self, x):
        return -(x.flatten(1).mean(1, keepdim=True) - torch.arange(10_000) / 10_000).abs()


def test_ten_thousand_classes(tmp_path):
    attack = PGD(ThreatModel("linf", 1e-3), "bpda", 2)
    task = LitRobustness(Identity(), Brightness(), {"PGD": attack}, output=str(tmp_path / "out"))
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.test(task, Many(eval_batch_size=4), verbose=False)
    clean = [row for row in read_rows(tmp_path / "out") if row["attack"] == "clean"]
    assert [row["prediction_last"] for row in clean[:11]] == list(range(0, 10_000, 999))
    assert (tmp_path / "out/pictures.png").is_file()


def test_pictures_that_cannot_be_read_do_not_stand_in_the_way(tmp_path):
    evaluate(tmp_path, limit=1, pictures=2)
    (tmp_path / "out/pictures.npz").write_bytes(b"PK")
    (tmp_path / "out/pictures.png").unlink()
    assert len(evaluate(tmp_path, pictures=2)[1]) == 2 * 3 * 12


def test_finished_images_survive_in_the_middle_of_an_attack(tmp_path):
    attacks = {"long": Dying(THREAT, "bpda", 6, True)}
    Dying.left = 10_000
    _, whole = evaluate(tmp_path / "whole", attacks, n=40)
    steps = 10_000 - Dying.left
    Dying.left = steps // 3
    with pytest.raises(BaseException):  # noqa: B017 (Lightning turns it into an exit)
        evaluate(tmp_path, attacks, n=40)
    done = [row for row in read_rows(tmp_path / "out") if row["attack"] == "long"]
    assert 0 < len(done) < 40 and len(done) % 5 == 0
    Dying.left = 10_000
    assert without_times(evaluate(tmp_path, attacks, n=40)[1]) == without_times(whole)


def test_the_last_pool_runs_in_the_same_precision_as_the_others(tmp_path):
    class Spy(NearestMean):
        seen = set()

        def forward(self, x):
            self.seen.add((torch.is_autocast_enabled("cpu"), str(x.dtype)))
            return super().forward(x)

    def run(precision, folder):
        Spy.seen.clear()
        settings = {"output": str(tmp_path / folder), "pool": 5, "pictures": 0}
        task = LitRobustness(Identity(), Spy(), {"gray": ATTACKS["gray"]}, **settings)
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            inference_mode=False, default_root_dir=tmp_path, precision=precision,
        )  # fmt: skip
        trainer.test(task, Digits(eval_batch_size=5, test_size=12), verbose=False)
        return Spy.seen, read_rows(tmp_path / folder)

    assert run("bf16-mixed", "mixed")[0] == {(True, "torch.float32")}
    seen, double = run("64-true", "double")
    assert seen == {(False, "torch.float64")}
    single = run("32-true", "single")[1]
    assert [row["margin_last"] for row in double] == pytest.approx([row["margin_last"] for row in single], rel=1e-3)
    with pytest.raises(ValueError, match=r"precision: there '64-true', now '32-true'"):
        run("32-true", "double")


# --- what must not be mixed


def test_other_weights_under_the_same_name_are_refused(tmp_path, monkeypatch):
    evaluate(tmp_path)
    (purifier, _), other = world(), NearestMean()
    other.means[3] += 0.01
    monkeypatch.setitem(globals(), "world", lambda: (purifier, other))
    before = (tmp_path / "out/manifest.json").read_bytes()
    with pytest.raises(ValueError, match=r"another configuration \(weights\.PurSAMERE: .*; weights\.undefended: "):
        evaluate(tmp_path)
    assert (tmp_path / "out/manifest.json").read_bytes() == before


@pytest.mark.parametrize("changed", ["pixel", "label", "order"])
def test_other_images_under_the_same_name_are_refused(changed, tmp_path, monkeypatch):
    evaluate(tmp_path)
    load = Digits.load

    def other(data, split):
        source = load(data, split)
        if changed == "pixel":
            source.images[3, 0, 0, 0] += 1 / 16
        elif changed == "label":
            source.labels[3] = (source.labels[3] + 1) % 10
        else:
            source.images[:2], source.labels[:2] = source.images[:2].flip(0), source.labels[:2].flip(0)
        return source

    monkeypatch.setattr(Digits, "load", other)
    with pytest.raises(ValueError, match=r"another configuration \(images\.digest"):
        evaluate(tmp_path)


@pytest.mark.parametrize(
    "one, other, named",
    [
        ({"surrogate": 2}, {"surrogate": 3}, r"surrogate\.draws: there 2, now 3"),
        ({"ensemble": Ensemble(3)}, {"ensemble": Ensemble(3, attacked=1)}, r"ensemble\.attacked: there None, now 1"),
    ],
    ids=["surrogate", "ensemble"],
)
def test_whatever_attackers_see_of_a_defence_is_part_of_it(one, other, named, tmp_path):
    """A surrogate, and the copies that an attacker averages over, decide verdicts though they give none."""

    def run(surrogate=None, **options):
        purifier = None
        if surrogate is not None:
            means = torch.full((1, 1, 8, 8), 0.5)
            purifier = PurSAMERE(GaussianMixtureScore(means, 0.2), 0.4, 0.1, surrogate, [0.3])
        evaluate(tmp_path, n=2, surrogate=purifier, **options)

    run(**one)
    with pytest.raises(ValueError, match=named):
        run(**other)


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path):
    evaluate(tmp_path)
    lock = ResultsFolder(tmp_path / "out")
    with pytest.raises(OSError, match="another run"):
        evaluate(tmp_path)
    lock.release()
    evaluate(tmp_path)


# --- stored images


def test_stored_images_are_those_that_were_judged(tmp_path):
    _, plain = evaluate(tmp_path / "plain", {"bpda": PGD(THREAT, "bpda", 4)})
    _, rows = evaluate(tmp_path, {"bpda": PGD(THREAT, "bpda", 4)}, save_images=True)
    assert without_times(rows) == without_times(plain)
    purifier, classifier = world()
    x = Digits().load("test").images
    for system in ("PurSAMERE", "undefended"):
        mine = [row for row in rows if row["system"] == system]
        last, any_ = read_images(tmp_path / "out", mine)
        for images, kind in ((last, "last"), (any_, "any")):
            predicted = classifier(purifier(images) if system == "PurSAMERE" else images).argmax(1).tolist()
            assert all(row[f"prediction_{kind}"] in (None, p) for row, p in zip(mine, predicted, strict=True))
        clean = torch.stack([x[row["index"]] for row in mine])
        distance = (last - clean).flatten(1).abs().amax(1)
        assert distance.tolist() == pytest.approx([row["linf"] for row in mine], abs=1e-6)


@pytest.mark.parametrize("on", ["val", "test"])
def test_a_detector_is_calibrated_once_and_its_threshold_is_part_of_the_run(tmp_path, on):
    purifier, classifier = world()
    detector = ScoreNorm(purifier.score_model, 0.09, fpr=0.25)
    task = LitRobustness(
        purifier, classifier, ATTACKS, output=str(tmp_path / "out"), detector=detector, calibrate_on=on, pictures=0,
        success="any or rejected",
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    data = Digits(eval_batch_size=6, val_size=40, test_size=12)
    trainer.test(task, data, verbose=False)
    images = data.validation_images() if on == "val" else data.load("test").images[:12].float()
    assert len(images) == {"val": 40, "test": 12}[on]
    assert 0.25 - 1 / len(images) <= detector.rejects(images).float().mean() <= 0.25
    rows = read_rows(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["threshold"] == detector.threshold and "ScoreNorm" in manifest["systems"]["PurSAMERE"]
    defended = [row for row in rows if row["system"] == "PurSAMERE"]
    assert all(row["rejected_last"] == (row["statistic_last"] > float(f"{detector.threshold:.6g}")) for row in defended
               if abs(row["statistic_last"] - detector.threshold) > 1e-4)  # fmt: skip
    assert any(row["rejected_last"] for row in defended) and not any(
        row["votes_last"] for row in defended if row["rejected_last"]
    )
    assert all("rejected_last" not in row for row in rows if row["system"] == "undefended")
    for row in defended:
        assert row["unfooled_last"] == (1 if row["rejected_last"] else row["votes_last"])
        assert row["unfooled_any"] is None or row["votes_any"] <= row["unfooled_any"] <= row["unfooled_last"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "AUC" in report and "| accuracy (any or rejected) " in report and "| any " in report


def test_an_unknown_place_to_calibrate_and_no_images_to_calibrate_on_are_named(tmp_path):
    purifier, classifier = world()
    with pytest.raises(ValueError, match="train"):
        LitRobustness(purifier, classifier, {}, calibrate_on="train")
    with pytest.raises(ValueError, match="val_size"):
        Digits().validation_images()


def test_pictures_and_metrics_never_stand_between_verdicts_and_report(tmp_path, monkeypatch, capsys):
    def broken(*args):
        raise IndexError("tuple index out of range")

    monkeypatch.setattr("lit_pursamere.tasks.robustness.picture_grid", broken)
    attacks = {"dataloader_idx_0": ATTACKS["gray"]}  # a name that Lightning refuses for a metric
    metrics, rows = evaluate(tmp_path, attacks, n=4, pictures=2)
    assert len(rows) == 4 * 2 * 2 and "robustness/clean" in metrics
    assert "dataloader_idx_0" in (tmp_path / "out/report.md").read_text()
    told = capsys.readouterr().err
    assert told.count("there is no pictures.png (IndexError: tuple index out of range)") == 1
    assert told.count("there is no robustness/dataloader_idx_0") == 1


@pytest.mark.parametrize("names", [("zero", "one"), ("$\\foo$",) * 10, ()])
def test_pictures_come_whatever_the_classes_are_called(names, tmp_path, monkeypatch, capsys):
    """Fewer names than classes that are predicted, and names that would be mathematics."""
    monkeypatch.setattr(Digits, "class_names", names)
    evaluate(tmp_path, {"gray": ATTACKS["gray"]}, n=3, pictures=3)
    assert (tmp_path / "out/pictures.png").is_file() and (tmp_path / "out/report.md").is_file()
    assert "there is no" not in capsys.readouterr().err
