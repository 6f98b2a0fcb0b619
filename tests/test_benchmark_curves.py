"""benchmarks/curves.py compares trainings at equal hours from what they logged, across interruptions."""

from __future__ import annotations

import importlib.util

import pytest
from torch.utils.tensorboard import SummaryWriter


@pytest.fixture(scope="module")
def curves(repository_root):
    spec = importlib.util.spec_from_file_location("curves", repository_root / "benchmarks/curves.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def log(folder, points):
    """Write validations (step, hours, PSNR at 25, PSNR at 75) as one process of a training does."""
    with SummaryWriter(str(folder)) as writer:
        for step, hours, fine, coarse in points:
            writer.add_scalar("time/core_hours", hours, step)
            writer.add_scalar("val/psnr_25", fine, step)
            writer.add_scalar("val/psnr_75", coarse, step)


def test_equal_hours_are_compared_and_unknown_ones_left_empty(curves, tmp_path, capsys):
    log(tmp_path / "fast/logs", [(99, 0.1, 20.0, 15.0), (199, 0.3, 28.0, 19.0)])
    log(tmp_path / "slow/logs", [(49, 0.2, 26.0, 16.0)])
    curves.main([str(tmp_path / "slow/logs"), str(tmp_path / "fast/logs"), "--at", "0.2", "0.3"])
    first, second = capsys.readouterr().out.strip().split("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in first.splitlines()]
    assert rows[0] == ["after 0.2 hours", "steps", "25", "75"]
    assert rows[2:] == [["fast", "150", "24.00", "17.00"], ["slow", "50", "26.00", "16.00"]]  # the best first
    assert second.splitlines()[-1].replace(" ", "") == "|slow||||"
    assert second.splitlines()[2].split("|")[1].strip() == "fast"


def test_steps_that_a_killed_run_repeats_count_once(curves, tmp_path):
    log(tmp_path / "run", [(9, 0.1, 20.0, 10.0), (19, 0.2, 21.0, 11.0)])
    log(tmp_path / "run", [(19, 0.25, 21.0, 11.0), (29, 0.4, 23.0, 12.0)])
    curve = curves.read(tmp_path / "run")
    assert curve.steps.tolist() == [10, 20, 30] and curve.hours.tolist() == pytest.approx([0.1, 0.25, 0.4])
    assert curve.psnr["25"].tolist() == [20.0, 21.0, 23.0] and curve.name == "run"


def test_the_plot_is_drawn_and_an_empty_log_is_named(curves, tmp_path):
    log(tmp_path / "a", [(9, 0.1, 20.0, 10.0), (19, 0.2, 21.0, 11.0)])
    curves.main([str(tmp_path / "a"), "--figure", str(tmp_path / "figures/psnr.png")])
    assert (tmp_path / "figures/psnr.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no time/core_hours .* in .*empty; set model.psnr_at"):
        curves.read(tmp_path / "empty")
