"""Runs know their size, their names beside others, and what keeps them out of one table."""

from __future__ import annotations

import json
import shutil

import pytest

from lit_pursamere.attacks import PGD, WorstCase
from lit_pursamere.report import read_runs
from lit_pursamere.report.runs import AttackInfo, check_comparable, differences, eps_text, flat
from lit_pursamere.store.manifest import read_manifest, write_manifest
from lit_pursamere.threat import Pixels, ThreatModel


@pytest.mark.parametrize(
    ("eps", "text"),
    [(8 / 255, "8/255"), (0.03137254901960784, "8/255"), (0.15, "0.15"), (0.5, "0.5"), (1.0, "1"), (12.0, "12")],
)
def test_budgets_are_written_as_people_write_them(eps, text):
    assert eps_text(eps) == text


def test_attacks_are_read_from_their_settings():
    info = AttackInfo(PGD(ThreatModel("l2", Pixels("1/5")), "exact", 7).settings)
    assert (info.kind, info.view, info.norm, info.eps, info.steps) == ("PGD", "exact", "l2", 0.2, 7)
    assert info.budget == "l2 0.2" and AttackInfo().budget == AttackInfo().kind == ""


def test_a_combination_has_no_steps_of_its_own():
    info = AttackInfo(WorstCase([PGD(ThreatModel("linf", Pixels(0.1)), steps=7)]).settings)
    assert (info.norm, info.eps, info.steps) == ("linf", 0.1, None)
    assert flat(info.settings)["attacks.0.steps"] == 7


def test_nested_settings_have_dotted_names():
    settings = {"a": {"b": 1, "c": {}}, "d": [{"e": 2}, {"e": 3}], "f": [4, 5], "g": None}
    assert flat(settings) == {"a.b": 1, "d.0.e": 2, "d.1.e": 3, "f": [4, 5], "g": None}


def test_missing_rows_are_counted(rows, pgd, write_run):
    records = [*rows("A", "clean", "++++"), *rows("A", "pgd", "+-"), *rows("B", "clean", "+++")]
    (run,) = read_runs([write_run("run", records, {"pgd": pgd()})])
    assert run.missing == {("A", "pgd"): 2, ("B", "clean"): 1, ("B", "pgd"): 4}


def test_labels_are_as_long_as_they_must_be(rows, write_run, tmp_path):
    source = write_run("a", rows("A", "clean", "+"), {})
    for place in ("one/out", "two/out"):
        shutil.copytree(source, tmp_path / place)
    runs = read_runs([source, tmp_path / "one/out", tmp_path / "two/out"])
    assert [run.label for run in runs] == [f"{tmp_path.name}/a", "one/out", "two/out"]
    with pytest.raises(ValueError, match="given twice"):
        read_runs([source, tmp_path / "one/../a"])


def test_systems_attacks_and_weights_may_differ(rows, pgd, write_run):
    a = write_run("a", rows("A", "clean", "+"), {"pgd": pgd()}, weights={"A": "12"}, output="x")
    b = write_run("b", rows("B", "clean", "+"), {"mim": pgd(eps=0.3)}, weights={"B": "34"}, output="y")
    check_comparable(read_runs([a, b]))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"data": "mnist, test images"}, "data: 'digits, test images' in a, 'mnist, test images' in b"),
        ({"images": {"count": 9, "digest": "0f"}}, "images.count: 1 in a, 9 in b"),
        ({"seed": 3}, "seed: 0 in a, 3 in b"),
        ({"evaluations": 10}, "evaluations: 1 in a, 10 in b"),
        ({"success": "last"}, "success: 'any' in a, 'last' in b"),
        ({"precision": "bf16"}, "precision: None in a, 'bf16' in b"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_runs_that_differ_in_anything_else_are_refused_by_name(rows, write_run, entries, message):
    a = write_run("a", rows("A", "clean", "+"), {})
    b = write_run("b", rows("A", "clean", "+"), {}, **entries)
    runs = read_runs([a, b])
    assert differences(runs) == [message]
    with pytest.raises(ValueError, match="do not compare") as caught:
        check_comparable(runs)
    assert message in str(caught.value) and "--mix" in str(caught.value)


def test_unknown_success_semantics_are_named(rows, write_run):
    (run,) = read_runs([write_run("a", rows("A", "clean", "+"), {}, success="best")])
    with pytest.raises(ValueError, match="'best'"):
        _ = run.success


@pytest.mark.parametrize("entry", ["data", "images", "systems", "attacks", "weights"])
def test_a_manifest_that_does_not_say_what_was_evaluated_is_refused(entry, rows, write_run):
    folder = write_run("run", rows("P", "clean", "++"), {})
    manifest = read_manifest(folder)
    write_manifest(folder, {name: value for name, value in manifest.items() if name != entry})
    with pytest.raises(ValueError, match=rf"manifest\.json is damaged: it does not state {entry}"):
        read_runs([folder])
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match="run has records, but no manifest"):
        read_runs([folder])


@pytest.mark.parametrize("row", [{"attack": "other"}, {"system": "other"}])
def test_rows_of_what_the_manifest_does_not_state_are_refused(row, rows, write_run):
    folder = write_run("run", rows("P", "clean", "++"), {})
    with open(folder / "records-0.jsonl", "a") as file:
        file.write(json.dumps(rows("P", "clean", "+")[0] | row) + "\n")
    with pytest.raises(ValueError, match=f"a row of the {next(iter(row))} 'other', which its manifest does not state"):
        read_runs([folder])


def test_records_without_a_row_are_no_table(rows, write_run):
    folder = write_run("run", rows("P", "clean", "++"), {})
    (folder / "records-0.jsonl").write_text("")
    with pytest.raises(FileNotFoundError, match="no records in"):
        read_runs([folder])
    (folder / "records-0.jsonl").unlink()
    (folder / "records-0.jsonl").mkdir()
    with pytest.raises(IsADirectoryError, match="records-0"):
        read_runs([folder])


def test_what_a_manifest_lacks_is_told_rather_than_that_its_rows_are_of_another_run(rows, write_run):
    records = [row | {"run": "0123456789ab"} for row in rows("A", "clean", "+")]
    folder = write_run("run", records, {})
    manifest = read_manifest(folder)
    write_manifest(folder, {key: value for key, value in manifest.items() if key != "systems"})
    with pytest.raises(ValueError, match="does not state systems"):
        read_runs([folder])
