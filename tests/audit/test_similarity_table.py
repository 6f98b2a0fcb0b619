"""Means, intervals and figure show the rows of the EoT similarity."""

import pytest
import torch

from lit_pursamere.audit.similarity_table import mean_interval, similarity_figure, similarity_table

ROWS = [{"index": i, "gradient": [0.1 * i, 0.5], "direction": [0.2, 0.3 + 0.1 * i]} for i in range(3)]


def test_the_interval_is_students():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert (mean, high - mean) == (2.0, pytest.approx(4.302653 / 3**0.5))  # two degrees of freedom
    assert low == pytest.approx(4 - high)


def test_table_and_figure_show_means_and_intervals():
    table = [" ".join(line.split()) for line in similarity_table((1, 8), ROWS).splitlines()]
    assert table[2] == "| 1 | 0.100 [-0.148, 0.348] | 0.200 [0.200, 0.200] |"
    (axes,) = similarity_figure((1, 8), ROWS, "a title").axes
    lines = [torch.as_tensor(line.get_xydata()) for line in axes.get_lines() if line.get_label().startswith("with")]
    assert lines[0].tolist() == [[1, pytest.approx(0.1)], [8, pytest.approx(0.5)]]
    assert lines[1].tolist() == [[1, pytest.approx(0.2)], [8, pytest.approx(0.4)]]
    assert axes.get_title(loc="left") == "a title" and axes.get_xscale() == "log"
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.1 - 0.2484, abs=1e-4)
