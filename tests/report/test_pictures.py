"""Pictures mark right and wrong verdicts, and show what a purifier changed."""

import pytest
import torch
from matplotlib.colors import same_color

from lit_pursamere.purifiers.pursamere import Trajectory
from lit_pursamere.report import pictures

NAMES = ("cat", "dog", "automobile")


def lines(axes):
    return {line.get_label(): torch.as_tensor(line.get_xydata()) for line in axes.get_lines()}


def grid(count=3, channels=1, **changes):
    generator = torch.Generator().manual_seed(0)
    clean, attacked, purified = torch.rand(3, count, channels, 4, 5, generator=generator)
    labels = torch.arange(count) % 3
    predictions = {"clean": labels, "attacked": (labels + 1) % 3, "purified": labels.clone()}
    arguments = {"clean": clean, "attacked": attacked, "purified": purified, "predictions": predictions} | changes
    return pictures.picture_grid(labels=labels, class_names=NAMES, epsilon_note="eps 8/255", **arguments)


def test_picture_grid_marks_wrong_predictions_red():
    axes = grid().axes
    assert len(axes) == 3 * 5
    for row in range(3):
        clean, attacked, purified = (axes[5 * row + column].title for column in range(3))
        assert same_color(attacked.get_color(), pictures.WRONG)
        assert same_color(clean.get_color(), pictures.RIGHT) and same_color(purified.get_color(), pictures.RIGHT)
    assert axes[1].title.get_text().startswith("cat → dog")


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_grid_draws_ten_times_the_difference_around_grey(channels):
    clean = torch.full((1, channels, 2, 2), 0.5)
    axes = grid(1, channels, clean=clean, attacked=clean + 0.03, purified=clean - 0.3).axes
    shown = [torch.as_tensor(panel.images[0].get_array()) for panel in axes]
    torch.testing.assert_close(shown[0], torch.full_like(shown[0], 0.5))
    torch.testing.assert_close(shown[3], torch.full_like(shown[3], 0.65))
    torch.testing.assert_close(shown[4], torch.zeros_like(shown[4]))
    assert shown[0].shape == ((2, 2) if channels == 1 else (2, 2, 3))


def test_picture_grid_shows_eight_images_at_most_and_some_predictions_may_be_missing():
    axes = grid(10, 3, predictions={"attacked": torch.zeros(10, dtype=torch.long)}).axes
    assert len(axes) == 8 * 5
    assert axes[0].title.get_text() == "" and axes[1].title.get_text() != ""


def test_long_class_names_stay_within_their_column():
    figure = grid(3, predictions={"clean": torch.full((3,), 2)})
    figure.draw_without_rendering()
    column = figure.axes[10].get_window_extent().width
    assert figure.axes[10].title.get_text().startswith("automobile → automobile")
    assert figure.axes[10].title.get_window_extent().width < 1.05 * column


def test_class_names_are_no_mathematics(monkeypatch):
    monkeypatch.setattr(f"{__name__}.NAMES", ["$\\\\foo$", "\x1b[31m$", "$$"])
    figure = grid()
    figure.draw_without_rendering()  # \\foo is no command of matplotlib's mathematics
    titles = [axes.title for axes in figure.axes if axes.title.get_text()]
    assert titles and all(r"\$" in title.get_text() and title.get_text().isprintable() for title in titles)


def test_picture_grid_names_what_it_cannot_show():
    with pytest.raises(ValueError, match=r"\(3, 1, 4, 4\)"):
        grid(attacked=torch.zeros(3, 1, 4, 4))
    with pytest.raises(ValueError, match="smoothed"):
        grid(predictions={"smoothed": torch.zeros(3)})


@pytest.mark.parametrize(("levels", "images"), [(50, 8), (1, 1)])
def test_trajectory_figure_shows_means_bands_and_noise_levels(levels, images):
    error, ascent_norm, distance = torch.rand(3, levels, images, generator=torch.Generator().manual_seed(0))
    sigmas = tuple(torch.logspace(1, -2, levels).tolist())
    figure = pictures.trajectory_figure(Trajectory(sigmas, sigmas, error, ascent_norm, distance))
    assert len(figure.axes) == 3
    for axes, values in zip(figure.axes, (error, distance, ascent_norm), strict=True):
        level, mean = lines(axes)["mean"].T
        assert level.tolist() == list(range(levels))
        torch.testing.assert_close(mean.float(), values.mean(1))
        assert len(axes.collections) == 1
    figure.draw_without_rendering()
    ticks = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert (ticks[0], ticks[-1]) == ("10", f"{sigmas[-1]:.2g}")


def test_classes_without_a_name_are_told_by_their_number(monkeypatch):
    monkeypatch.setattr(f"{__name__}.NAMES", ["cat"])
    titles = [axes.title.get_text() for axes in grid().axes]
    assert titles[0].startswith("cat → cat") and titles[5].startswith("1 → 1") and titles[11].startswith("2 → cat")
    monkeypatch.setattr(f"{__name__}.NAMES", [])
    assert grid().axes[0].title.get_text().startswith("0 → 0")
