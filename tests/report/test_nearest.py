"""The published numbers nearest to a run: family, name, setting, doubt and strength decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_pursamere.report.nearest import family, nearest, published_family
from lit_pursamere.report.runs import AttackInfo, Run


def run(label, purifier, dataset="digits", **attacks):
    common = {"threat": {"norm": "linf", "eps": 0.15}, "steps": 20, "eot": 4}
    manifest = {
        "data": f"{dataset}, test images",
        "defenses": {purifier["class"]: {"purifier": purifier}},
        "attacks": {name: {"class": kind, "view": view, **common} for name, (kind, view) in attacks.items()},
    }
    return Run(Path(), manifest, [], label)


def found(label, purifier, **attacks):
    attacks = attacks or {"bpda": ("PGD", "bpda"), "exact": ("PGD", "exact")}
    cells = nearest(run(label, purifier, **attacks), purifier["class"], elsewhere=True)
    return {name: (cell.attack, cell.clean, cell.robust) for name, cell, _ in cells}


def info(kind, view):
    return AttackInfo({"class": kind, "view": view})


def of(kind, **settings):
    return {"class": kind, "noise": "fresh", **settings}


@pytest.mark.parametrize(
    ("label", "purifier", "beside_bpda", "beside_exact"),
    [
        ("DiffPure", of("DiffPure", sampler="sde"), ("BPDA50-EoT15", 89.02, 81.4), ("PGD20-EoT10", 89.26, 55.96)),
        ("PurSAMERE", of("PurSAMERE", rho_pur=2.5), ("BPDA20-det", 88.45, 63.35), None),
        ("DP_EDM", of("DP_EDM", s_churn=6.0), None, ("PGD20-EoT10", 86.43, 62.5)),
        ("DP_EDM ODE", of("DP_EDM", s_churn=0.0), None, ("PGD20-EoT10", 87.99, 60.45)),
        ("GDMP", of("GDMP", guide="ssim"), ("BPDA-EoT", 93.5, 76.22), ("PGD20-EoT10", 92.19, 38.18)),
        ("GDMP", of("GDMP", guide="mse"), ("BPDA-EoT", 93.5, 76.22), ("PGD20-EoT10", 91.8, 40.97)),
        ("DP_DDPM", of("DP_DDPM", steps=200, t_star=100), ("BPDA20-det", 85.94, 16.8), ("PGD20-EoT10", 81.45, 45.21)),
        ("DP_DDIM", of("DP_DDIM", steps=100, t_star=100), ("BPDA20-det", 88.38, 4.98), ("PGD20-EoT10", 88.96, 43.16)),
        ("ExtraCorrector", of("ExtraCorrector"), None, ("PGD20-EoT10", 85.25, 59.77)),
        ("MALADE", of("MALADE"), ("BPDA-EoT30", None, 82.48), ("PGD", None, 94.22)),
        ("MagNet", of("MALADE"), None, None),
        ("DiffPure_LD", of("DiffPureLD"), None, None),
        ("none", of("Identity"), None, ("PGD20-EoT10", 95.12, 0.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nearest_numbers(label, purifier, beside_bpda, beside_exact):
    expected = {"bpda": beside_bpda, "exact": beside_exact}
    assert found(label, purifier) == {name: cell for name, cell in expected.items() if cell}


def test_one_number_per_family_and_none_for_other_attacks():
    exact = ("PGD", "exact")
    assert list(found("ADP", of("ADP"), a=exact, b=exact, c=("Square", "exact"), d=("PGD", "first_order"))) == ["a"]


def test_the_same_data_set_comes_first():
    attacks = {"a": ("PGD", "exact")}
    (_, there), (_, here) = (
        nearest(run("DP_DDPM", of("DP_DDPM"), dataset, **attacks), "DP_DDPM", elsewhere=True)[0][:2]
        for dataset in ("digits", "cifar100")
    )
    assert (there.dataset, here.dataset) == ("cifar10", "cifar100") and there.attack == here.attack == "PGD20-EoT10"


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100"])
def test_numbers_of_other_images_or_budgets_are_left_out_unless_asked_for(dataset):
    evaluation = run("DP_DDPM", of("DP_DDPM"), dataset, a=("PGD", "exact"))
    assert nearest(evaluation, "DP_DDPM") == [] != nearest(evaluation, "DP_DDPM", elsewhere=True)
    for attack in evaluation.manifest["attacks"].values():
        attack["threat"] = {"norm": "linf", "eps": 8 / 255}
    assert [near.cell.dataset for near in nearest(evaluation, "DP_DDPM")] == ([dataset] if dataset != "digits" else [])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (info("PGD", "gray"), "gPGD20"),
        (info("PGD", "bpda"), "BPDA40-EoT15"),
        (info("PGD", "exact"), "PGD200-EoT20"),
        (info("APGD", "exact"), "APGD-CE"),
        (info("AutoAttack", "exact"), "AA rand"),
        (info("AutoAttack", "bpda"), "AutoAttack"),
        (info("CarliniWagnerL2", "bpda"), "CW"),
        (info("MIM", "bpda"), "MIM"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_families(ours, theirs):
    assert family(ours) == published_family(theirs)


def test_what_nothing_is_known_of_has_no_family():
    assert family(AttackInfo()) == "" and family(info("PGD", "first_order")) == ""
