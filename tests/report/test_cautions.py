"""Every caution fires on the case that would mislead, and is silent on an honest one."""

from __future__ import annotations

import pytest

from lit_pursamere.report import FORMATS, INTERVALS, as_html, as_json, make_report
from lit_pursamere.report.cautions import WIDEST, images_needed
from lit_pursamere.store.costs import Cost, write_cost

EPS = 8 / 255
MANY = 200
RIGHT, MOST, HALF = "+" * MANY, "+" * 180 + "-" * 20, "+" * 100 + "-" * 100
LEVELS = {"class": "NoiseLevels", "sigma_max": 50.0, "sigma_min": 0.01, "count": 232, "stride": 1}
PAPER = {"class": "PurSAMERE", "rho_pur": 3.0, "rho_sam": 1.5, "draws": 4, "sigmas": LEVELS, "noise": "fixed"}
FRESH = {"class": "Mine", "noise": "fresh"}


@pytest.fixture
def cautions(rows, pgd, write_run, tmp_path):
    """A report of one system: cautions(purifier's settings, clean verdicts, NAME=attack with its `verdicts`)."""

    def found(purifier=PAPER, clean=RIGHT, evaluations=1, cost=None, **attacks):
        system = purifier["class"]
        attacks = attacks or {"gPGD20": pgd(EPS, view="gray"), "PGD20": pgd(EPS, view="exact")}
        verdicts = {name: attack.pop("verdicts", HALF) for name, attack in attacks.items()}
        records = rows(system, "clean", clean, evaluations=evaluations)
        for name, right in verdicts.items():
            records += rows(system, name, right, right, evaluations=evaluations)
        records = [row | {k: v and v * evaluations for k, v in row.items() if k.startswith("votes")} for row in records]
        folder = write_run(
            f"run{len([*tmp_path.iterdir()])}", records, attacks,
            data="cifar10, test images", evaluations=evaluations, defenses={system: {"purifier": purifier}},
        )  # fmt: skip
        if cost is not None:
            write_cost(folder, Cost("", "", {}, 1, 1.0, cost, "", 1, ""))
        return make_report([folder])

    return found


def telling(report, words):
    return [text for text in report.cautions if words in text]


def test_an_honest_run_has_none(cautions):
    assert cautions().cautions == []


@pytest.mark.parametrize("noise", ["fresh", "forward", 128])
def test_a_stochastic_defence_judged_once(cautions, pgd, noise):
    report = cautions({"class": "Mine", "noise": noise}, PGD=pgd(view="exact") | {"eot": 1})
    told = "one of 128 tables" if noise == 128 else noise
    (once,), (single,) = telling(report, "got one verdict"), telling(report, "single draws")
    assert once.startswith(f"Caution: Mine: its noise is {told} and every image") and "PGD followed" in single


def test_a_stochastic_defence_judged_often_and_attacked_by_means(cautions, pgd):
    assert cautions(FRESH, evaluations=5, PGD=pgd(view="exact") | {"eot": 10}).cautions == []


def test_gray_attacks_need_no_mean(cautions, pgd):
    report = cautions(FRESH, evaluations=5, PGD=pgd(view="exact") | {"eot": 10}, gray=pgd(view="gray"))
    assert report.cautions == []


@pytest.mark.parametrize("noise", ["fixed", 1])
def test_a_deterministic_defence_is_judged_once(cautions, noise):
    assert cautions(FRESH | {"noise": noise}).cautions == []


def test_a_purifier_that_was_seen_to_draw_nothing_is_deterministic(cautions):
    assert cautions(FRESH, cost=True).cautions == []
    assert telling(cautions(FRESH, cost=False), "got one verdict")


def test_a_damaged_file_of_costs_keeps_nobody_from_the_table(cautions):
    report = cautions(FRESH, cost=True)
    (report.runs[0].folder / "cost.json").write_text("{")
    assert telling(make_report([report.runs[0].folder]), "got one verdict")


def test_an_attack_that_helps(cautions, pgd):
    attacks = {"PGD": pgd(view="exact") | {"verdicts": RIGHT}}
    (text,) = cautions(FRESH | {"noise": "fixed"}, MOST, **attacks).cautions
    assert "more images are right under PGD (100.0 %) than without an attack (90.0 %)" in text


def test_chance_may_help_a_stochastic_defence_a_little(cautions, pgd):
    few, many = "+" * 183 + "-" * 17, RIGHT
    for verdicts, expected in ((few, 0), (many, 1)):
        attacks = {"PGD": pgd(view="exact") | {"verdicts": verdicts, "eot": 10}}
        assert len(telling(cautions(FRESH, MOST, 4, **attacks), "more images are right")) == expected


def test_few_images(cautions):
    assert telling(cautions(clean="+" * 30), "few images (n = 30)") == []  # all right: a narrow interval
    report = cautions(clean="+-" * 30)
    (text,) = telling(report, "few images")
    assert "n = 60" in text and "wider than 20 points; with 93 images none is" in text


@pytest.mark.parametrize("interval", INTERVALS)
def test_so_many_images_are_needed(interval):
    def width(n, correct):
        low, high = INTERVALS[interval](correct, n)
        return high - low

    needed = images_needed(interval)
    assert max(width(needed, correct) for correct in range(needed + 1)) <= WIDEST < width(needed - 1, needed / 2)


BLIND = "no attack followed the gradient"


@pytest.mark.parametrize(
    "attack",
    [
        {"view": "exact"},
        {"view": "adjoint"},
        {"class": "Square", "view": "bpda"},
        {"class": "SPSA", "view": "first_order"},
        {"class": "AutoAttack", "view": "bpda", "version": "standard"},
        {"class": "WorstCase", "view": "bpda", "attacks": [{"class": "PGD"}, {"class": "Square"}]},
    ],
    ids=lambda attack: f"{attack.get('class', 'PGD')} {attack['view']}",
)
def test_an_attack_that_sees_or_searches(cautions, pgd, attack):
    assert telling(cautions(bpda=pgd(EPS), other=pgd(EPS) | attack), BLIND) == []


@pytest.mark.parametrize(
    "attack",
    [
        {"view": "bpda"},
        {"view": "first_order"},
        {"class": "Square", "view": "gray"},
        {"class": "RandomSearch", "view": "bpda"},
        {"class": "AutoAttack", "view": "bpda", "version": "rand"},
    ],
    ids=lambda attack: f"{attack.get('class', 'PGD')} {attack['view']}",
)
def test_attacks_that_are_blind(cautions, pgd, attack):
    (text,) = telling(cautions(gray=pgd(EPS, view="gray"), other=pgd(EPS) | attack), BLIND)
    assert text.startswith("Caution: PurSAMERE: attacked through ") and "gray" in text and "upper bounds" in text


def test_without_a_purifier_nothing_is_hidden(cautions, pgd):
    assert cautions({"class": "Identity", "noise": "fixed"}, bpda=pgd(EPS)).cautions == []


def test_settings_that_are_not_the_papers(cautions, pgd):
    purifier = PAPER | {"rho_pur": 1.0, "sigmas": LEVELS | {"count": 22}}
    (text,) = cautions(purifier).cautions
    assert text == (
        "Caution: PurSAMERE: not set as in Hoang et al. 2026, Table 1: "
        "rho_pur=3 there, 1 here; sigmas.count=232 there, 22 here."
    )
    exact = {"exact": pgd(EPS, view="exact")}
    (text,) = cautions(**exact, **{"BPDA20-det": pgd(EPS, steps=4)}).cautions
    assert text == (
        "Caution: PurSAMERE: BPDA20-det is not set as in Hoang et al. 2026, Table 2: attack.steps=20 there, 4 here."
    )
    assert cautions(PAPER | {"rho_pur": 2.0}, **exact, **{"BPDA20-det": pgd(EPS)}).cautions == []


def test_what_runs_have_in_common_stands_once(cautions):
    runs = [cautions(clean="+-" * 30).runs[0].folder for _ in range(2)]
    (text,) = make_report(runs, mix=True).cautions
    assert text.startswith(f"Caution: {runs[0].name}, {runs[1].name}: few images")


def test_every_format_but_tables_of_numbers_has_them(cautions):
    report = cautions(clean="+-" * 30)
    formats = {name: write for name, (_, write) in FORMATS.items()} | {"html": as_html, "json": as_json}
    told = {name: "few images (n = 60)" in write(report) for name, write in formats.items()}
    assert told == dict.fromkeys(formats, True) | {"csv": False}
