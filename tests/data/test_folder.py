"""Images in class folders: sorted, lazily read, resized, and named when they are broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_pursamere.data import ImageFolder
from lit_pursamere.data.image_files import FORMATS


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def colour(value: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), (value, 255 - value, 40), np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five images a split; the red channel of image NNN is 50 * NNN, and names run across the two classes."""
    for split in ("test", "train"):
        for number, name in enumerate(["dog", "cat", "dog", "dog", "cat"]):
            write(tmp_path / split / name / f"{number:03d}.png", colour(50 * number))
    (tmp_path / "train" / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    return tmp_path


def ready(root: Path, stage: str = "test", **arguments) -> ImageFolder:
    data = ImageFolder(str(root), **{"image_size": 8, **arguments})
    data.setup(stage)
    return data


def test_classes_are_found_at_construction(root):
    data = ImageFolder(str(root))
    assert data.class_names == ("cat", "dog") and data.num_classes == 2 and data.name == root.name
    assert (data.channels, data.image_size) == (3, 32)


def test_batch(root):
    x, y, index = next(iter(ready(root).predict_dataloader()))
    assert x.shape == (5, 3, 8, 8) and x.dtype == torch.float32 and x.min() >= 0 and x.max() == 1
    assert index.tolist() == [0, 1, 2, 3, 4]
    assert y.tolist() == [0, 0, 1, 1, 1]
    assert (x[:, 0, 0, 0] * 255).round().tolist() == [50, 200, 0, 100, 150]


@pytest.mark.parametrize(
    ("size", "chosen", "labels"),
    [(2, [0, 2], [0, 1]), (3, [0, 2, 1], [0, 1, 0]), (None, [0, 2, 1, 3, 4], [0, 1, 0, 1, 1])],
)
def test_the_first_images_of_class_folders_are_those_of_the_classes_in_turn(root, size, chosen, labels):
    data = ready(root, test_size=size)
    _, y, index = next(iter(data.test_dataloader()))
    assert (index.tolist(), y.tolist()) == (chosen, labels) and data.test_indices() == chosen
    assert data.images_name == f"{root.name}, test images, classes in turn"


def test_classes_are_in_turn_among_held_out_and_drawn_images_too(root):
    held_out = ready(root, evaluate="val", val_size=4)
    assert sorted(held_out.test_indices()) == held_out.indices("val")
    assert [held_out.sources["train"].labels[i] for i in held_out.test_indices()[:2]] == [0, 1]
    drawn = ready(root, test_size=3, test_seed=1)
    labels = [drawn.sources["test"].labels[i] for i in drawn.test_indices()]
    assert labels[:2] == [0, 1] and len(labels) == 3


def test_images_in_another_order_than_that_of_classes_stay_in_it(root):
    data = ready(root, order="name", test_size=2)
    assert data.test_indices() == [0, 1] and data.images_name == f"{root.name}, test images"


def test_order_by_name_runs_over_all_classes(root):
    x, y, _ = next(iter(ready(root, order="name").test_dataloader()))
    assert y.tolist() == [1, 0, 1, 1, 0]
    assert (x[:, 0, 0, 0] * 255).round().tolist() == [0, 50, 100, 150, 200]


def test_other_files_and_hidden_folders_are_ignored(root):
    assert len(ready(root, "fit").sources["train"]) == 5


def test_grey(root):
    x, _, _ = next(iter(ready(root, channels=1).test_dataloader()))
    assert x.shape == (5, 1, 8, 8)
    # ITU-R 601 luma of (50, 205, 40)
    assert x[0, 0, 0, 0].item() * 255 == pytest.approx(0.299 * 50 + 0.587 * 205 + 0.114 * 40, abs=1)


def test_a_grey_file_becomes_rgb(root):
    write(root / "test" / "cat" / "001.png", np.full((8, 8), 90, np.uint8))
    x, _ = ready(root).sources["test"][0]
    assert torch.equal(x, torch.full((3, 8, 8), 90 / 255))


def test_other_sizes_are_resized_on_the_shorter_side_and_cropped_at_the_centre(root):
    wide = colour(0, 16, 40)
    wide[:, :8], wide[:, 32:] = 255, 255  # white margins that a centre crop removes
    write(root / "test" / "cat" / "001.png", wide)
    x, _ = ready(root).sources["test"][0]
    assert x.shape == (3, 8, 8)
    expected = torch.tensor([0, 255, 40]).reshape(3, 1, 1) / 255
    torch.testing.assert_close(x, expected.expand(3, 8, 8), rtol=0, atol=0.5 / 255)


def test_images_of_the_right_size_keep_their_pixels(root):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    write(root / "test" / "cat" / "001.png", pixels)
    x, _ = ready(root).sources["test"][0]
    assert np.array_equal((x * 255).round().numpy(), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_corrupt_image_is_named_when_it_is_read_and_not_before(root, damage):
    path = root / "test" / "dog" / "002.png"
    path.write_bytes(b"nonsense" if damage == "text" else path.read_bytes()[:45])
    source = ready(root).sources["test"]
    assert source[2][1] == 1
    with pytest.raises(OSError, match=r"cannot read the image .*002\.png"):
        source[3]


def test_what_says_that_it_is_postscript_is_refused_and_no_program_is_started(root, monkeypatch):
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **options: started.append(args))
    (root / "test" / "dog" / "002.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run\n"
    )
    with pytest.raises(OSError, match=r"cannot read the image .*002\.png"):
        ready(root).sources["test"][3]
    assert not started


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_under_any_ending(root, ending):
    write(root / "test" / "dog" / f"x{ending}", colour(255)[..., 0] if ending == ".pgm" else colour(255))
    (root / "test" / "dog" / f"x{ending}").rename(root / "test" / "dog" / "x.png")
    assert ready(root).sources["test"][5][0].shape == (3, 8, 8)


def test_deep_images_are_refused_instead_of_clipped(root):
    write(root / "test" / "cat" / "001.png", np.full((8, 8), 4000, np.uint16))
    with pytest.raises(OSError, match=r"001\.png.*more than 8 bits"):
        ready(root).sources["test"][0]


def test_one_split_is_enough_until_the_other_is_wanted(root):
    write(root / "alone" / "test" / "cat" / "0.png", colour(1))
    assert len(ready(root / "alone").sources["test"]) == 1
    with pytest.raises(FileNotFoundError, match=r"no images in .*train"):
        ready(root / "alone", "fit")


def test_different_classes_are_named(root):
    write(root / "train" / "horse" / "000.png", colour(3))
    write(root / "test" / "frog" / "000.png", colour(3))
    with pytest.raises(ValueError, match=r"only in train \['horse'\], only in test \['frog'\]"):
        ImageFolder(str(root))


def test_no_folders_is_one_error_with_place_and_mend(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train/<class>.*--data\.root") as caught:
        ImageFolder(str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in str(caught.value)


@pytest.mark.parametrize("arguments", [{"image_size": 0}, {"image_size": 10**6}, {"channels": 4}, {"order": "random"}])
def test_bad_arguments_are_refused(root, arguments):
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        ImageFolder(str(root), **arguments)
