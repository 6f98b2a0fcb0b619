"""Plots of evaluations show the numbers of the report."""

from __future__ import annotations

import subprocess
import sys

import pytest
from matplotlib.colors import same_color

from lit_pursamere.report import make_report
from lit_pursamere.report.accuracy_figures import accuracy_figure
from lit_pursamere.report.curve_figures import survival_figure, sweep_figure
from lit_pursamere.report.plots import save_plots
from lit_pursamere.report.style import GREY, legend, new_figure


@pytest.fixture
def report(rows, pgd, write_run):
    records = []
    for system, verdicts in {"undefended": ["++++", "+---", "----"], "A": ["+++-", "+++-", "+---"]}.items():
        for attack, seen in zip(("clean", "PGD eps 0.1", "PGD eps 0.2"), verdicts, strict=True):
            first = None if attack == "clean" else [-1 if mark == "+" else 2 for mark in seen]
            records += rows(system, attack, seen, seen, first_success=first)
    attacks = {"PGD eps 0.1": pgd(0.1, 4), "PGD eps 0.2": pgd(0.2, 4)}
    return make_report([write_run("run", records, attacks)])


def words(figure) -> str:
    figure.draw_without_rendering()
    texts = [text.get_text() for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label, axes.title)]
    ticks = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels()]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return " | ".join([*texts, *ticks, *legends, figure.get_supxlabel()])


def test_bars_show_accuracies_and_intervals(report):
    figure = accuracy_figure(report)
    (axes,) = figure.axes
    bars, others = (container for container in axes.containers if hasattr(container, "patches"))
    assert [bar.get_height() for bar in bars] == [100, 25, 0, 0]
    assert [bar.get_height() for bar in others] == [75, 75, 25, 25]
    assert same_color(bars[0].get_facecolor(), GREY) and not same_color(others[0].get_facecolor(), GREY)
    low, high = report.lines[-1].headline.interval
    (segment,) = others.errorbar.lines[2][0].get_segments()[-1:]
    assert [float(end) for end in segment[:, 1]] == pytest.approx([100 * low, 100 * high])
    written = words(figure)
    for word in ("accuracy (%)", "undefended", "worst\ncase", "n = 4", "95 % Wilson", "digits, test images"):
        assert word in written


def test_the_same_attacks_in_two_runs_are_two_curves_that_one_can_tell_apart(rows, pgd, write_run):
    """Also where attacks are named by their budgets alone."""
    attacks = {f"eps {eps}": pgd(eps, 4) for eps in (0.1, 0.2)}
    records = [row for name in ("clean", *attacks) for row in rows("A", name, "++-", "++-")]
    runs = [
        write_run(name, records, attacks, systems={"A": f"A(fpr={fpr})"}) for name, fpr in (("one", 0.1), ("two", 1))
    ]
    figure = sweep_figure(make_report(runs, mix=True), "eps")
    colours = [container.lines[0].get_color() for container in figure.axes[0].containers]
    assert len({*colours}) == 2 and "A, PGD (one) | A, PGD (two)" in words(figure)


def test_sweeps_show_accuracy_against_eps(report):
    figure = sweep_figure(report, "eps")
    (axes,) = figure.axes
    shown = [(list(c.lines[0].get_xdata()), list(c.lines[0].get_ydata())) for c in axes.containers]
    assert shown == [([0, 0.1, 0.2], [100, 25, 0]), ([0, 0.1, 0.2], [75, 75, 25])]
    written = words(figure)
    assert "pixels in [0, 1]" in written and "A, PGD" in written and "n = 4" in written
    with pytest.raises(ValueError, match="steps alone"):
        sweep_figure(report, "steps")


def test_sweeps_of_several_norms_have_their_own_axes(rows, pgd, write_run):
    attacks = {
        f"{norm} {eps}": pgd(eps, norm=norm) for norm, eps in (("linf", 0.1), ("linf", 0.2), ("l2", 1), ("l2", 2))
    }
    records = [row for name in attacks for row in rows("A", name, "+-", "+-")]
    figure = sweep_figure(make_report([write_run("run", records, attacks)]), "eps")
    assert len(figure.axes) == 2 and "ell_2" in words(figure)


def test_survival_shows_the_view_and_marks_the_verdict_of_the_defence(report):
    figure = survival_figure(report)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["undefended", "A"]
    lines = [line for line in figure.axes[1].get_lines() if len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in lines] == [[100, 100, 75, 75, 75], [75], [100, 100, 25, 25, 25], [25]]
    assert list(lines[0].get_xdata()) == [0, 1, 2, 3, 4] and list(lines[1].get_xdata()) == [4]
    written = words(figure)
    assert "by the view" in written and "attack steps" in written and "n = 4" in written


def test_survival_needs_first_successes(rows, write_run):
    with pytest.raises(ValueError, match="first_success"):
        survival_figure(make_report([write_run("run", rows("A", "clean", "++"), {})]))


def test_plots_are_saved_where_there_is_something_to_draw(report, rows, write_run, tmp_path):
    files = save_plots(report, tmp_path / "new")
    assert [file.name for file in files] == ["worst-case.png", "accuracy-eps.png", "survival.png"]
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 10_000
    bare = make_report([write_run("bare", rows("A", "clean", "++"), {})])
    assert [file.name for file in save_plots(bare, tmp_path)] == ["worst-case.png"]


def test_tables_leave_matplotlib_and_torch_alone():
    code = (
        "import sys, lit_pursamere.report, lit_pursamere.report.plots; "
        "assert not {'matplotlib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("labels", "columns"),
    [(["a", "b", "c", "d"], 3), (["a", "b", "c", "d" * 50], 3), (["a" * 30] * 2, 2), (["a" * 50], 1)],
)
def test_a_legend_has_as_many_columns_as_fit(labels, columns):
    figure = new_figure(2)
    axes = figure.subplots()
    for number, label in enumerate(labels):
        axes.plot([0], [0], label=f"{number}{label}")
    legend(figure, 3)
    assert figure.legends[0]._ncols == columns
    figure.canvas.draw()
    assert figure.legends[0].get_window_extent().width <= figure.bbox.width
