"""`lit-pursamere sigmas`: the noise levels of a data set."""

from __future__ import annotations

from lit_pursamere.data import ImageDataModule
from lit_pursamere.diffusion.schedules import NoiseLevels, largest_distance
from lit_pursamere.progress import Progress

__all__ = ["sigmas"]


def sigmas(data: ImageDataModule | None = None, images: int | None = None, sigma_min: float = 0.01) -> None:
    """Choose the noise levels of a data set by the rules of Song & Ermon (2020): print them as YAML.

    Args:
        data: A file of configs/data, or any other with a `data` entry
        images: Compare only so many of the training images (default: all).
        sigma_min: Smallest level.

    Raises:
        ValueError: If no data are given, or there are no such levels.
    """
    if data is None:
        raise ValueError("which data? Give `--data configs/data/cifar10.yaml`, or `--data CIFAR10 --data.root ...`")
    if not sigma_min > 0:
        raise ValueError(f"--sigma_min must be above 0; got {sigma_min:g}")
    data.prepare_data()
    data.setup("fit")
    chosen = data.training_images(images)
    with Progress("distances", "block") as progress:
        diameter = largest_distance(chosen, progress=progress)
    levels = NoiseLevels.from_data(diameter, chosen[0].numel(), sigma_min)
    print(f"# {data.name}: largest distance of {len(chosen)} training images {diameter:.4g}, ratio of the levels "
          f"{levels.ratio:.4f}")  # fmt: skip
    print(f"sigmas: {{sigma_max: {levels.sigma_max:.4g}, sigma_min: {levels.sigma_min:g}, count: {levels.count}}}")
