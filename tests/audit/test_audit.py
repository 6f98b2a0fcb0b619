"""The audit catches what it is there for: masked gradients, weak attacks, lucky draws; and clears what is sound."""

import json
import re

import pytest
import torch
from torch import nn

from lit_pursamere.attacks import PGD, Square
from lit_pursamere.audit import CHECKS, Checklist, Examination, Trial, choose_attack
from lit_pursamere.audit.checklist import examine
from lit_pursamere.cli.main import main
from lit_pursamere.defense import Defense
from lit_pursamere.defense.detectors import Detector
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.purifiers import Identity, Purifier, PurSAMERE
from lit_pursamere.store import ResultsFolder
from lit_pursamere.threat import ThreatModel

SHAPE = (1, 8, 8)


class Quantise(Purifier):
    """Rounds pixels: harmless to a linear classifier, but without a gradient."""

    def purify(self, x, noise):
        return (x * 16).round() / 16


class Shiver(Purifier):
    """Adds fresh noise."""

    def purify(self, x, noise):
        return x + 0.3 * torch.randn_like(x)


def world(purifier=None, classes=4):
    """Nearest of some mean images, a linear classifier, and 32 noisy images of them."""
    rng = torch.Generator().manual_seed(1)
    means = torch.rand((classes, *SHAPE), generator=rng)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    with torch.no_grad():
        network[1].weight.copy_(2 * means.flatten(1))
        network[1].bias.copy_(-means.flatten(1).square().sum(1))
    y = torch.arange(classes).repeat(32 // classes)
    x = (means[y] + 0.2 * torch.randn((32, *SHAPE), generator=rng)).clamp(0, 1)
    return Defense(purifier or Identity(), network), x, y


def findings(defense, attack, x, y, checks=CHECKS, queries=200, evaluations=1):
    exam = Examination(Trial(defense, "it", attack, x, y, evaluations=evaluations), queries, planted=8)
    return {check: examine(exam, check) for check in checks}


@pytest.mark.parametrize("norm, eps, falls", [("linf", 0.05, False), ("linf", 0.2, True), ("l2", 1.6, True)])
def test_a_linear_model_passes(norm, eps, falls):
    """Between two classes nothing beats the gradient of a linear model, whether or not its images fall."""
    defense, x, y = world(classes=2)
    attack = PGD(ThreatModel(norm, eps), "exact", 20, loss="margin")
    assert Examination(Trial(defense, "it", attack, x, y)).broken(attack).any() == falls
    found = findings(defense, attack, x, y)
    assert {check: f for check, f in found.items() if f.verdict not in ("pass", "n/a")} == {}
    assert [check for check, f in found.items() if f.verdict == "n/a"] == ["undefended", "transfer", "views"]


def test_steps_that_push_against_the_wall_are_caught():
    """The l1 step moves the pixels with the largest gradients; on a linear model these are soon at the wall."""
    defense, x, y = world(classes=2)
    found = findings(defense, PGD(ThreatModel("l1", 12.0), "exact", 40, loss="margin"), x, y, ["radius", "planted"])
    assert {f.verdict for f in found.values()} == {"fail"}


def test_masked_gradients_are_caught():
    defense, x, y = world(Quantise())
    found = findings(defense, PGD(ThreatModel("linf", 0.25), "exact", 20), x, y)
    failed = {check for check, f in found.items() if f.verdict == "fail"}
    assert failed >= {"gradients", "transfer", "views", "radius", "planted"}
    assert "exact 32" in found["gradients"].detail and "bpda 0" in found["gradients"].detail


def test_masked_gradients_show_by_queries_too():
    defense, x, y = world(Quantise())
    found = findings(defense, PGD(ThreatModel("linf", 0.25), "exact", 5), x, y, ["black_box"], queries=3000)
    assert found["black_box"].verdict == "fail"


def test_the_same_defence_is_cleared_under_the_view_that_works():
    defense, x, y = world(Quantise())
    found = findings(defense, PGD(ThreatModel("linf", 0.25), "bpda", 20, loss="margin"), x, y)
    assert {check for check, f in found.items() if f.verdict == "fail"} == set()


def test_a_weak_attack_is_caught():
    defense, x, y = world()
    weak = PGD(ThreatModel("linf", 0.25), "exact", steps=2, step_size=0.01)
    found = findings(defense, weak, x, y, ("single_step", "random_search", "black_box", "radius", "planted"))
    assert found["single_step"].verdict == "fail"
    assert found["planted"].verdict == "fail"
    assert found["radius"].verdict == "fail"


def test_a_lucky_defence_is_caught():
    torch.manual_seed(0)
    defense, x, y = world(Shiver())
    assert findings(defense, PGD(ThreatModel("linf", 0.1), "exact", 2), x, y, ["deterministic"], evaluations=3)[
        "deterministic"
    ].detail.endswith("needs eot > 1")
    sound = findings(defense, PGD(ThreatModel("linf", 0.1), "exact", 2, eot=4), x, y, ["deterministic"], evaluations=3)
    assert sound["deterministic"].verdict == "pass"


def test_only_images_that_are_right_are_examined():
    defense, x, y = world()
    y = y.clone()
    y[:3] = (y[:3] + 1) % 4
    exam = Examination(Trial(defense, "it", PGD(ThreatModel("linf", 0.1), "exact", 2), x, y))
    assert exam.index.tolist() == list(range(3, 32))
    with pytest.raises(ValueError, match="none of the 3 images right"):
        Examination(Trial(defense, "it", PGD(ThreatModel("linf", 0.1), "exact", 2), x[:3], y[:3]))


def test_attacks_that_lack_a_setting_are_not_applicable():
    defense, x, y = world()
    found = findings(defense, Square(ThreatModel("linf", 0.1), queries=5), x, y, ["restarts", "converged", "losses"])
    assert {f.verdict for f in found.values()} == {"n/a"}


def test_gained_counts_only_what_the_trial_attack_left():
    defense, x, y = world()
    weak, strong = (PGD(ThreatModel("linf", 0.25), "exact", n, step_size=0.02) for n in (6, 40))
    exam = Examination(Trial(defense, "it", weak, x, y))
    expected = exam.broken(strong) & ~exam.broken(weak)
    assert expected.any() and torch.equal(exam.gained(strong), expected)
    assert torch.equal(exam.left & ~exam.fallen, ~exam.broken(strong))


class Counted(Identity):
    calls = 0

    def forward(self, x, noise=None):
        Counted.calls += 1
        return x


def test_an_audit_that_was_stopped_goes_on(tmp_path):
    defense, x, y = world(Counted())
    audit = Checklist(queries=20, planted=2, checks=["single_step", "planted"], output=str(tmp_path / "out"))
    attack = PGD(ThreatModel("linf", 0.2), "exact", 5)
    first = audit.run(Trial(defense, "PGD5", attack, x, y))
    assert (tmp_path / "out/audit.md").read_text() == first.text and "| single_step |" in first.text
    asked, (head, *rows), summary = json.loads((tmp_path / "out/audit.json").read_text())
    assert asked in first.text and head[0] == "check" and [row[0] for row in rows] == ["single_step", "planted"]
    assert summary.startswith(f"{first.headline}. Of the examined images")
    verdicts = json.loads((tmp_path / "out/verdicts.json").read_text())
    (tmp_path / "out/verdicts.json").write_text(json.dumps(dict(list(verdicts.items())[:3])))
    Counted.calls = 0
    assert audit.run(Trial(defense, "PGD5", attack, x, y)) == first
    resumed, Counted.calls = Counted.calls, 0
    assert audit.run(Trial(defense, "PGD5", attack, x, y)) == first
    assert Counted.calls == 0 < resumed
    with pytest.raises(ValueError, match="another configuration"):
        audit.run(Trial(defense, "PGD6", PGD(ThreatModel("linf", 0.2), "exact", 6), x, y))


@pytest.mark.parametrize("content", ["[1", "[1]", '{"correct": "yes"}', "\x00"])
def test_verdicts_that_are_damaged_are_named(content, tmp_path):
    defense, x, y = world()
    (tmp_path / "verdicts.json").write_text(content)
    with pytest.raises(ValueError, match=r"verdicts\.json is damaged \(.*\); remove it, and start the audit again"):
        Examination(Trial(defense, "it", PGD(ThreatModel("linf", 0.1)), x, y), store=tmp_path / "verdicts.json")


def test_a_stochastic_defence_that_was_stopped_goes_on_to_the_same_findings(tmp_path):
    """Every question has draws of its own, whichever were answered before."""
    defense, x, y = world(Shiver())
    checks = ["deterministic", "single_step", "restarts", "planted"]
    audit = Checklist(queries=20, planted=3, checks=checks, output=str(tmp_path / "out"))
    attack, file = PGD(ThreatModel("linf", 0.2), "exact", 2, eot=2), tmp_path / "out/verdicts.json"
    first = audit.run(Trial(defense, "PGD2", attack, x, y, evaluations=3, seed=1))
    verdicts = json.loads(file.read_text())
    for kept in (1, 2, 4):
        file.write_text(json.dumps(dict(list(verdicts.items())[:kept])))
        torch.manual_seed(kept)
        assert audit.run(Trial(defense, "PGD2", attack, x, y, evaluations=3, seed=1)) == first
        assert json.loads(file.read_text()) == verdicts


def pursamere(**settings) -> PurSAMERE:
    means = torch.rand((2, *SHAPE), generator=torch.Generator().manual_seed(2))
    return PurSAMERE(GaussianMixtureScore(means, 0.1), 0.5, 0.1, 1, [0.3, 0.1], **settings)


@pytest.mark.parametrize(
    "other, named",
    [
        ({"lr_max": 0.05}, "defense.purifier.lr_max: there 0.1, now 0.05"),
        ({"lr_schedule": "as_printed"}, "defense.purifier.lr_schedule"),
        ({"pixel": 0.5}, "images.digest"),
        ({"label": 3}, "images.digest"),
        ({"seed": 1}, "seed: there 0, now 1"),
        ({"data": "others"}, "data: there 'digits', now 'others'"),
        ({"batch": 8}, "batch: there 64, now 8"),
        ({"precision": "64-true"}, "precision: there '32-true', now '64-true'"),
        ({"classifier": 1.5}, "weights"),
    ],
    ids=str,
)
def test_an_audit_answers_for_nothing_else(other, named, tmp_path):
    """A folder's answers are given again only to the very question that was asked."""
    _, x, y = world()
    audit = Checklist(queries=4, planted=1, checks=["single_step"], output=str(tmp_path / "out"))
    attack = PGD(ThreatModel("linf", 0.1), "bpda", 1)

    def ask(pixel=None, label=None, seed=0, data="digits", batch=64, classifier=1.0, precision="32-true", **settings):
        defense = world(pursamere(**settings))[0]
        defense.classifier[1].weight.data.mul_(classifier)
        images, classes = x.clone(), y.clone()
        images[2, 0, 0, 0] = images[2, 0, 0, 0] if pixel is None else pixel
        classes[2] = classes[2] if label is None else label
        trial = Trial(defense, "PGD1", attack, images, classes, batch=batch, seed=seed, data=data, precision=precision)
        return audit.run(trial)

    assert ask() == ask()
    with pytest.raises(ValueError, match="another configuration.*" + re.escape(named)):
        ask(**other)


def test_an_audit_keeps_others_out_of_its_folder(tmp_path):
    defense, x, y = world()
    lock = ResultsFolder(tmp_path)
    with pytest.raises(OSError, match="another run"):
        Checklist(output=str(tmp_path)).run(Trial(defense, "PGD", PGD(ThreatModel("linf", 0.1)), x, y))
    lock.release()


def test_mistakes_name_the_value_and_the_mend():
    with pytest.raises(ValueError, match="no check gradient; known: deterministic, gradients"):
        Checklist(checks=["gradient"])
    with pytest.raises(ValueError, match="images >= 1; got 0"):
        Checklist(images=0)
    attacks = {"a": PGD(ThreatModel("linf", 0.1), "gray"), "b": PGD(ThreatModel("linf", 0.1), "bpda")}
    assert choose_attack(None, attacks) == "b"
    with pytest.raises(ValueError, match="no attack 'c'; it has a, b"):
        choose_attack("c", attacks)
    with pytest.raises(ValueError, match="the configuration has none"):
        choose_attack(None, {})


@pytest.mark.slow
def test_from_the_command_line(repository_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(repository_root)
    args = [
        "audit", "--config=configs/digits/robustness.yaml", "--trainer.logger=false",
        "--model.purifier.sigmas.stride=8",
        "--model.attacks.BPDA20-det.steps=3", "--audit.images=6", "--audit.checks=[gradients,single_step]",
        f"--audit.output={tmp_path}/audit",
    ]  # fmt: skip
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "Audit of BPDA20-det (PGD, linf 0.15, view bpda)" in out and "| single_step |" in out
    assert main([*args, "--audit.attack=FGSM"]) == 1
    assert "has no attack 'FGSM'; it has gPGD20, BPDA20-det" in capsys.readouterr().err
    assert main(["audit", "--config=configs/digits/score.yaml"]) == 1
    assert "an audit needs the configuration of a `test`; its model is LitScoreModel" in capsys.readouterr().err


class Everything(Detector):
    """Rejects every image."""

    def statistic(self, x):
        return x.flatten(1).sum(1) + 1


def test_that_a_detector_is_left_out_is_said(tmp_path):
    defense, x, y = world(classes=2)
    guarded = Defense(Identity(), defense.classifier, detector=Everything(threshold=0.5))
    attack, texts = PGD(ThreatModel("linf", 0.2), "exact", 2), []
    for audited in (defense, guarded):
        audit = Checklist(output=str(tmp_path / str(len(texts))), checks=["single_step"])
        texts.append(audit.run(Trial(audited, "PGD", attack, x, y)).text)
    said = "The detector Everything(threshold=0.5, fpr=None) is left out: nothing was rejected."
    assert texts[1] == f"{texts[0]}\n{said}\n", "the findings are those of purifier and classifier"
