"""Figures of sweeps: which curves they hold, at which values and intervals, and on which scale."""

from __future__ import annotations

import pytest

from lit_pursamere.report import read_comparison
from lit_pursamere.report.drawing import NothingToDraw
from lit_pursamere.report.places import Place, swept
from lit_pursamere.report.saving import save_comparison
from lit_pursamere.report.setting_figures import geometric, positions, setting_figure
from lit_pursamere.report.statistics import wilson


@pytest.fixture
def comparison(rows, pgd, write_run, tmp_path):
    """Two purifiers at three values of eot; the second has no run at the last one."""

    def read(names=("A", "B"), values=("1", "2", "8"), **manifest):
        places = {}
        for name in names:
            for number, value in enumerate(values):
                label = f"{name} eot={value}"
                places[label] = Place(name, {"eot": value}, {"model.attacks.BPDA.eot": value, **manifest})
                if name == "A" or number < 2:
                    entries = {key: number for key in manifest if key == "seed"}
                    records = [*rows("DDPM", "clean", "++++"), *rows("DDPM", "BPDA", "++++"[number:] + "----"[:number])]
                    write_run(label, records, {"BPDA": pgd()}, **entries)
        return read_comparison(tmp_path, places, places=places)

    return read


def bars(axes):
    """By label the values, accuracies and ends of intervals of every curve."""
    found = {}
    for container in axes.containers:
        line, _, (whiskers,) = container.lines
        found[container.get_label()] = (
            line.get_xydata().tolist(),
            [path[:, 1].tolist() for path in whiskers.get_segments()],
        )
    return found


def test_one_purifier_has_a_curve_per_attack_with_intervals_on_a_logarithmic_axis(comparison):
    (axes,) = setting_figure(comparison(("A",)), "eot").axes
    found = bars(axes)
    assert [*found] == ["clean", "BPDA"] and axes.get_title(loc="left") == "A"
    points, whiskers = found["BPDA"]
    assert points == [[1, 100], [2, 75], [8, 50]]
    assert whiskers[1] == pytest.approx([100 * end for end in wilson(3, 4)])
    assert axes.get_xscale() == "log" and [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "8"]


def test_several_purifiers_share_a_panel_per_attack_and_what_is_missing_is_not_drawn(comparison):
    clean, attacked = setting_figure(comparison(), "eot").axes
    assert (clean.get_title(loc="left"), attacked.get_title(loc="left")) == ("clean", "BPDA")
    assert {name: len(points) for name, (points, _) in bars(attacked).items()} == {"A": 3, "B": 2}


def test_words_stand_side_by_side_in_the_order_of_the_file(comparison):
    (axes,) = setting_figure(comparison(("A",), ("sde", "ode", "ddpm")), "eot").axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["sde", "ode", "ddpm"]
    assert bars(axes)["BPDA"][0] == [[0, 100], [1, 75], [2, 50]]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1, 2, 4, 8], True), ([5, 10, 20, 50], True), ([0, 0.5, 1, 2, 4], True), ([0.02, 0.05, 0.1, 0.2], True),
        ([0, 1, 2, 3, 4], False), ([0.5, 1, 1.5, 2, 3], False), ([1, 8], False), ([-1, 1, 10, 100], False),
    ],
)  # fmt: skip
def test_an_axis_is_logarithmic_where_values_are_geometric(numbers, expected):
    assert geometric(numbers) is expected


def test_of_a_grid_the_other_settings_make_the_curves():
    places = [Place("A", {"eot": eot, "lam": lam}, {}) for eot in "12" for lam in "05"]
    assert [place.curve("eot") for place in places[:2]] == ["A lam=0", "A lam=5"]
    assert swept(places) == ["eot", "lam"] and swept(places[:2]) == ["lam"] and swept([]) == []
    assert positions(["2", "1e-3", "2"]) == {"2": 2, "1e-3": 0.001}


def test_every_sweep_has_its_figure_beside_the_table(comparison, tmp_path):
    save_comparison(comparison(), tmp_path / "out")
    assert {"comparison.png", "accuracy-eot.png"} < {file.name for file in (tmp_path / "out").iterdir()}


def test_one_value_is_no_curve(comparison):
    with pytest.raises(NothingToDraw, match="no two values of eot"):
        setting_figure(comparison(("A",), ("1",)), "eot")


def test_seeds_may_differ_where_they_are_swept_and_nowhere_else(comparison):
    with pytest.raises(ValueError, match="does not compare"):
        comparison(("A",), seed=0)


def test_swept_seeds_compare(comparison):
    assert len(comparison(("A",), seed=0, seed_everything=0).runs) == 3
