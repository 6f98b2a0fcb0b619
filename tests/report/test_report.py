"""Reports say what the rows say: lines, headline, worst cases, published numbers, notes; in three formats."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys

import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.report import (
    FORMATS,
    Accuracy,
    Report,
    as_csv,
    as_json,
    as_latex,
    as_markdown,
    make_report,
    save_report,
)

EPS = 8 / 255
LEVELS = {"class": "NoiseLevels", "sigma_max": 50.0, "sigma_min": 0.01, "count": 232, "stride": 1}
PAPER = {"class": "PurSAMERE", "rho_pur": 3.0, "rho_sam": 1.5, "draws": 4, "sigmas": LEVELS, "noise": "fixed"}


@pytest.fixture
def evaluation(rows) -> list[dict]:
    return [
        *rows("undefended", "clean", "++++", seconds=0.001),
        *rows("undefended", "weak", "+---", "----", seconds=0.01),
        *rows("undefended", "gray", "+---", "+---", seconds=0.01),
        *rows("undefended", "strong", "----", "----", seconds=0.02),
        *rows("PurSAMERE", "clean", "+++-", seconds=0.1),
        *rows("PurSAMERE", "weak", "+++-", "++--", seconds=1.0),
        *rows("PurSAMERE", "gray", "+-++", seconds=0.2),
        *rows("PurSAMERE", "strong", "++--", "++--", seconds=[1.0, 2.0, 3.0, 4.0]),
    ]


@pytest.fixture
def attacks(pgd) -> dict:
    return {"weak": pgd(steps=1), "gray": pgd(view="gray"), "strong": pgd(steps=200)}


@pytest.fixture
def folder(write_run, evaluation, attacks):
    return write_run("run", evaluation, attacks)


@pytest.fixture
def paper_run(rows, pgd, write_run):
    """A run at the paper's values, whose numbers a paper reports."""
    records = [row for name in ("clean", "gPGD20", "BPDA20-det") for row in rows("PurSAMERE", name, "+-", "+-")]
    attacks = {"gPGD20": pgd(eps=EPS, view="gray"), "BPDA20-det": pgd(eps=EPS)}
    described = {"attacks": attacks, "data": "cifar10, test images", "defenses": {"PurSAMERE": {"purifier": PAPER}}}
    return lambda **entries: write_run("paper", records, **described | entries)


def cells(markdown: str) -> list[list[str]]:
    """Rows of a Markdown table, without the rule below its head and without notes."""
    lines = [line for line in markdown.split("\n\n")[0].splitlines() if line.startswith("|")]
    assert set(lines[1]) == {"|", "-"} and len({len(line) for line in lines}) == 1
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in (lines[0], *lines[2:])]


def column(markdown: str, name: str) -> list[str]:
    head, *body = cells(markdown)
    return [row[head.index(name)] for row in body]


def test_markdown_is_this(folder):
    assert as_markdown(make_report([folder])) == (
        "| system     | attack     | accuracy (any)      | last              | n | s/image |\n"
        "|------------|------------|---------------------|-------------------|---|---------|\n"
        "| undefended | clean      | 100.0 [51.0, 100.0] |                   | 4 | 0.001   |\n"
        "| undefended | weak       | 0.0 [0.0, 49.0]     | 25.0 [4.6, 69.9]  | 4 | 0.01    |\n"
        "| undefended | gray       | 25.0 [4.6, 69.9]    | 25.0 [4.6, 69.9]  | 4 | 0.01    |\n"
        "| undefended | strong     | 0.0 [0.0, 49.0]     | 0.0 [0.0, 49.0]   | 4 | 0.02    |\n"
        "| undefended | worst case | 0.0 [0.0, 49.0]     | 0.0 [0.0, 49.0]   | 4 |         |\n"
        "| PurSAMERE  | clean      | 75.0 [30.1, 95.4]   |                   | 4 | 0.1     |\n"
        "| PurSAMERE  | weak       | 50.0 [15.0, 85.0]   | 75.0 [30.1, 95.4] | 4 | 1       |\n"
        "| PurSAMERE  | gray       | 75.0 [30.1, 95.4]   |                   | 4 | 0.2     |\n"
        "| PurSAMERE  | strong     | 50.0 [15.0, 85.0]   | 50.0 [15.0, 85.0] | 4 | 2.5     |\n"
        "| PurSAMERE  | worst case | 25.0 [4.6, 69.9]    | 25.0 [4.6, 69.9]  | 4 |         |\n"
        "\n"
        "Accuracy in % with 95 % Wilson intervals; digits, test images. any: wrong at any iterate counts as broken "
        "(gray attacks: at the last). Worst case: right on the clean image and under every attack.\n"
        "\n"
        "Caution: few images (n = 4): intervals are wider than 20 points; with 93 images none is.\n"
    )


def test_attacks_follow_the_manifest(folder):
    assert column(as_markdown(make_report([folder])), "attack")[:4] == ["clean", "weak", "gray", "strong"]


def test_the_protocol_decides_the_headline(evaluation, attacks, write_run):
    markdown = as_markdown(make_report([write_run("run", evaluation, attacks, success="last")]))
    assert column(markdown, "accuracy (last)")[6] == "75.0 [30.1, 95.4]" and "last" not in cells(markdown)[0]
    assert "last: wrong at the last iterate counts as broken." in markdown


def test_repeated_verdicts_keep_every_semantics_in_the_csv(rows, pgd, write_run):
    records = [*rows("A", "clean", "44", evaluations=4), *rows("A", "pgd", "43", "42", evaluations=4)]
    report = make_report([write_run("run", records, {"pgd": pgd()}, success="any worst", evaluations=4)])
    read = {(line["attack"], line["semantics"]): line for line in csv.DictReader(io.StringIO(as_csv(report)))}
    expected = {"last": 7 / 8, "last worst": 0.5, "last vote": 1, "any": 6 / 8, "any worst": 0.5, "any vote": 0.5}
    assert {s: float(read["pgd", s]["accuracy"]) for s in expected} == expected
    assert {s: float(read["worst case", s]["accuracy"]) for s in expected} == expected
    assert [key for key, line in read.items() if line["headline"] == "yes"] == [
        ("clean", "last worst"), ("pgd", "any worst"), ("worst case", "any worst"),
    ]  # fmt: skip
    assert "(gray attacks: at the last), right means right in every evaluation." in as_markdown(report)


def test_a_single_verdict_is_its_own_worst_case_and_majority(folder, evaluation, attacks, write_run):
    other = make_report([write_run("vote", evaluation, attacks, success="any vote")])
    assert [line.headline for line in other.lines] == [line.headline for line in make_report([folder]).lines]


def test_every_budget_has_its_worst_case(rows, pgd, write_run):
    records = [
        *rows("A", "clean", "++++"), *rows("A", "one", "+++-", "+++-"), *rows("A", "two", "++-+", "++-+"),
        *rows("A", "wide", "+-++", "+-++"),
    ]  # fmt: skip
    attacks = {"one": pgd(EPS), "two": pgd(EPS, 99), "wide": pgd(1.0, norm="l2")}
    report = make_report([write_run("run", records, attacks)])
    found = {line.attack: line.headline.correct for line in report.lines}
    assert found == {"clean": 4, "one": 3, "two": 3, "wide": 3, "worst case linf 8/255": 2, "worst case": 1}


def test_intervals_can_be_chosen(folder):
    markdown = as_markdown(make_report([folder], "clopper-pearson"))
    assert column(markdown, "accuracy (any)")[0] == "100.0 [39.8, 100.0]" and "Clopper-Pearson" in markdown
    with pytest.raises(ValueError, match="'wald'"):
        make_report([folder], "wald")
    with pytest.raises(ValueError, match="at least one run"):
        Report(())


def test_published_numbers_stand_beside_ours(paper_run):
    markdown = as_markdown(make_report([paper_run()]))
    assert column(markdown, "published") == [
        "85.68 (Hoang et al. 2026, Table 1, WRN-28-10)",
        "84.17 (Hoang et al. 2026, Table 1, WRN-28-10)",
        "69.08 (Hoang et al. 2026, Table 2, WRN-28-10)",
        "",
    ]
    assert "papers' own weights" in markdown and "Doubtful" not in markdown


@pytest.mark.parametrize(
    "entries",
    [
        {"data": "digits, test images"},
        {"defenses": {"PurSAMERE": {"purifier": PAPER | {"rho_pur": 1.5}}}},
        {"attacks": {key: {"threat": {"norm": "linf", "eps": 0.1}} for key in ("gPGD20", "BPDA20-det")}},
        {"attacks": {key: {"class": "PGD", "steps": 20} for key in ("gPGD20", "BPDA20-det")}},
    ],
    ids=["data", "setting", "budget", "no budget"],
)
def test_published_numbers_of_another_question_do_not(paper_run, entries):
    markdown = as_markdown(make_report([paper_run(**entries)]))
    assert "published" not in cells(markdown)[0] and "papers" not in markdown


def test_doubtful_numbers_have_a_footnote(rows, pgd, write_run):
    records = [row for name in ("clean", "PGD200-EoT20 l1") for row in rows("ADP", name, "+-", "+-")]
    attacks = {"PGD200-EoT20 l1": pgd(12.0, 200, "exact", "l1") | {"eot": 20, "start": "laplace"}}
    defenses = {"ADP": {"purifier": {"class": "ADP", "noise": "fresh"}}}
    report = make_report([write_run("adp", records, attacks, data="cifar10, test images", defenses=defenses)])
    assert column(as_markdown(report), "published")[:2] == [
        "87.93 (Hoang et al. 2026, Table 3, of Li et al. 2025)",
        "36.87 (Hoang et al. 2026, Table 3, of Li et al. 2025) [1]",
    ]
    assert "\n[1] Doubtful: the table calls" in as_markdown(report)
    assert "[1] Doubtful: the table calls" in as_latex(report)
    doubts = {line["attack"]: line["doubtful"] for line in csv.DictReader(io.StringIO(as_csv(report)))}
    assert doubts["clean"] == "" and "exact gradients" in doubts["PGD200-EoT20 l1"]


def test_csv_is_complete(folder):
    report = make_report([folder])
    read = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert [(line["system"], line["attack"], line["semantics"]) for line in read] == [
        (line.system, line.attack, semantics) for line in report.lines for semantics in line.accuracies
    ]
    assert {(line["run"], line["dataset"], line["interval"]) for line in read} == {("run", "digits", "wilson")}
    written = iter(read)
    for line in report.lines:
        for accuracy in line.accuracies.values():
            entry = next(written)
            assert Accuracy(int(entry["correct"]), int(entry["n"])) == accuracy
            numbers = [float(entry[name]) for name in ("accuracy", "low", "high")]
            assert numbers == pytest.approx([accuracy.value, *accuracy.interval], abs=1e-6)


AWKWARD = 'PGD_20, "8/255" 50% | a&b #1 $x$ {y} ~z ^w \\'


def test_awkward_names_survive_every_format(rows, write_run):
    report = make_report([write_run("run", rows("[A]", AWKWARD, "+-"), {})])
    assert next(csv.DictReader(io.StringIO(as_csv(report))))["attack"] == AWKWARD
    assert column(as_markdown(report), "attack")[0] == AWKWARD.replace("|", "\\|")
    latex = as_latex(report)
    assert r"PGD\_20, " in latex and r"50\% | a\&b \#1 \$x\$ \{y\} \textasciitilde{}z" in latex
    assert "\n{[}A] & " in latex


HOSTILE = "\x1b]0;title\x07\x1b[31m<img src=x onerror=alert(1)>[a](http://b)$\\\\foo$"


def test_names_that_would_act_are_text_in_every_format_and_on_the_terminal(rows, write_run, capsys):
    records = rows("=HYPERLINK(1)", HOSTILE, "+-") + rows("@x", "PGD", "+-")
    run = write_run("run", records, {}, data=f"{HOSTILE}, test images")
    assert main(["report", str(run), "--figures"]) == 0
    markdown = (run / "report.md").read_text()
    assert capsys.readouterr().out == markdown
    for text in (markdown, (run / "report.csv").read_text(), (run / "report.tex").read_text()):
        assert "onerror" in text and all(line.isprintable() for line in text.split("\n"))
    assert not re.search(r"(?<!\\)<img|\]\(", markdown) and "\\<img" in markdown
    told = list(csv.DictReader(io.StringIO((run / "report.csv").read_text())))
    assert {row["system"] for row in told} == {"'=HYPERLINK(1)", "'@x"}
    assert (run / "worst-case.png").is_file()


def test_json_is_complete(folder, paper_run):
    report = make_report([folder])
    read = json.loads(as_json(report))
    assert [(row["system"], row["attack"], row["semantics"]) for row in read["rows"]] == [
        (line.system, line.attack, semantics) for line in report.lines for semantics in line.accuracies
    ]
    assert {tuple(row) for row in read["rows"]} == {tuple(report.fields)}
    (row,) = (r for r in read["rows"] if (r["system"], r["attack"], r["headline"]) == ("PurSAMERE", "strong", True))
    assert (row["correct"], row["n"], row["accuracy"], row["seconds"], row["published"]) == (2, 4, 0.5, 2.5, None)
    assert (read["notes"], read["cautions"]) == (report.notes, report.cautions) and report.cautions
    (run,) = read["runs"]
    assert (run["run"], run["images"], run["success"], run["missing"]) == ("run", report.runs[0].manifest["images"],
                                                                          "any", 0)  # fmt: skip
    assert {row["published"] for row in json.loads(as_json(make_report([paper_run()])))["rows"]} >= {85.68, 69.08}


def test_parquet_has_the_rows_with_their_types(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    report = make_report([folder])
    assert main(["report", str(folder), "--format", "parquet"]) == 0
    table = parquet.read_table(folder / "report.parquet")
    assert table.to_pylist() == json.loads(as_json(report))["rows"]
    kinds = {"string": str, "bool": bool, "int64": int, "double": float}
    assert {name: kinds[str(table.schema.field(name).type)] for name in table.column_names} == report.fields
    assert json.loads(table.schema.metadata[b"lit_pursamere"])["cautions"] == report.cautions


def test_without_its_library_parquet_is_one_line_and_the_run_is_as_it_was(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    before = sorted(folder.iterdir())
    assert main(["report", str(folder), "--format", "parquet"]) == 1
    assert "pip install 'lit_pursamere[parquet]'" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_latex_compiles_in_form(folder, paper_run):
    for path in (folder, paper_run()):
        latex = as_latex(make_report([path]))
        assert latex.startswith("% needs \\usepackage{booktabs,graphicx}\n\\begin{table}")
        for opening, closing in ((r"\begin{table}", r"\end{table}"), (r"\begin{tabular}", r"\end{tabular}")):
            assert latex.count(opening) == latex.count(closing) == 1
        code = re.sub(r"\\[%{}&_#$]", "", "\n".join(latex.splitlines()[1:]))
        assert code.count("{") == code.count("}") and "_" not in code and "#" not in code
        assert re.findall("%.*", code) == ["%"], "the only comment ends the line of the resizebox"
        table = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]
        width = len(re.search(r"\{(l+)\}", latex)[1])
        lines = [line for line in table.splitlines() if not line.endswith("rule")]
        assert all(line.endswith(r" \\") and line.count(" & ") == width - 1 for line in lines)


def test_an_incomplete_run_says_what_is_missing(folder, evaluation, attacks, write_run):
    partial = [row for row in evaluation if (row["attack"], row["index"]) not in (("strong", 3), ("strong", 2))]
    markdown = as_markdown(make_report([write_run("partial", partial, attacks)]))
    assert (
        "\nIncomplete: 4 of 32 verdicts are missing (undefended under strong: 2, PurSAMERE under strong: 2); the same "
        "`test` command completes them.\n"
    ) in markdown
    assert column(markdown, "n") == ["4", "4", "4", "2", "2"] * 2, "the worst case counts what every attack reached"
    assert "Incomplete" not in as_markdown(make_report([folder]))


def test_several_runs_stand_in_one_table(folder, rows, pgd, write_run):
    other = write_run("adp", [*rows("ADP", "clean", "++++"), *rows("ADP", "mim", "+---")], {"mim": pgd()})
    markdown = as_markdown(make_report([folder, other]))
    assert column(markdown, "run") == ["run"] * 10 + ["adp"] * 3
    assert column(markdown, "system")[-3:] == ["ADP"] * 3
    assert "These runs differ" not in markdown


def test_mixed_runs_are_labelled_and_the_note_says_how_they_differ(folder, rows, pgd, write_run):
    records = [*rows("PurSAMERE", "clean", "+++++"), *rows("PurSAMERE", "mim", "+----")]
    other = write_run("other", records, {"mim": pgd()}, success="last", seed=5, weights={"PurSAMERE": "cd"})
    with pytest.raises(ValueError, match=r"do not compare: images\.count"):
        make_report([folder, other])
    markdown = as_markdown(make_report([folder, other], mix=True))
    assert "accuracy" in cells(markdown)[0] and set(column(markdown, "run")) == {"run", "other"}
    assert (
        "These runs differ in more than systems and attacks: images.count: 4 in run, 5 in other; seed: 0 in run, 5 in "
        "other; success: 'any' in run, 'last' in other."
    ) in markdown
    assert "any (run): wrong" in markdown and "last (other): wrong" in markdown
    assert "`PurSAMERE` has other weights in other than in run." in markdown


def write_report(folder):
    """As a test does when it ends; returns the Markdown."""
    report = make_report([folder])
    save_report(report, folder)
    return as_markdown(report)


def test_write_report_writes_beside_the_records_and_returns_the_markdown(folder):
    markdown = write_report(str(folder))
    for suffix, write in FORMATS.values():
        assert (folder / f"report.{suffix}").read_text(encoding="utf-8") == write(make_report([folder]))
    assert markdown == (folder / "report.md").read_text(encoding="utf-8")


def test_an_image_counts_once_across_processes(folder):
    shutil.copy(folder / "records-0.jsonl", folder / "records-1.jsonl")
    assert set(column(write_report(folder), "n")) == {"4"}


def test_report_without_records_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        write_report(tmp_path)
    (tmp_path / "records-0.jsonl").touch()
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        write_report(tmp_path)
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize(
    ("format", "name"),
    [("markdown", "report.md"), ("csv", "report.csv"), ("latex", "report.tex"), ("json", "report.json")],
)
def test_the_verb_prints_what_it_writes(capsys, folder, format, name):
    figures = ["--figures"] if format == "csv" else []  # drawn alike whatever the format
    assert main(["report", str(folder), "--format", format, "--interval", "clopper-pearson", *figures]) == 0
    printed = capsys.readouterr()
    assert printed.out == (folder / name).read_text(encoding="utf-8")
    if figures:
        assert "worst-case.png" in printed.err and (folder / "worst-case.png").stat().st_size > 10_000


def test_the_verb_writes_several_runs_only_where_it_is_told(capsys, folder, rows, write_run, tmp_path):
    other = write_run("other", rows("ADP", "clean", "+++"), {})
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", str(folder), str(other), "--mix"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["report", str(folder), str(other)]) == 1
    assert "images.count: 4 in run, 3 in other" in capsys.readouterr().err
    assert main(["report", str(folder), str(other), "--mix", "--figures"]) == 1
    assert "--output DIR" in capsys.readouterr().err
    assert main(["report", str(folder), str(other), "--mix", "--output", str(tmp_path / "new/both")]) == 0
    assert {path.name for path in (tmp_path / "new/both").iterdir()} == {"report.md", "report.csv", "report.tex"}
