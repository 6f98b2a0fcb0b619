"""Whatever holds images and labels becomes the same images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lit_pursamere.data import NPZ, Digits
from lit_pursamere.front.images import gathered

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
LABELS = np.array([3, 0, 1, 1, 2, 0])
FLOATS = torch.from_numpy(LEVELS) / 255
PAIR = TensorDataset(FLOATS, torch.from_numpy(LABELS))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(LEVELS, LABELS, strict=True))


class Named(torch.utils.data.Dataset):
    classes = ("a", "b", "c", "d")

    def __len__(self):
        return 6

    def __getitem__(self, position):
        image = Image.fromarray(LEVELS[position].transpose(1, 2, 0))
        return {"image": image, "label": int(LABELS[position])}


@pytest.mark.parametrize("data", [
    (LEVELS, LABELS), (FLOATS, torch.from_numpy(LABELS)), [FLOATS.double(), LABELS.tolist()],
    (FLOATS.permute(0, 2, 3, 1), LABELS.astype(np.uint8)), (LEVELS, torch.nn.functional.one_hot(torch.tensor(LABELS))),
    (FLOATS.requires_grad_(False), LABELS[:, None].astype(np.float32)), ([*LEVELS], [*LABELS]),
    PAIR, DataLoader(PAIR, batch_size=4), Stream(), Named(), DataLoader(Stream(), batch_size=2),
])  # fmt: skip
def test_of_any_kind(data):
    found = gathered(data)
    assert found.pixels.dtype == np.uint8 and np.array_equal(found.pixels, LEVELS)
    assert found.labels.dtype == np.int64 and np.array_equal(found.labels, LABELS)
    assert torch.equal(found.tensors()[0], FLOATS)


def test_of_a_data_module():
    found, data = gathered(Digits(test_size=3)), Digits(test_size=3)
    data.setup("test")
    x, y, _ = next(iter(data.test_dataloader()))
    assert torch.equal(found.tensors()[0], x) and found.labels.tolist() == y.tolist()
    assert found.class_names == data.class_names


def test_floats_between_grey_levels_stay_floats(tmp_path):
    x = FLOATS * 0.9
    found = gathered((x, LABELS))
    assert found.pixels.dtype == np.float32 and torch.equal(found.tensors()[0], x)
    found.write(tmp_path / "images.npz")
    data = NPZ(str(tmp_path / "images.npz"))
    data.setup("test")
    assert torch.equal(data.sources["test"][4][0], x[4]) and data.sources["test"][4][1] == 2


@pytest.mark.parametrize("data", [(LEVELS, LABELS), PAIR, Named()])
def test_so_many_are_drawn_at_random_and_again_the_same(data):
    found, again, other = gathered(data, 3, 1), gathered(data, 3, 1), gathered(data, 3, 2)
    assert len(found) == 3 and np.array_equal(found.pixels, again.pixels)
    assert not np.array_equal(found.pixels, other.pixels)
    assert all(any(np.array_equal(one, level) for level in LEVELS) for one in found.pixels)


@pytest.mark.parametrize("data", [Stream(), DataLoader(PAIR, batch_size=4)])
def test_of_what_only_iterates_the_first_ones(data):
    assert np.array_equal(gathered(data, 3).pixels, LEVELS[:3])


@pytest.mark.parametrize(("data", "message"), [
    ((FLOATS * 255, LABELS), r"0 to 255, like grey levels: divide by 255"),
    ((FLOATS * 2 - 1, LABELS), r"like \[-1, 1\]: pass \(x \+ 1\) / 2, and normalise=\(0.5, 0.5\)"),
    (((FLOATS - 0.5) / 0.2, LABELS), "like normalised images: pass them before the normalisation"),
    ((FLOATS * torch.nan, LABELS), "with NaN or infinities"),
    ((FLOATS, LABELS - 1), "class numbers from 0 up"),
    ((FLOATS, LABELS + 0.5), "class numbers from 0 up"),
    ((FLOATS, [list("ab")] * 6), "one class number per image"),
    ((FLOATS[0, 0, 0], LABELS), r"images must be square"),
    (([LEVELS[0], LEVELS[1, :, :4, :4]], [0, 1]), "differ in shape"),
    ((LEVELS[:0], LABELS[:0]), "no images"),
])  # fmt: skip
def test_what_is_no_images_or_labels_is_told(data, message):
    with pytest.raises(ValueError, match=message):
        gathered(data)


@pytest.mark.parametrize("data", [3, "photos", [1, 2, 3], DataLoader([1, 2]), [{"a": 1}, {"b": 2}]])
def test_what_holds_no_images_is_told(data):
    with pytest.raises((TypeError, ValueError), match=r"data must be|must begin with|must be"):
        gathered(data)


def test_of_a_data_module_too_images_are_drawn_at_random():
    every, few = gathered(Digits()), gathered(Digits(), 20, seed=1)
    drawn = np.sort(np.random.default_rng(1).permutation(len(every))[:20])
    assert np.array_equal(few.pixels, every.pixels[drawn]) and np.array_equal(few.labels, every.labels[drawn])
