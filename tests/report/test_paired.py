"""Two runs on the same images: differences, their intervals and p against published numbers and by hand."""

from __future__ import annotations

import json

import pytest
from scipy.stats import binomtest

from lit_pursamere.report import as_json, as_latex, as_markdown, make_report
from lit_pursamere.report.paired import mcnemar, newcombe


def test_the_published_example():
    """Fagerland, Lydersen, Laake (2014), Statistics in Medicine 33, Table III: airways before and after a transplant.

    Their intervals by Newcombe's method are -0.507 to -0.026, and McNemar's exact p is 0.070.
    """
    assert newcombe(1, 1, 7, 12) == pytest.approx((-0.507, -0.026), abs=5e-4)
    assert mcnemar(1, 7) == pytest.approx(0.070, abs=5e-4)


@pytest.mark.parametrize(("b", "c"), [(0, 1), (3, 9), (10, 10), (0, 40), (250, 200)])
def test_p_is_that_of_a_fair_coin(b, c):
    assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(binomtest(b, b + c).pvalue)


def test_without_a_disagreement_there_is_nothing_to_tell_them_apart():
    assert mcnemar(0, 0) == 1
    low, high = newcombe(50, 0, 0, 50)
    assert low == -high < 0 < high < 0.05


def test_the_interval_turns_with_the_question_and_stays_within_bounds():
    for counts in ((3, 2, 5, 1), (0, 9, 0, 0), (0, 0, 4, 0), (7, 0, 0, 3), (1, 1, 1, 1)):
        a, b, c, d = counts
        low, high = newcombe(a, b, c, d)
        assert newcombe(a, c, b, d) == pytest.approx((-high, -low))
        assert -1 <= low <= (b - c) / sum(counts) <= high <= 1


@pytest.fixture
def runs(rows, pgd, write_run):
    """PurSAMERE and ADP on the same ten images, under an attack that both have and one that only the first has."""
    attacks = {"BPDA20": pgd(), "gPGD20": pgd(view="gray")}
    one = [
        *rows("PurSAMERE", "clean", "++++++++++"),
        *rows("PurSAMERE", "BPDA20", "+++++++---", "++++++----"),
        *rows("PurSAMERE", "gPGD20", "---------+"),
    ]
    two = [*rows("ADP", "clean", "+++++++++-"), *rows("ADP", "BPDA20", "+++-------", "++--------")]
    return write_run("one", one, attacks), write_run("two", two, {"BPDA20": pgd()})


def counted(report):
    return {p.attack: (p.both, p.only_first, p.only_second, p.neither) for p in report.pairs}


def test_images_are_paired_under_attacks_that_both_have(runs):
    report = make_report(runs)
    assert counted(report) == {"clean": (9, 1, 0, 0), "BPDA20": (2, 4, 0, 4), "worst case": (2, 4, 0, 4)}
    assert {pair.systems for pair in report.pairs} == {("PurSAMERE", "ADP")}


def test_the_order_of_runs_is_the_sign(runs):
    here, there = ({p.attack: p for p in make_report(order).pairs} for order in (runs, runs[::-1]))
    for attack, pair in here.items():
        assert pair.difference == -there[attack].difference and pair.p == there[attack].p
    assert here["BPDA20"].difference == pytest.approx(-0.4)


def test_tables_have_it(runs):
    report = make_report(runs)
    low, high = newcombe(2, 0, 4, 4)
    told = f"-40.0 [{100 * low:+.1f}, {100 * high:+.1f}]"
    text = as_markdown(report)
    line = next(line for line in text.splitlines() if "ADP against PurSAMERE | BPDA20" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")][2:] == [told, "4", "0", "10", "0.12"]
    assert "Paired: two less one on the same images" in text and "McNemar" in text
    latex = as_latex(report)
    assert told in latex and latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    (entry,) = (entry for entry in json.loads(as_json(report))["paired"] if entry["attack"] == "BPDA20")
    assert (entry["first"], entry["second"], entry["n"], entry["only_first"]) == ("one", "two", 10, 4)
    assert entry["interval"] == [low, high] and entry["p"] == 0.125


def test_one_run_has_no_pairs(runs):
    report = make_report(runs[:1])
    assert report.pairs == [] and "Paired" not in as_markdown(report) and "tabular" in as_latex(report)


@pytest.mark.parametrize("change", [{"digest": "1f"}, {"indices": "0, 2"}], ids=["digest", "indices"])
def test_other_images_are_not_paired(runs, change):
    file = runs[1] / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"images": manifest["images"] | change}))
    report = make_report(runs, mix=True)
    assert report.pairs == [] and "Not paired: two, of other images than one." in as_markdown(report)


def test_attacks_of_other_budgets_are_not_paired(runs, pgd):
    file = runs[1] / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attacks": {"BPDA20": pgd(eps=0.1)}}))
    assert list(counted(make_report(runs))) == ["clean"]


def test_several_verdicts_count_by_majority(rows, pgd, write_run):
    one = [*rows("A", "clean", "333", evaluations=3), *rows("A", "PGD", "321", "210", evaluations=3)]
    two = [*rows("B", "clean", "333", evaluations=3), *rows("B", "PGD", "111", "111", evaluations=3)]
    folders = [write_run(name, found, {"PGD": pgd()}, evaluations=3) for name, found in (("a", one), ("b", two))]
    assert counted(make_report(folders))["PGD"] == (0, 1, 0, 2)


def test_images_that_one_lacks_are_left_out(runs):
    file = runs[1] / "records-0.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-3]))
    assert sum(counted(make_report(runs))["BPDA20"]) == 7


def test_an_undefended_classifier_of_the_same_weights_is_not_compared_with_itself(rows, write_run):
    folders = []
    for name, digest in (("a", "ab"), ("b", "ab"), ("c", "cd")):
        records = [*rows("PurSAMERE", "clean", "+-"), *rows("undefended", "clean", "+-")]
        folders.append(write_run(name, records, {}, weights={"PurSAMERE": "00", "undefended": digest}))
    assert [p.systems[0] for p in make_report(folders[:2]).pairs] == ["PurSAMERE"]
    assert [p.systems[0] for p in make_report(folders[::2]).pairs] == ["PurSAMERE", "undefended"]


def test_of_three_runs_each_is_compared_with_the_first(runs, rows, write_run):
    third = write_run("three", rows("GDMP", "clean", "----------"), {})
    report = make_report([*runs, third])
    assert [(p.second, p.attack) for p in report.pairs][-1] == ("three", "clean")
    assert "only the other" in as_markdown(report)
