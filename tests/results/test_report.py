"""Tables say what the rows say: counts, intervals, column order, and `any` only where it was judged."""

from __future__ import annotations

import csv
import io

import pytest

from lit_pursamere.results import Accuracy, Records, accuracies, as_csv, as_markdown, read_rows, write_report

MANIFEST = {"attacks": {"weak": "PGD(steps=1)", "gray": "PGD(gray)", "strong": "PGD(steps=200)"}}


def rows(system: str, attack: str, last: str, any: str | None = None) -> list[dict]:
    """One row per character of `last`: + correct, - wrong; `any` likewise, or not judged."""
    return [
        {
            "system": system,
            "attack": attack,
            "index": index,
            "evaluations": 1,
            "votes_last": int(last[index] == "+"),
            "votes_any": None if any is None else int(any[index] == "+"),
        }
        for index in range(len(last))
    ]


@pytest.fixture
def evaluation() -> list[dict]:
    return [
        *rows("undefended", "clean", "++++"),
        *rows("undefended", "weak", "+---", "----"),
        *rows("PurSAMERE", "clean", "+++-"),
        *rows("PurSAMERE", "weak", "+++-", "++--"),
        *rows("PurSAMERE", "strong", "++--", "+---"),
        *rows("PurSAMERE", "gray", "++++"),
    ]


def cells(markdown: str) -> list[list[str]]:
    """Rows of a Markdown table, without the rule below its head."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    assert all(set(cell) == {"-"} for cell in lines[1])
    return [lines[0], *lines[2:]]


def column(markdown: str, name: str) -> list[str]:
    table = cells(markdown)
    return [line[table[0].index(name)] for line in table[1:]]


def test_accuracies_count_rows(evaluation):
    assert accuracies(evaluation) == {
        ("undefended", "clean", "last"): Accuracy(4, 4),
        ("undefended", "weak", "last"): Accuracy(1, 4),
        ("undefended", "weak", "any"): Accuracy(0, 4),
        ("PurSAMERE", "clean", "last"): Accuracy(3, 4),
        ("PurSAMERE", "weak", "last"): Accuracy(3, 4),
        ("PurSAMERE", "weak", "any"): Accuracy(2, 4),
        ("PurSAMERE", "strong", "last"): Accuracy(2, 4),
        ("PurSAMERE", "strong", "any"): Accuracy(1, 4),
        ("PurSAMERE", "gray", "last"): Accuracy(4, 4),
    }


def test_an_unjudged_row_counts_neither_way():
    judged = rows("PurSAMERE", "pgd", "+-", "+-")
    unjudged = [row | {"index": row["index"] + 2} for row in rows("PurSAMERE", "pgd", "--")]
    table = accuracies(judged + unjudged)
    assert table["PurSAMERE", "pgd", "last"] == Accuracy(1, 4)
    assert table["PurSAMERE", "pgd", "any"] == Accuracy(1, 2)
    assert column(as_markdown(table), "n") == ["2-4"]


def test_markdown_is_this(evaluation):
    table = accuracies([row for row in evaluation if row["attack"] in ("clean", "gray")])
    assert as_markdown(table) == (
        "| system     | clean               | gray (last)         | n |\n"
        "|------------|---------------------|---------------------|---|\n"
        "| undefended | 100.0 [51.0, 100.0] |                     | 4 |\n"
        "| PurSAMERE  | 75.0 [30.1, 95.4]   | 100.0 [51.0, 100.0] | 4 |\n"
    )


def test_columns_are_alphabetical_after_clean_by_default(evaluation):
    head = cells(as_markdown(accuracies(evaluation)))[0]
    assert head == [
        "system", "clean", "gray (last)", "strong (last)", "strong (any)", "weak (last)", "weak (any)", "n",
    ]  # fmt: skip


def test_columns_follow_a_given_order(evaluation):
    table = accuracies(evaluation)
    head = cells(as_markdown(table, ["weak", "gray", "strong"]))[0]
    assert head == [
        "system", "clean", "weak (last)", "weak (any)", "gray (last)", "strong (last)", "strong (any)", "n",
    ]  # fmt: skip
    assert cells(as_markdown(table, list(MANIFEST["attacks"])))[0] == head


def test_an_attack_without_rows_has_no_column(evaluation):
    head = cells(as_markdown(accuracies(evaluation), ["weak", "never run", "gray", "strong"]))[0]
    assert "never run" not in " ".join(head) and len(head) == 8


def test_a_table_without_clean_rows_has_no_clean_column():
    assert cells(as_markdown(accuracies(rows("PurSAMERE", "pgd", "+-", "+-"))))[0][1] == "pgd (last)"


def test_any_appears_only_where_it_was_judged(evaluation):
    markdown = as_markdown(accuracies(evaluation))
    assert "gray (any)" not in markdown and "clean (any)" not in markdown
    assert column(markdown, "weak (any)") == ["0.0 [0.0, 49.0]", "50.0 [15.0, 85.0]"]
    assert column(markdown, "strong (any)")[0] == ""  # this system was not attacked that way


def test_the_undefended_row_comes_first(evaluation):
    table = accuracies([*evaluation, *rows("ADP", "clean", "++--")])
    assert column(as_markdown(table), "system") == ["undefended", "ADP", "PurSAMERE"]


def test_csv_is_complete(evaluation):
    table = accuracies(evaluation)
    lines = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert list(lines[0]) == ["system", "attack", "semantics", "correct", "n", "accuracy", "low", "high"]
    read = {(line["system"], line["attack"], line["semantics"]): line for line in lines}
    assert len(lines) == len(read) == len(table)
    for key, accuracy in table.items():
        line = read[key]
        assert Accuracy(int(line["correct"]), int(line["n"])) == accuracy
        numbers = [float(line[name]) for name in ("accuracy", "low", "high")]
        assert numbers == pytest.approx([accuracy.value, *accuracy.interval], abs=1e-6)


def test_csv_quotes_awkward_names():
    table = accuracies(rows("PurSAMERE", 'linf, "8/255"', "+-"))
    assert next(csv.DictReader(io.StringIO(as_csv(table))))["attack"] == 'linf, "8/255"'


def test_report_follows_the_manifest(tmp_path, evaluation):
    Records(tmp_path, MANIFEST).append(evaluation)
    markdown = write_report(tmp_path)
    assert markdown == as_markdown(accuracies(evaluation), ["weak", "gray", "strong"])
    assert cells(markdown)[0][2] == "weak (last)"
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown
    assert (tmp_path / "report.csv").read_text(encoding="utf-8") == as_csv(accuracies(read_rows(tmp_path)))


def test_report_without_a_manifest_is_alphabetical(tmp_path, evaluation):
    Records(tmp_path, MANIFEST).append(evaluation)
    (tmp_path / "manifest.json").unlink()
    assert write_report(str(tmp_path)) == as_markdown(accuracies(evaluation))


def test_report_counts_an_image_once_across_processes(tmp_path, evaluation):
    for rank in (0, 1):
        Records(tmp_path, MANIFEST, rank).append(evaluation)
    assert column(write_report(tmp_path), "n") == ["4", "4"]


def test_report_without_records_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        write_report(tmp_path)
    assert not (tmp_path / "report.md").exists()
