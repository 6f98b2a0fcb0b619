"""A published number stands beside a run only if the run has every setting that its source states."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from lit_pursamere import purifiers
from lit_pursamere.attacks import PGD, AutoAttack
from lit_pursamere.diffusion import GaussianMixtureScore, NoiseLevels
from lit_pursamere.report.nearest import nearest
from lit_pursamere.report.published import all_published, differences, published, same_classifier
from lit_pursamere.report.report import Report, make_report
from lit_pursamere.report.runs import Run
from lit_pursamere.store.manifest import setting_of
from lit_pursamere.threat import Pixels, ThreatModel

LINF, L2, L1 = ThreatModel("linf", Pixels("8/255")), ThreatModel("l2", Pixels(0.5)), ThreatModel("l1", Pixels(12))
LEVELS = setting_of(NoiseLevels())
LIU = PGD(LINF, "exact", 20, step_size=Pixels("2/255"), eot=10)
LEEKIM = PGD(LINF, "exact", 200, step_size=0.007, eot=20)
ADBM = replace(LEEKIM, start="box-noise")
FIXED, ORIGINAL = (AutoAttack(LINF, "exact", version="rand", decision=kind) for kind in ("mean", "original"))
BPDA = PGD(LINF, "bpda", 20, step_size=Pixels("2/255"))


def settings(kind: str, **changes) -> dict:
    """The constructor arguments of a purifier of ours, at their defaults but for the changes."""
    asked = inspect.signature(getattr(purifiers, kind).__init__).parameters.values()
    defaults = {p.name: p.default for p in asked if p.default is not p.empty}
    nested = {"score_model": {"class": "SomeScore"}} | ({"sigmas": LEVELS} if "sigmas" in defaults else {})
    return {"class": kind, **defaults, **nested, "noise": getattr(purifiers, kind).knowledge, **changes}


@pytest.mark.parametrize("kind", ["PurSAMERE", "DP_DDPM", "DiffPure", "GDMP"])
def test_the_settings_below_are_those_of_purifiers(kind):
    real = getattr(purifiers, kind)(GaussianMixtureScore([[[[0.5]]]])).settings
    assert real == settings(kind, score_model=real["score_model"])


def run(kind: str, attacks: dict, dataset: str = "cifar10", label: str = "", **changes) -> Run:
    """An evaluation of a purifier under attacks, one image each."""
    rows = [{"system": kind, "attack": name, "index": 0, "evaluations": 1, "votes_last": 1, "votes_any": 1}
            for name in ("clean", *attacks)]  # fmt: skip
    manifest = {
        "data": f"{dataset}, test images",
        "systems": {kind: kind},
        "defenses": {kind: {"purifier": settings(kind, **changes)}},
        "attacks": {name: attack.settings for name, attack in attacks.items()},
    }
    return Run(Path(), manifest, rows, label or kind)


def beside(evaluation: Run) -> list[tuple[float | None, float]]:
    """What a report shows beside a run, (clean, robust) for every attack; nothing where it shows nothing."""
    papers = [line.paper for line in Report((evaluation,)).lines if line.attack in evaluation.attacks]
    return [(paper.clean, paper.robust) for paper in papers if paper]


@pytest.mark.parametrize(
    ("kind", "changes", "name", "attack", "expected"),
    [
        ("DP_DDPM", {"steps": 1000}, "PGD20-EoT10", LIU, (85.94, 47.27)),
        ("DP_DDPM", {"steps": 500}, "PGD20-EoT10", LIU, (85.54, 46.78)),
        ("DP_DDPM", {"steps": 200}, "PGD20-EoT10", LIU, (81.45, 45.21)),
        ("DP_DDPM", {"steps": 100}, "PGD20-EoT10", LIU, (73.34, 36.72)),
        ("DP_DDPM", {"steps": 50}, "PGD20-EoT10", LIU, (49.51, 21.78)),
        ("DP_DDPM", {"steps": 250}, "PGD20-EoT10", LIU, None),
        ("DP_DDPM", {"t_star": 50}, "PGD20-EoT10", LIU, None),
        ("DP_DDPM", {"noise": "fixed"}, "PGD20-EoT10", LIU, None),
        ("DP_DDPM", {"noise": "forward"}, "PGD20-EoT10", LIU, None),
        ("DP_DDPM", {"training": "addt"}, "PGD20-EoT10", LIU, (85.64, 51.46)),
        ("DP_DDIM", {"steps": 1000}, "PGD20-EoT10", LIU, (88.38, 42.19)),
        ("DP_DDIM", {"steps": 500}, "PGD20-EoT10", LIU, (88.96, 42.48)),
        ("DP_DDIM", {"steps": 200}, "PGD20-EoT10", LIU, (87.89, 41.7)),
        ("DP_DDIM", {"steps": 100}, "PGD20-EoT10", LIU, (88.96, 43.16)),
        ("DP_DDIM", {"steps": 50}, "PGD20-EoT10", LIU, (89.65, 42.19)),
        ("DP_EDM", {}, "PGD20-EoT10", LIU, (86.43, 62.5)),
        ("DP_EDM", {"s_churn": 0.0}, "PGD20-EoT10", LIU, (87.99, 60.45)),
        ("DP_EDM", {"s_churn": 6.0, "steps": 10}, "PGD20-EoT10", LIU, None),
        ("GDMP", {"guide": "none"}, "PGD20-EoT10", LIU, (91.41, 40.82)),
        ("GDMP", {"guide": "ssim"}, "PGD20-EoT10", LIU, (92.19, 38.18)),
        ("GDMP", {"guide": "mse"}, "PGD20-EoT10", LIU, (91.8, 40.97)),
        ("DiffPure", {}, "PGD20-EoT10", LIU, (89.26, 55.96)),
        ("DiffPure", {"sampler": "ode"}, "PGD20-EoT10", LIU, None),
        ("ExtraCorrector", {}, "PGD20-EoT10", LIU, (85.25, 59.77)),
        ("COUP", {}, "PGD20-EoT10", LIU, (90.33, 50.78)),
        ("COUP", {"lam": 0.0}, "PGD20-EoT10", LIU, None),
        ("DiffPure", {}, "AA rand", FIXED, (89.26, 56.25)),
        ("DiffPure", {}, "AA rand", ORIGINAL, (None, 62.11)),
        ("DiffPure", {}, "PGD200-EoT20", ADBM, (92.5, 42.2)),
        ("DiffPure", {}, "PGD200-EoT20", LEEKIM, None),
        ("DiffPure", {}, "PGD20-EoT1", replace(LIU, eot=1), (89.26, 69.04)),
        ("DiffPure", {}, "PGD20-EoT10", replace(LIU, eot=1), None),
        ("DiffPure", {}, "PGD20-EoT10", replace(LIU, view="bpda"), None),
        ("DiffPure", {}, "PGD20-EoT10", replace(LIU, threat=ThreatModel("linf", 0.1)), None),
        ("ADBM", {}, "PGD200-EoT20", ADBM, None),
        ("MALADE", {}, "BPDA", replace(BPDA, threat=ThreatModel("linf", 0.3)), None),
        ("PurSAMERE", {}, "gPGD20", replace(BPDA, view="gray"), (85.68, 84.17)),
        ("PurSAMERE", {}, "BPDA20-det", BPDA, (85.68, 69.08)),
        ("PurSAMERE", {"rho_pur": 2.5}, "BPDA20-det linf", BPDA, (88.45, 63.35)),
        ("PurSAMERE", {"rho_pur": 2}, "BPDA20-det", BPDA, (91.18, 48.17)),
        ("PurSAMERE", {"rho_pur": 1.5}, "BPDA20-det", BPDA, None),
        ("PurSAMERE", {"seed": 7}, "BPDA20-det", BPDA, (85.68, 69.08)),
        ("PurSAMERE", {"noise": "fresh"}, "BPDA20-det", BPDA, None),
        ("PurSAMERE", {"sigmas": LEVELS | {"count": 22}}, "BPDA20-det", BPDA, None),
        ("PurSAMERE", {"sigmas": LEVELS | {"stride": 25}}, "BPDA20-det", BPDA, None),
        ("PurSAMERE", {}, "BPDA20-det", replace(BPDA, steps=4), None),
        ("PurSAMERE", {}, "BPDA200-det l1", PGD(L1, "bpda", 200), (84.6, 66.9)),
        ("Identity", {}, "PGD20-EoT10 l2", replace(LIU, threat=L2), (95.12, 1.46)),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value) if isinstance(value, dict) else "",
)
def test_a_report_shows_a_number_of_the_same_settings_or_none(kind, changes, name, attack, expected):
    assert beside(run(kind, {name: attack}, **changes)) == ([expected] if expected else [])


def test_another_data_set_has_its_own_numbers():
    assert beside(run("DP_DDPM", {"PGD20-EoT10": LIU}, "cifar100")) == [(57.52, 20.41)]
    assert beside(run("DP_DDPM", {"PGD20-EoT10": LIU}, "digits")) == []


@pytest.mark.parametrize(("label", "expected"), [("CNN", 11.77), ("Madry", 97.52), ("Madry AdverTorch", 97.52)])
def test_of_several_classifiers_that_one_counts_which_the_run_is_named_after(label, expected, rows, write_run):
    attack = setting_of(PGD(ThreatModel("linf", 0.3), "exact", 1, step_size=0.3))
    records = [*rows("undefended", "clean", "+"), *rows("undefended", "FGSM", "-")]
    report = make_report([write_run(label, records, {"FGSM": attack}, data="mnist, test images")])
    assert [line.paper_value for line in report.lines if line.attack == "FGSM"] == [expected]


def test_the_clean_number_is_that_of_the_first_attack_that_agrees():
    attacks = {"PGD20-EoT10": replace(LIU, eot=2), "BPDA200-det": PGD(LINF, "bpda", 200), "BPDA20-det": BPDA}
    report = Report((run("PurSAMERE", attacks),))
    assert [line.paper_value for line in report.lines] == [84.6, None, 67.9, 69.08, None]


def test_every_setting_that_a_source_states_counts():
    """No setting of any row can be changed in a run without a difference of its name."""
    cell = next(cell for cell in published("DP_DDPM", "PGD20-EoT10") if cell.robust == 47.27)
    agreeing = run("DP_DDPM", {"a": LIU})
    assert differences(cell, agreeing, "DP_DDPM", "a") == {}
    for name in cell.settings:
        assert list(differences(replace(cell, setting=f"{name}=-1"), agreeing, "DP_DDPM", "a")) == [name]


def test_differences_are_told():
    evaluation = run("DP_DDIM", {"a": replace(LIU, threat=ThreatModel("linf", 0.15), eot=4)}, "digits", steps=200)
    (near,) = nearest(evaluation, "DP_DDIM", elsewhere=True)
    assert (near.attack, near.cell.clean, near.cell.robust) == ("a", 87.89, 41.7)
    assert list(near.differences.values()) == [
        "cifar10 there, digits here", "linf 8/255 there, linf 0.15 here", "attack.eot=10 there, 4 here",
    ]  # fmt: skip
    bridge = next(cell for cell in published("ADBM", "PGD200-EoT20") if cell.norm == "linf")
    found = differences(bridge, run("ADBM", {"a": ADBM}, noise=128), "ADBM", "a")
    assert found == {"noise": "noise=fresh there, 128 here", "training": "training=bridge there, not stated here"}
    trained = {"class": "SomeScore", "training": "bridge"}
    assert not differences(bridge, run("ADBM", {"a": ADBM}, score_model=trained), "ADBM", "a")


def test_a_run_without_settings_agrees_with_nothing_that_is_stated():
    silent = run("DP_DDPM", {"PGD20-EoT10": LIU})
    silent.manifest["defenses"] = {}
    assert beside(silent) == []


def test_known_numbers_are_found():
    for question, clean, robust, source in (
        (("PurSAMERE", "gPGD20"), 85.68, 84.17, "Hoang et al. 2026, Table 1"),
        (("DP_DDPM", "PGD20-EoT10"), 85.94, 47.27, "Liu et al. 2025 (anonymous version), Table 3"),
        (("COUP", "AutoAttack"), 90.04, 73.05, "Zhang et al. 2024, Table 1"),
        (("MALADE", "BPDA-EoT30"), None, 82.48, "Srinivasan et al. 2021, Table 2"),
    ):
        cell = published(*question)[0]
        assert (cell.clean, cell.robust, cell.source) == (clean, robust, source)


def test_names_are_compared_loosely():
    cells = published("PurSAMERE", "BPDA200-det")
    assert cells and cells == published("pursamere", "BPDA200-det linf 8/255")
    assert published("Identity", "PGD20-EoT10") == published("undefended", "PGD20-EoT10") != []
    assert published("PurSAMERE", "BPDA20") == [] == published("Identity", "BPDA20-det")


@pytest.mark.parametrize(
    ("system", "attack", "words"),
    [
        ("ADBM", "PGD200-EoT20", "exact gradients"),
        ("MALADE", "PGD", "masked"),
        ("DP_DDPM", "BPDA20-det", "all noise known"),
    ],
)
def test_doubts_are_said(system, attack, words):
    assert words in published(system, attack)[0].doubtful


def test_the_swapped_pair_and_the_copied_column_are_marked():
    table = [cell for cell in all_published() if cell.source.startswith("Hoang et al. 2026, Table 2")]
    assert {cell.robust for cell in table if "swapped" in cell.doubtful} == {17.09, 39.16}
    copied = [cell for cell in all_published() if "copy error" in cell.doubtful]
    assert sorted(cell.robust for cell in copied) == [44.73, 48.63, 71.68, 72.27]
    assert not any(cell.doubtful for cell in all_published() if cell.system == "PurSAMERE")


def test_the_table_is_sound():
    cells = all_published()
    assert len(cells) == 361 and len(set(cells)) == len(cells)
    for cell in cells:
        assert 0 <= cell.robust <= 100 and (cell.clean is None or cell.robust <= cell.clean + 0.01)
        assert (cell.norm is None) == (cell.eps is None) and cell.norm in (None, "linf", "l2", "l1")
        assert "et al. 20" in cell.source and cell.n in (None, 512, 1000, 1024, 10_000)
        assert len(cell.settings) == len(cell.setting.split()), "no name twice"
        assert "attack.class" in cell.settings or (cell.attack, cell.settings["process"]) == ("FID", "sampling")


def test_numbers_of_other_sources_are_told_apart():
    """The two versions of one paper, numbers at second hand, and what is no accuracy."""
    liu = {cell.source.partition(", Table")[0] for cell in all_published() if cell.source.startswith("Liu")}
    assert liu == {"Liu et al. 2025 (anonymous version)"}
    for cell in all_published():
        rival = cell.source.startswith("Hoang") and cell.system != "PurSAMERE"
        assert rival == (", of " in cell.source)
    distances = {cell.settings["training"]: cell.robust for cell in all_published() if cell.attack == "FID"}
    assert distances == {"none": 3.196, "vanilla": 3.5, "addt": 5.19, "addt-linf": 13.608}
    trained = {c.system: c.robust for c in all_published() if "5.4.1" in c.source and c.attack == "APGD-CE"}
    assert trained == {"undefended": 70.9, "COUP": 77.15}


def test_settings_are_named_as_our_constructors_name_them():
    """A slip in a name would make its number unreachable, so that nobody would notice."""
    foreign = {"training", "process", "lambda_unit"}
    for cell in all_published():
        known = set(settings(cell.system)) if hasattr(purifiers, cell.system) else set()
        own = {name.partition(".")[0] for name in cell.settings} - foreign - {"attack"}
        assert own <= known, (cell.system, own - known)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a file of one's own numbers."""
    file = tmp_path / "own.csv"
    monkeypatch.setenv("LIT_PURSAMERE_PUBLISHED", str(file))
    all_published.cache_clear()
    yield lambda *lines: file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    all_published.cache_clear()


HEAD = "dataset,system,classifier,setting,attack,norm,eps,clean,robust,n,source,doubtful"


def test_numbers_of_ones_own_stand_beside_those_of_the_package(own):
    own(HEAD, 'digits,Blur,WRN-10-2,sigma=0.2,BPDA20,linf,0.15,97.5,41.0,397,"Doe 2026, Table 1",')
    (cell,) = published("Blur", "BPDA20")
    assert (cell.dataset, cell.robust, cell.settings) == ("digits", 41.0, {"sigma": "0.2"})
    assert published("PurSAMERE", "gPGD20")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((HEAD, "digits,Blur,,,BPDA20,linf,wide,97.5,41.0,397,Doe,"), "own.csv, line 2: .*wide"),
        (("dataset,system",), "own.csv needs the columns dataset, system, classifier"),
    ],
)
def test_a_file_that_is_none_is_refused(own, lines, message):
    own(*lines)
    with pytest.raises(ValueError, match=message):
        all_published()


@pytest.mark.parametrize(("label", "classifier", "same"), [
    ("MALADE CNN", "CNN", True), ("MALADE (CNN)", "CNN", True), ("MALADE Madry", "CNN", False),
    ("MALADE sampler (plain DAE)", "", False),
])  # fmt: skip
def test_a_label_names_a_classifier(label, classifier, same):
    cell = replace(all_published()[0], classifier=classifier)
    assert same_classifier(cell, run("MALADE", {}, label=label)) == same
