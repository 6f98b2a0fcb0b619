"""Images and labels as users have them, as one pair of arrays and back on disk as a data module reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lit_pursamere.data import ImageDataModule
from lit_pursamere.data.arrays import to_nchw
from lit_pursamere.data.resident import to_float, to_levels
from lit_pursamere.store.atomic import replacing

__all__ = ["Images", "gathered"]

PAIRS = (("image", "label"), ("images", "labels"), ("x", "y"), ("pixel_values", "labels"), ("img", "label"))


class Images:
    """Images in memory.

    Args:
        pixels: (N, C, H, W), uint8, or float32 in [0, 1].
        labels: Class numbers (N,), int64.
        class_names: Names of the classes; empty where none are known.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, class_names: Sequence[str] = ()) -> None:
        self.pixels, self.labels, self.class_names = pixels, labels, tuple(class_names)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Of every image."""
        return self.pixels.shape[1]

    @property
    def image_size(self) -> int:
        """Side in pixels."""
        return self.pixels.shape[-1]

    def chosen(self, count: int | None, seed: int) -> Images:
        """So many of them, drawn at random, in their order; all of them if there are no more."""
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise ValueError(f"n must be at least 1; got {count}")
        kept = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return Images(self.pixels[kept], self.labels[kept], self.class_names)

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (N, C, H, W) in [0, 1], float32, and labels (N,)."""
        return to_float(torch.from_numpy(self.pixels)), torch.from_numpy(self.labels)

    def write(self, file: Path) -> None:
        """Write them as `data.NPZ` reads them."""
        arrays = {"test_images": self.pixels, "test_labels": self.labels}
        if self.class_names:
            arrays["classes"] = np.array(self.class_names)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, open(temporary, "wb") as opened:
            np.savez(opened, **arrays)  # type: ignore[arg-type]


def gathered(data: Any, count: int | None = None, seed: int = 0) -> Images:
    """The images of whatever holds images.

    Args:
        data: (images, labels); a Dataset or DataLoader whose items begin with image and label, or have them by name; or
            an `ImageDataModule`. Images are (C, H, W), (H, W) or (H, W, C), uint8 or floats in [0, 1], or Pillow's;
            labels are integers of any type, or one-hot.
        count: How many, drawn at random; of what only iterates, the first ones. None: all.
        seed: Of the draw.

    Raises:
        TypeError: If it holds no images and labels.
        ValueError: If shapes, types or ranges are wrong; the message says what they are.
    """
    names: Sequence[str] = getattr(data, "class_names", None) or getattr(data, "classes", None) or ()
    if isinstance(data, ImageDataModule):
        data.prepare_data()
        data.setup("test")
        names, data = data.class_names, data.test_dataloader().dataset
    if isinstance(data, tuple | list) and len(data) == 2:
        return Images(pixels_of(data[0]), labels_of(data[1]), names).chosen(count, seed)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        total = len(data)  # type: ignore[arg-type]
        kept = range(total)
        if count is not None and count < total:
            kept = np.sort(np.random.default_rng(seed).permutation(total)[:count])  # type: ignore[assignment]
        items = [pair_of(data[int(position)]) for position in kept]
        return Images(pixels_of([x for x, _ in items]), labels_of([y for _, y in items]), names)
    if isinstance(data, DataLoader | IterableDataset):
        names = names or getattr(getattr(data, "dataset", None), "classes", ())
        batches = list(first(data, count))
        if not batches:
            raise ValueError("the data holds no images")
        join = np.concatenate if isinstance(data, DataLoader) else np.stack
        x, y = (join([array_of(part) for part in column]) for column in zip(*batches, strict=True))
        return Images(pixels_of(x[:count]), labels_of(y[:count]), names)
    kinds = "(images, labels), a Dataset, a DataLoader or a data module"
    raise TypeError(f"data must be {kinds}; got {type(data).__name__}")


def first(data: Iterable[Any], count: int | None) -> Iterator[tuple[Any, Any]]:
    """Batches until they hold so many images."""
    found = 0
    for item in data:
        pair = pair_of(item)
        yield pair
        found += np.size(array_of(pair[1])) if isinstance(data, DataLoader) else 1
        if count is not None and found >= count:
            return


def pair_of(item: Any) -> tuple[Any, Any]:
    """Image and label of an item of a Dataset, or images and labels of a batch."""
    if isinstance(item, Mapping):
        for x, y in PAIRS:
            if x in item and y in item:
                return item[x], item[y]
        raise TypeError(f"no image and label among {sorted(map(str, item))}; known names: {PAIRS}")
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise TypeError(f"an item of the data must begin with image and label; got {type(item).__name__}")


def array_of(value: Any) -> np.ndarray:
    """A tensor, an array, a number or one of Pillow's images as an array."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", torch.float32 if value.dtype == torch.bfloat16 else value.dtype).numpy()
    return np.asarray(value)


def pixels_of(images: Any) -> np.ndarray:
    """Images as (N, C, H, W), uint8 or float32 in [0, 1]; floats that are whole grey levels become those.

    Raises:
        ValueError: If they have another shape or range; the message says what they seem to be.
    """
    if isinstance(images, list | tuple):
        arrays = [array_of(image) for image in images]
        if len({array.shape for array in arrays}) > 1:
            shapes = sorted({array.shape for array in arrays})[:3]
            raise ValueError(f"the images differ in shape: {', '.join(map(str, shapes))}; resize them to one size")
        images = np.stack(arrays) if arrays else np.zeros((0, 1, 1, 1), np.uint8)
    pixels = np.ascontiguousarray(to_nchw(array_of(images)))
    if not len(pixels):
        raise ValueError("the data holds no images")
    if pixels.dtype == np.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"float images must lie in [0, 1]; these range from {low:g} to {high:g}{_seems(low, high)}")
    pixels = pixels.astype(np.float32)
    return to_levels(torch.from_numpy(pixels)).numpy()


def _seems(low: float, high: float) -> str:
    if not (np.isfinite(low) and np.isfinite(high)):
        return ", with NaN or infinities; look at how they are made"
    if low >= 0 and high <= 255:
        return ", like grey levels: divide by 255, or pass uint8"
    if -1 <= low < 0 and high <= 1:
        return ", like [-1, 1]: pass (x + 1) / 2, and normalise=(0.5, 0.5) for a model that wants [-1, 1]"
    return ", like normalised images: pass them before the normalisation, and its mean and std as normalise=(mean, std)"


def labels_of(labels: Any) -> np.ndarray:
    """Class numbers (N,), int64, of integers of any type, whole floats, or rows of one-hot.

    Raises:
        ValueError: If they are none.
    """
    array = np.asarray([array_of(label) for label in labels]) if isinstance(labels, list | tuple) else array_of(labels)
    if array.ndim == 2 and array.shape[1] > 1 and np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all():
        array = array.argmax(1)
    array = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise ValueError(f"labels must be one class number per image; they are {array.dtype} {array.shape}")
    whole = array.astype(np.int64)
    if (wrong := (whole != array) | (whole < 0)).any():
        raise ValueError(f"labels must be class numbers from 0 up; some are {array[wrong][:3]}")
    return whole
