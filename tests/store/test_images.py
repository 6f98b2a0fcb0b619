"""Stored images come back exactly, by their rows, whatever was interrupted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_pursamere.store.images import ImageStore, read_images
from lit_pursamere.store.manifest import write_manifest

SHAPE = (2, 3, 3)


@pytest.fixture
def folder(tmp_path):
    write_manifest(tmp_path, {"images": {"count": 9, "shape": SHAPE}})
    return tmp_path


def pictures(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand((count, *SHAPE), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rows(places: list[list[int] | None]) -> list[dict]:
    return [{"system": "s", "attack": "a", "index": i, "stored": place} for i, place in enumerate(places)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_come_back_bit_for_bit(folder, dtype):
    last, any_ = pictures(5, 0, dtype), pictures(5, 1, dtype)
    stores = [ImageStore(folder, rank) for rank in (0, 1)]
    places = stores[0].append(last[:2], any_[:2]) + stores[1].append(last[2:4], any_[2:4])
    places += stores[0].append(last[4:], any_[4:])
    assert places == [[0, 0], [0, 2], [1, 0], [1, 2], [0, 4]]
    order = [3, 0, 4, 2, 1]
    found = read_images(folder, [rows(places)[i] for i in order])
    assert torch.equal(found[0], last[order]) and torch.equal(found[1], any_[order]) and found[0].dtype == dtype


def test_half_precision_fits_into_float32(folder):
    last = pictures(2).bfloat16()
    places = ImageStore(folder).append(last, last)
    assert torch.equal(read_images(folder, rows(places))[0], last.float())


@pytest.mark.parametrize("left", [1, 71, 72, 100, 143])
def test_a_pair_that_was_cut_short_is_removed(folder, left):
    last, any_ = pictures(3), pictures(3, 1)
    first = ImageStore(folder)
    places = first.append(last[:2], any_[:2])
    with open(first.file, "ab") as file:
        file.write(b"x" * left)  # a pair has 144 bytes
    places += ImageStore(folder).append(last[2:], any_[2:])
    found = read_images(folder, rows(places))
    assert torch.equal(found[0], last) and torch.equal(found[1], any_)


def test_rows_without_images_are_named_with_the_mend(folder):
    places = ImageStore(folder).append(pictures(1), pictures(1))
    with pytest.raises(ValueError, match=r"no images for 1 of 2 rows \(s/a/1\); .*--model\.save_images true"):
        read_images(folder, rows([*places, None]))


@pytest.mark.parametrize("place", [["0/../../x", 0], [0, -2], [0, 0.5], [0], "00", {"0": 0}, [True, 0]])
def test_a_place_is_two_numbers(folder, place):
    ImageStore(folder).append(pictures(1), pictures(1))
    with pytest.raises(ValueError, match=r"a row with stored .* is no"):
        read_images(folder, rows([place]))


def test_lost_images_are_an_error(folder):
    store = ImageStore(folder)
    places = store.append(pictures(2), pictures(2))
    with open(store.file, "r+b") as file:
        file.truncate(144)
    with pytest.raises(ValueError, match="holds 2 images of process 0, but a row names number 3"):
        read_images(folder, rows(places))
    store.file.unlink()
    with pytest.raises(FileNotFoundError, match="images-0, which is gone"):
        read_images(folder, rows(places))
