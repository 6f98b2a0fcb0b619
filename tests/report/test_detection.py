"""Rejections and the area under the ROC curve, against counts by hand."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from lit_pursamere.report import as_csv, as_markdown, make_report
from lit_pursamere.report.detection import detections
from lit_pursamere.report.detection_figures import histogram_figure, roc_figure
from lit_pursamere.report.plots import save_plots

CLEAN, ATTACKED = [1.0, 2.0, 3.0, 6.0], [2.5, 5.0, 7.0, 8.0]  # threshold 5.5


@pytest.fixture
def detected(rows):
    def with_statistic(attack, votes, values, unfooled, any_=None):
        rejected = [value > 5.5 for value in values]
        given = {"statistic_last": values, "rejected_last": rejected, "unfooled_last": unfooled, "unfooled_any": any_}
        return rows("MALADE", attack, votes, any_ and votes, **given)

    clean = with_statistic("clean", "+++-", CLEAN, [1, 1, 1, 1])
    return clean + with_statistic("BPDA20", "-+--", ATTACKED, [0, 1, 1, 1], [0, 1, 1, 0])


def test_the_area_is_the_chance_that_an_attacked_image_is_more_suspicious(detected):
    found = detections(detected)
    assert found["MALADE", "clean"].rejected.correct == 1 and found["MALADE", "clean"].auc is None
    attacked = found["MALADE", "BPDA20"]
    assert attacked.rejected.correct == 2 and attacked.rejected.n == 4
    assert attacked.auc == pytest.approx(sum(a > c for a in ATTACKED for c in CLEAN) / 16)
    assert attacked.curve[0] == (0, 0) and attacked.curve[-1] == (1, 1)
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(attacked.curve, attacked.curve[1:], strict=False))
    assert area == pytest.approx(attacked.auc)


def test_without_a_detector_there_is_nothing(rows, pgd, write_run):
    plain = rows("MALADE", "clean", "++") + rows("MALADE", "BPDA20", "+-", "--")
    assert detections(plain) == {}
    report = make_report([write_run("plain", plain, {"BPDA20": pgd()})])
    assert "AUC" not in as_markdown(report) and "rejected" not in as_markdown(report)
    with pytest.raises(ValueError, match="detector"):
        roc_figure(report)


def columns(line):
    """The cells of a line of a Markdown table, without intervals."""
    return [cell.split("[")[0].strip() for cell in line.strip("|").split("|")]


def test_either_reading_may_be_the_headline(detected, pgd, write_run):
    accepted, rejected = (
        make_report([write_run(name.split()[-1], detected, {"BPDA20": pgd()}, success=name)])
        for name in ("any", "any or rejected")
    )
    assert [line.headline.correct for line in accepted.lines] == [3, 1, 1]
    assert [line.headline.correct for line in rejected.lines] == [3, 2, 2]
    assert [line.accuracies for line in accepted.lines] == [line.accuracies for line in rejected.lines]
    head = columns(as_markdown(rejected).splitlines()[0])
    assert [name for name in head if name.startswith(("a", "l"))][1:] == [
        "accuracy (any or rejected)", "last or rejected", "any", "last"
    ]  # fmt: skip
    assert "a rejected attacked image counts as right and a rejected clean one as wrong." in as_markdown(rejected)


def test_without_a_detector_the_readings_are_one(rows, pgd, write_run):
    plain = rows("A", "clean", "++") + rows("A", "BPDA20", "+-", "--")
    texts = [
        as_markdown(make_report([write_run(name.split()[-1], plain, {"BPDA20": pgd()}, success=name)]))
        for name in ("any", "any or rejected")
    ]
    tables = [[columns(line)[3:] for line in text.splitlines()[2:] if line.startswith("| ")] for text in texts]
    assert tables[0] == tables[1]


def test_the_report_shows_rejections_and_area(detected, pgd, write_run, tmp_path):
    report = make_report([write_run("run", detected, {"BPDA20": pgd()})])
    text = as_markdown(report)
    assert "| 50.0 [" in text and "| 0.812 |" in text and "Rejected images count as wrong" in text
    head, clean, attacked, worst = (columns(line) for line in text.splitlines() if line.startswith("| "))
    shown = dict(zip(head, zip(clean, attacked, worst, strict=True), strict=True))
    assert shown["accuracy (any)"] == ("75.0", "25.0", "25.0")
    assert shown["any or rejected"] == ("75.0", "50.0", "50.0") and shown["last or rejected"] == ("", "75.0", "50.0")
    lines = {
        line["attack"]: line for line in csv.DictReader(io.StringIO(as_csv(report))) if line["semantics"] == "last"
    }
    assert lines["clean"]["rejected"] == "0.25" and lines["clean"]["auc"] == ""
    assert lines["BPDA20"]["auc"] == "0.8125" and lines["worst case"]["rejected"] == ""
    (axes,) = roc_figure(report).axes
    assert axes.lines[-1].get_xydata()[-1].tolist() == [100, 100]
    assert {tmp_path / f"plots/{name}.png" for name in ("roc", "statistic")} <= {
        *save_plots(report, tmp_path / "plots")
    }


def test_histograms_show_every_statistic_and_the_threshold(detected, pgd, write_run):
    (axes,) = histogram_figure(make_report([write_run("run", detected, {"BPDA20": pgd()}, threshold=5.5)])).axes
    counts, edges = np.histogram(CLEAN, 30, (min(CLEAN + ATTACKED), max(CLEAN + ATTACKED)))
    assert [bar.get_height() for bar in axes.patches[:30]] == counts.tolist()
    assert axes.patches[0].get_x() == pytest.approx(edges[0]) == 1.0 and "AUC 0.812" in axes.get_title(loc="left")
    outline = axes.patches[30].get_xy()[:, 1]
    assert outline.max() == 1 and (outline > 0).any(), "attacked images are drawn as an outline"
    assert axes.lines[-1].get_xdata()[0] == 5.5


def test_values_of_the_statistic_are_kept(detected):
    found = detections(detected)["MALADE", "BPDA20"]
    assert found.clean == tuple(CLEAN) and found.attacked == tuple(ATTACKED)
