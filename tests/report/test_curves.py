"""Curves are the rows': survival by the view, and accuracy over attacks that differ in one number."""

from __future__ import annotations

import pytest

from lit_pursamere.report import Accuracy, make_report, read_runs
from lit_pursamere.report.curves import survivals, sweeps


def test_survival_by_hand(rows, pgd, write_run):
    """First successes: before any step, after one, after two, never; one unknown is left out."""
    records = rows("A", "clean", "+++++") + rows("A", "pgd", "+++--", "++---", first_success=[0, 1, 2, -1, None])
    report = make_report([write_run("run", records, {"pgd": pgd(steps=3)})])
    (curve,) = survivals(report.runs[0], "A", report.lines)
    assert curve.shares == (0.75, 0.5, 0.25, 0.25)
    assert (curve.attack, curve.n, curve.verdict) == ("pgd", 4, 0.4)


def test_attacks_that_cannot_say_have_no_survival(rows, pgd, write_run):
    (run,) = read_runs([write_run("run", rows("A", "pgd", "++", first_success=None), {"pgd": pgd()})])
    assert survivals(run, "A") == [] and survivals(run, "B") == []


def test_a_sweep_joins_attacks_that_differ_in_eps_alone(rows, pgd, write_run):
    attacks = {
        "PGD eps 0.1": pgd(0.1), "PGD eps 0.3": pgd(0.3), "PGD eps 0.2": pgd(0.2), "longer": pgd(0.2, 40),
        "l2": pgd(1.0, norm="l2"),
    }  # fmt: skip
    verdicts = ["+++-", "+---", "++--", "----", "----"]
    records = rows("A", "clean", "++++")
    for name, seen in zip(attacks, verdicts, strict=True):
        records += rows("A", name, seen, seen)
    report = make_report([write_run("run", records, attacks)])
    (sweep,) = sweeps(report, "eps")
    assert (sweep.system, sweep.attack, sweep.panel) == ("A", "PGD", "linf")
    assert sweep.points == tuple((eps, Accuracy(4 - k, 4)) for k, eps in enumerate((0, 0.1, 0.2, 0.3)))
    (sweep,) = sweeps(report, "steps")
    assert sweep.panel == "linf 0.2" and [steps for steps, _ in sweep.points] == [0, 20, 40]


def test_a_sweep_joins_runs_but_not_other_systems(rows, pgd, write_run):
    def run(name, eps, **entries):
        return write_run(name, rows("A", "clean", "++") + rows("A", "PGD", "+-", "+-"), {"PGD": pgd(eps)}, **entries)

    report = make_report([run("a", 0.1), run("b", 0.2), run("c", 0.3, systems={"A": "A(another)"})])
    (sweep,) = sweeps(report, "eps")
    assert (sweep.attack, [eps for eps, _ in sweep.points], sweep.run) == ("PGD", [0, 0.1, 0.2], "a")
    assert sweeps(report, "steps") == []


def test_a_second_difference_parts_a_sweep(rows, pgd, write_run):
    attacks = {"a": pgd(0.1), "b": pgd(0.2) | {"eot": 4}, "c": pgd(0.3) | {"step_size": 0.01}}
    records = [row for name in attacks for row in rows("A", name, "+-", "+-")]
    (sweep,) = sweeps(make_report([write_run("run", records, attacks)]), "eps")
    assert [eps for eps, _ in sweep.points] == [0.1, 0.3], "a step follows from the budget; the draws do not"


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (("PGD-0.1", "PGD-0.15"), "PGD"),
        (("bpda 4/255", "bpda 8/255"), "bpda"),
        (("eps4", "eps8"), "PGD"),  # its class
        (("BPDA20 eps=1", "BPDA20 eps=2"), "BPDA20"),
    ],
)
def test_a_sweep_is_called_by_what_its_names_share(rows, pgd, write_run, names, common):
    records = rows("A", names[0], "+", "+") + rows("A", names[1], "-", "-")
    report = make_report([write_run("run", records, {names[0]: pgd(0.1), names[1]: pgd(0.2)})])
    assert [sweep.attack for sweep in sweeps(report, "eps")] == [common]
