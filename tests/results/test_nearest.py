"""The published numbers nearest to a run: family, name, setting, doubt and strength decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_pursamere.results.nearest import family, nearest, published_family
from lit_pursamere.results.runs import AttackInfo, Run


def run(label, description, dataset="digits", **attacks):
    manifest = {
        "data": f"{dataset}, test images",
        "systems": {description.partition("(")[0]: description},
        "attacks": {
            name: {"attack": f"{kind}(...)", "gradient": view, "norm": "linf", "eps": 0.15, "steps": 20}
            for name, (kind, view) in attacks.items()
        },
    }
    return Run(Path(), manifest, [], label)


def found(label, description, **attacks):
    attacks = attacks or {"bpda": ("PGD", "bpda"), "exact": ("PGD", "exact")}
    cells = nearest(run(label, description, **attacks), description.partition("(")[0])
    return {name: (cell.attack, cell.clean, cell.robust) for name, cell in cells}


@pytest.mark.parametrize(
    ("label", "description", "beside_bpda", "beside_exact"),
    [
        ("DiffPure", "DiffPure(sampler=sde)", ("BPDA50-EoT15", 89.02, 81.4), ("PGD20-EoT10", 89.26, 55.96)),
        ("PurSAMERE", "PurSAMERE(rho_pur=2.5)", ("BPDA20-det", 88.45, 63.35), None),
        ("DP_EDM", "DP_EDM(s_churn=6)", None, ("PGD20-EoT10", 86.43, 62.5)),
        ("DP_EDM ODE", "DP_EDM(s_churn=0)", None, ("PGD20-EoT10", 87.99, 60.45)),
        ("GDMP", "GDMP(guide=ssim)", ("BPDA-EoT", 93.5, 76.22), ("PGD20-EoT10", 92.19, 38.18)),
        ("GDMP", "GDMP(guide=mse)", ("BPDA-EoT", 93.5, 76.22), ("PGD20-EoT10", 91.8, 40.97)),
        ("whatever", "ExtraCorrector()", None, ("PGD20-EoT10", 85.25, 59.77)),
        ("MALADE", "MALADE()", ("BPDA-EoT30", None, 82.48), ("PGD", None, 94.22)),
        ("MagNet", "MALADE()", None, None),
        ("DiffPure_LD", "DiffPureLD()", None, None),
        ("none", "Identity()", None, ("PGD20-EoT10", 95.12, 0.0)),
    ],
    ids=lambda value: value if isinstance(value, str) and "(" not in value else "",
)
def test_nearest_numbers(label, description, beside_bpda, beside_exact):
    expected = {"bpda": beside_bpda, "exact": beside_exact}
    assert found(label, description) == {name: cell for name, cell in expected.items() if cell}


def test_one_number_per_family_and_none_for_other_attacks():
    exact = ("PGD", "exact")
    assert list(found("ADP", "ADP()", a=exact, b=exact, c=("Square", "exact"), d=("PGD", "first_order"))) == ["a"]


def test_the_same_data_set_comes_first():
    attacks = {"a": ("APGD", "exact")}
    (_, there), (_, here) = (
        nearest(run("COUP", "COUP()", dataset, **attacks), "COUP")[0] for dataset in ("digits", "cifar100")
    )
    assert here.dataset == "cifar100" and there.attack == here.attack == "APGD-CE"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (AttackInfo("PGD(x)", "gray"), "gPGD20"),
        (AttackInfo("PGD(x)", "bpda"), "BPDA40-EoT15"),
        (AttackInfo("PGD(x)", "exact"), "PGD200-EoT20"),
        (AttackInfo("APGD(x)", "exact"), "APGD-CE"),
        (AttackInfo("AutoAttack(x)", "exact"), "AA rand"),
        (AttackInfo("AutoAttack(x)", "bpda"), "AutoAttack"),
        (AttackInfo("CarliniWagnerL2(x)", "bpda"), "CW"),
        (AttackInfo("MIM(x)", "bpda"), "MIM"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_families(ours, theirs):
    assert family(ours) == published_family(theirs)


def test_what_nothing_is_known_of_has_no_family():
    assert family(AttackInfo()) == "" and family(AttackInfo("PGD(x)", "first_order")) == ""
