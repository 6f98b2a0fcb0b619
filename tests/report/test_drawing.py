"""A figure that fails is one line; the report and the other figures are there."""

from __future__ import annotations

import io
import sys
import warnings

import pytest

from lit_pursamere.cli.main import console, main
from lit_pursamere.report import plots
from lit_pursamere.report.drawing import NothingToDraw, beside, save_figure
from lit_pursamere.report.style import new_figure

NAMES = [
    "$5_to_$10", r"$\foo$", "$", "$$", "\\", r"\$x", "^_{", "猫 \U0010ffff 🦆", "\x1b[31m\u202e", "a\nb", "_hidden",
    " ", "", "x" * 300, "100 % {}", "%s",
]  # fmt: skip


@pytest.mark.parametrize("place", [pytest.param("system", marks=pytest.mark.slow), "attack"])
def test_whatever_is_called_so_is_drawn(place, rows, pgd, write_run, capsys):
    """Systems, attacks and data of any name, in every figure of a report."""
    records, attacks = [], {}
    for name in NAMES[::3] if place == "system" else NAMES:
        system, attack = (name, "PGD") if place == "system" else ("A", name)
        attacks |= {attack: pgd(0.1, 4), f"{attack} 2": pgd(0.2, 4)}
        noted = {"statistic_last": [0.1, 0.2, 0.3, 0.4], "rejected_last": [False] * 4}
        records += rows(system, "clean", "+++-", **noted)
        for one, seen in ((attack, "++--"), (f"{attack} 2", "+---")):
            first = [-1 if mark == "+" else 2 for mark in seen]
            records += rows(system, one, seen, seen, first_success=first, **noted)
    run = write_run("run", records, attacks, data=f"{NAMES}, test images")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["report", str(run), "--figures"]) == 0
    assert "there is no " not in capsys.readouterr().err
    found = {file.name for file in run.iterdir()}
    assert {"report.md", "worst-case.png", "accuracy-eps.png", "survival.png", "roc.png"} <= found


def test_a_figure_that_fails_is_one_line_beside_the_others(rows, write_run, monkeypatch, capsys):
    def broken(report):
        raise ZeroDivisionError("a figure\nof two lines")

    monkeypatch.setitem(plots.FIGURES, "worst-case", broken)
    run = write_run("run", rows("A", "clean", "++") + rows("A", "PGD", "+-", "+-", first_success=[-1, 0]), {})
    assert main(["report", str(run), "--figures"]) == 0
    told = capsys.readouterr()
    assert told.out == (run / "report.md").read_text() and "PGD" in told.out
    lines = [line for line in told.err.splitlines() if "there is no" in line]
    assert len(lines) == 1 and "worst-case.png (ZeroDivisionError: a figure of two lines)" in lines[0]
    assert (run / "survival.png").is_file() and not (run / "worst-case.png").exists()


def test_reports_come_without_matplotlib(rows, write_run, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = write_run("run", rows("A", "clean", "++"), {})
    assert main(["report", str(run), "--figures"]) == 0
    told = capsys.readouterr()
    assert (run / "report.md").read_text() == told.out and "matplotlib" in told.err and not list(run.glob("*.png"))


def test_reports_come_on_terminals_that_lack_letters(rows, write_run, monkeypatch):
    run = write_run("run", rows("猫", "clean", "++"), {})
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "argv", ["lit-pursamere", "report", str(run)])
    with pytest.raises(SystemExit) as status:
        console()
    terminal.flush()
    assert status.value.code == 0 and "猫" in (run / "report.md").read_text(encoding="utf-8")
    assert "\\u732b" in terminal.buffer.getvalue().decode()


def test_nothing_to_draw_is_no_failure(capsys):
    with beside("x.png"):
        raise NothingToDraw
    with pytest.raises(KeyboardInterrupt), beside("x.png"):
        raise KeyboardInterrupt
    assert not capsys.readouterr().err


def test_a_figure_is_whole_or_not_there(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(b"before")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        save_figure(new_figure(1), tmp_path / "x.png")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x.png", b"before")]
