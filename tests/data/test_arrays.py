"""Every layout of a .npz file gives the same images; a file that does not fit says what it holds instead."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_pursamere.data import NPZ

TRAIN, TEST = 7, 5


def images(count: int, seed: int) -> np.ndarray:
    """RGB (N, H, W, C), uint8."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    pixels[0, 0, 0] = (0, 128, 255)
    return pixels


def pairs(**changes) -> dict[str, np.ndarray]:
    arrays = {
        "train_images": images(TRAIN, 0),
        "train_labels": np.arange(TRAIN) % 3,
        "test_images": images(TEST, 1),
        "test_labels": np.arange(TEST) % 3,
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def rows(**changes) -> dict[str, np.ndarray]:
    both = pairs()
    arrays = {
        "images": np.concatenate([both["test_images"], both["train_images"]]),
        "labels": np.concatenate([both["test_labels"], both["train_labels"]]),
        "split": np.array(["test"] * TEST + ["train"] * TRAIN),
        "index": np.arange(TEST + TRAIN),
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def save(folder: Path, arrays: dict[str, np.ndarray]) -> str:
    np.savez_compressed(folder / "set.npz", **arrays)
    return str(folder / "set.npz")


def ready(folder: Path, arrays: dict[str, np.ndarray], *stages: str, **arguments) -> NPZ:
    data = NPZ(save(folder, arrays), **arguments)
    for stage in stages:
        data.setup(stage)
    return data


@pytest.mark.parametrize("layout", [pairs, rows])
def test_batch_of_both_layouts(layout, tmp_path):
    data = ready(tmp_path, layout(), "fit", "test")
    x, y, index = next(iter(data.test_dataloader()))
    assert x.shape == (TEST, 3, 6, 6) and x.dtype == torch.float32
    assert x[0, :, 0, 0].tolist() == [0, pytest.approx(128 / 255), 1]
    assert torch.equal(x, torch.from_numpy(images(TEST, 1)).permute(0, 3, 1, 2) / 255)
    assert y.tolist() == [0, 1, 2, 0, 1] and index.tolist() == list(range(TEST))
    assert np.array_equal(data.sources["train"].images.numpy(), images(TRAIN, 0).transpose(0, 3, 1, 2))


def test_what_the_images_look_like_is_known_at_construction(tmp_path):
    data = ready(tmp_path, rows(classes=np.array(["x", "y", "z", "unseen"])))
    assert (data.name, data.channels, data.image_size, data.num_classes) == ("set", 3, 6, 4)
    assert data.class_names == ("x", "y", "z", "unseen") and data.sources == {}
    assert ready(tmp_path, pairs()).class_names == ("0", "1", "2")


@pytest.mark.parametrize("kind", ["channels first", "float64", "float16", "column of labels"])
def test_other_forms_give_the_same_images(kind, tmp_path):
    arrays = pairs()
    for split in ("train", "test"):
        key = f"{split}_images"
        if kind == "channels first":
            arrays[key] = arrays[key].transpose(0, 3, 1, 2)
        elif kind.startswith("float"):
            arrays[key] = (arrays[key] / 255).astype(kind)
        else:
            arrays[f"{split}_labels"] = arrays[f"{split}_labels"][:, None].astype(np.uint8)
    x, y, _ = next(iter(ready(tmp_path, arrays, "test").test_dataloader()))
    expected = torch.from_numpy(images(TEST, 1)).permute(0, 3, 1, 2) / 255
    assert x.dtype == torch.float32 and y.tolist() == [0, 1, 2, 0, 1]
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-3 if kind == "float16" else 1e-7)


def test_grey_images_may_lack_the_channel_axis(tmp_path):
    grey = images(TEST, 2)[..., 0]
    data = ready(tmp_path, pairs(test_images=grey, train_images=images(TRAIN, 3)[..., 0]), "test")
    assert data.channels == 1 and np.array_equal(data.sources["test"].images.numpy(), grey[:, None])


def test_one_split_is_enough_until_the_other_is_wanted(tmp_path):
    data = ready(tmp_path, pairs(train_images=None, train_labels=None), "test")
    assert len(data.sources["test"]) == TEST
    with pytest.raises(ValueError, match=r"no train images; it holds the arrays \['test_images', 'test_labels'\]"):
        data.setup("fit")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz.*--data\.path"):
        NPZ(str(tmp_path / "nowhere.npz"))


def test_missing_arrays_are_an_error_with_those_found(tmp_path):
    with pytest.raises(ValueError, match=r"needs the arrays .*it holds \['images', 'index', 'labels'\]"):
        ready(tmp_path, rows(split=None))


@pytest.mark.parametrize("damage", ["text", "cut", "overwritten", "npy"])
def test_a_damaged_file_is_one_error(damage, tmp_path):
    path = Path(save(tmp_path, pairs()))
    content = bytearray(path.read_bytes())
    if damage == "text":
        content = b"nonsense"
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "overwritten":
        content[60:90] = b"\xff" * 30
    path.write_bytes(content)
    if damage == "npy":
        with path.open("wb") as file:
            np.save(file, images(2, 0))
    with pytest.raises(OSError, match=r"set\.npz"):
        NPZ(str(path)).setup("fit")


def test_pixels_that_changed_on_the_disk_are_noticed(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, **pairs())
    content = path.read_bytes()
    pixels = images(TEST, 1).tobytes()
    assert content.count(pixels) == 1
    path.write_bytes(content.replace(pixels, pixels[::-1]))
    with pytest.raises(OSError, match="Bad CRC-32 for file 'test_images"):
        NPZ(str(path)).setup("test")


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["test_labels", "classes", "split"])
def test_pickled_objects_are_refused_and_not_run(key, tmp_path):
    bomb = np.array([Bomb(tmp_path / "ran")] * TEST, dtype=object)
    arrays = rows(split=bomb) if key == "split" else pairs(**{key: bomb})
    with pytest.raises(OSError, match=f"'{key}'.*allow_pickle"):
        ready(tmp_path, arrays)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (pairs(test_images=np.zeros((TEST, 6, 7, 3), np.uint8)), "test_images: images must be square"),
        (pairs(test_images=np.zeros((TEST, 6, 6, 4), np.uint8)), "C = 1 or 3"),
        (pairs(test_images=np.zeros((TEST, 108), np.uint8)), r"they are uint8 \(5, 108\)"),
        (pairs(test_images=np.zeros((TEST, 6, 6, 3), np.int64)), "uint8, or floats"),
        (pairs(test_images=np.zeros((TEST, 9, 9, 3), np.uint8)), "the splits differ"),
        (pairs(test_images=np.full((TEST, 6, 6, 3), 255.0)), r"test images: float images must lie in \[0, 1\]"),
        (pairs(test_labels=np.zeros(TEST + 1, int)), r"test_labels must be integers, one for each of the \(5,\)"),
        (pairs(test_labels=np.zeros(TEST)), "test_labels must be integers"),
        (pairs(test_labels=np.full(TEST, -1)), "class numbers from 0 up; one is -1"),
        (pairs(test_labels=np.full(TEST, 2**63 + 5, np.uint64)), "class numbers from 0 up; one is 9223372036854775813"),
        (pairs(test_labels=np.arange(TEST) * 10**9), "a label is 4000000000, and without an array `classes`"),
        (rows(labels=np.arange(TEST + TRAIN) * 10**8), "a label is 1100000000, and without an array `classes`"),
        (pairs(test_images=images(1, 0)[:0], test_labels=np.zeros(0, int)), "test_labels must be integers"),
        (pairs(classes=np.array(["x", "y"])), "a label is 2, but there are 2 classes"),
        (pairs(classes=np.array(["x", "y", "x"])), "several classes are called 'x'; give each a name of its own"),
        (pairs(classes=np.arange(3) / 3), "classes must be names, or whole numbers; they are float64"),
        (rows(split=np.array(["test"] * TEST + ["val"] * TRAIN)), "split must hold 'train' or 'test'.*'val'"),
        (rows(split=np.array(["test"] * TEST)), "split must hold 'train' or 'test' for each of 12 images"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ready(tmp_path, arrays, "test")


def test_ten_thousand_classes(tmp_path):
    data = ready(tmp_path, pairs(test_labels=np.arange(TEST) + 9_995))
    assert data.num_classes == 10_000 and data.class_names[-1] == "9999"


@pytest.mark.parametrize("shape", [(10**9, 6, 6, 3), (2**62, 8), (10**6,)])
def test_no_more_memory_than_the_file_can_fill(shape, tmp_path):
    """A header that promises what the file does not hold is refused before anything is made of that size."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    np.savez(tmp_path / "set.npz", **pairs(test_images=None))
    with zipfile.ZipFile(tmp_path / "set.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("test_images.npy", header.getvalue() + bytes(10_000))
    with pytest.raises(OSError, match=r"test_images\.npy tells of \d+ bytes, which are not there"):
        NPZ(str(tmp_path / "set.npz"))


@pytest.mark.parametrize("name", ["../up", "/root/x", "a/b", "a\\b", ".hidden", "", "x\x1b[31m", "n" * 101])
def test_names_that_no_file_could_have_are_refused(name, tmp_path):
    np.savez(tmp_path / "set.npz", **pairs())
    with zipfile.ZipFile(tmp_path / "set.npz") as archive:
        content = archive.read("test_labels.npy")
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr(f"{name}.npy", content)
    with pytest.raises(ValueError, match="an array cannot be called"):
        NPZ(str(tmp_path / "set.npz"))
