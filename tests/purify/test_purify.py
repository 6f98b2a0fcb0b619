"""`purify`: every picture as the purifier gives it in memory, at any size, resumed without a trace, refused by name."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lit_pursamere.cli.main import main
from lit_pursamere.data.pictures import decode, encode
from lit_pursamere.diffusion import NCSNv2Score, ScoreModel
from lit_pursamere.purifiers import DP_DDIM, Purifier
from lit_pursamere.purify.arrays import as_file
from lit_pursamere.purify.pictures import purify_images


class Colour(ScoreModel):
    """Takes colour pictures with even sides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 2, stride=2)

    def forward(self, y, sigma):
        return self.conv(y).repeat_interleave(2, 2).repeat_interleave(2, 3)


class Darken(Purifier):
    """Half as bright; keeps the sizes of its batches, and stops for good after some of them."""

    def __init__(self, by: float = 0.5) -> None:
        super().__init__()
        self.score_model, self.by, self._last, self._batches = Colour(), by, 99, []
        for parameter in self.parameters():
            parameter.data.fill_(0.1)

    def until(self, last: int) -> Darken:
        """Itself, to stop after so many batches."""
        self._last = last
        return self

    def purify(self, x, noise):
        if len(self._batches) == self._last:
            raise KeyboardInterrupt
        self._batches.append(tuple(x.shape))
        return self.by * x


SIZES = {"a.png": (4, 6), "b/c.png": (4, 6), "b/d.jpg": (8, 2), "e.png": (4, 6), "f.png": (8, 2)}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    rng = torch.Generator().manual_seed(0)
    for name, size in SIZES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(torch.randint(256, (3, *size), dtype=torch.uint8, generator=rng)))
    return folder


def files(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.png"))}


def expected(content: bytes) -> bytes:
    return encode((decode(content) / 255 / 2 * 255).round().to(torch.uint8))


def test_every_picture_under_its_name(photos, tmp_path):
    purifier = Darken()
    assert purify_images(photos, tmp_path / "out", purifier, batch_size=2) == 5
    made = files(tmp_path / "out")
    assert list(made) == ["a.png", "b/c.png", "b/d.png", "e.png", "f.png"]
    for name in SIZES:
        assert made[name.replace(".jpg", ".png")] == expected((photos / name).read_bytes()), name
    assert purifier._batches == [(2, 3, 4, 6), (1, 3, 4, 6), (2, 3, 8, 2)], "one size at a time"


def test_an_interrupted_run_ends_like_one_that_was_not(photos, tmp_path):
    purify_images(photos, tmp_path / "whole", Darken(), batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        purify_images(photos, tmp_path / "out", Darken().until(1), batch_size=2)
    assert list(files(tmp_path / "out")) == ["a.png", "b/c.png"]
    (tmp_path / "out/b/c.png").write_bytes(b"damaged")
    again = Darken()
    assert purify_images(photos, tmp_path / "out", again, batch_size=2) == 5
    assert again._batches == [(2, 3, 4, 6), (1, 3, 4, 6), (2, 3, 8, 2)], "the batch of the damaged one is done whole"
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    idle = Darken().until(0)
    purify_images(photos, tmp_path / "out", idle, batch_size=2)
    (photos / "f.png").write_bytes(encode(torch.zeros(3, 8, 2, dtype=torch.uint8)))
    purify_images(photos, tmp_path / "out", Darken(), batch_size=2)
    assert files(tmp_path / "out")["f.png"] == (photos / "f.png").read_bytes(), "a changed picture is done anew"


class Deleting(Darken):
    """Somebody removes the output folder while its second batch is purified."""

    output = ""

    def purify(self, x, noise):
        if len(self._batches) == 1:
            shutil.rmtree(self.output)
        return super().purify(x, noise)


@pytest.mark.parametrize("kind", ["pictures", "array"])
def test_a_folder_that_is_deleted_meanwhile_ends_the_run(photos, tmp_path, kind):
    purifier, source = Deleting(), photos
    purifier.output = tmp_path / "out"
    if kind == "array":
        source = tmp_path / "images.npy"
        np.save(source, np.zeros((4, 4, 6, 3), np.uint8))
    with pytest.raises(OSError, match=r"out was removed or replaced while this run had it open.*start the command"):
        purify_images(source, tmp_path / "out", purifier, batch_size=2)
    assert not (tmp_path / "out").exists()


def test_a_journal_that_a_kill_cut_short(photos, tmp_path):
    purify_images(photos, tmp_path / "out", Darken())
    journal = tmp_path / "out/made.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    again = Darken()
    purify_images(photos, tmp_path / "out", again)
    assert again._batches == [(2, 3, 8, 2)]
    assert sorted(json.loads(line)["name"] for line in journal.read_text().splitlines()) == list(
        files(tmp_path / "out")
    )


def test_fresh_noise_does_not_depend_on_interruptions(tmp_path):
    model = NCSNv2Score(ngf=4, channels=1, image_size=8)
    (tmp_path / "in").mkdir()
    for k in range(3):
        (tmp_path / f"in/{k}.png").write_bytes(encode(torch.full((1, 8, 8), 60 * k, dtype=torch.uint8)))
    purify_images(tmp_path / "in", tmp_path / "whole", DP_DDIM(model), batch_size=2)
    purify_images(tmp_path / "in", tmp_path / "again", DP_DDIM(model), batch_size=2)
    (tmp_path / "again/2.png").unlink()
    purify_images(tmp_path / "in", tmp_path / "again", DP_DDIM(model), batch_size=2)
    assert files(tmp_path / "again") == files(tmp_path / "whole")


def test_pictures_that_do_not_fit_are_all_named_and_the_rest_is_purified(photos, tmp_path):
    (photos / "grey.png").write_bytes(encode(torch.zeros(1, 4, 6, dtype=torch.uint8)))
    (photos / "odd.png").write_bytes(encode(torch.zeros(3, 5, 6, dtype=torch.uint8)))
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:60])
    with pytest.raises(ValueError) as refused:
        purify_images(photos, tmp_path / "out", Darken())
    told = str(refused.value).splitlines()
    assert told[0] == f"5 pictures are purified in {tmp_path / 'out'}; these 3 are not:"
    assert told[1].startswith(f"{photos / 'cut.png'} is damaged: ") and told[1].endswith(";")
    assert (
        told[2]
        == f"{photos / 'grey.png'} is a grey picture, and the purifier takes colour ones; --convert makes it one;"
    )
    assert told[3] == f"{photos / 'odd.png'} has 6 x 5 pixels, which the purifier's network does not take;"
    assert len(files(tmp_path / "out")) == 5
    (photos / "odd.png").unlink()
    (photos / "cut.png").unlink()
    assert purify_images(photos, tmp_path / "converted", Darken(), convert=True) == 6
    assert decode(files(tmp_path / "converted")["grey.png"]).shape == (3, 4, 6)


def test_nothing_is_begun_where_no_picture_fits(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/grey.png").write_bytes(encode(torch.zeros(1, 4, 6, dtype=torch.uint8)))
    with pytest.raises(ValueError, match=r"none of the 1 pictures in .* can be purified:\n.*grey\.png is a grey"):
        purify_images(tmp_path / "in", tmp_path / "out", Darken())
    assert not (tmp_path / "out").exists()


def test_an_output_with_other_things_is_refused(photos, tmp_path):
    purify_images(photos, tmp_path / "out", Darken())
    with pytest.raises(ValueError, match=r"another configuration \(purifier\.by: there 0\.5, now 0\.25\)"):
        purify_images(photos, tmp_path / "out", Darken(by=0.25))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").touch()
    with pytest.raises(ValueError, match=r"holds other things \(letter\.txt\) and no manifest"):
        purify_images(photos, tmp_path / "mine", Darken())
    for inside in (photos, photos / "b/out"):
        with pytest.raises(ValueError, match="lies within"):
            purify_images(photos, inside, Darken())
    assert not (photos / "b/out").exists()


LAYOUTS = {"(N, H, W, C)": (0, 2, 3, 1), "(N, C, H, W)": (0, 1, 2, 3)}


@pytest.mark.parametrize("axes", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_arrays_keep_layout_type_and_company(tmp_path, axes, dtype):
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    images = (images if dtype == "uint8" else images.astype(dtype) / 255).transpose(axes)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(5))
    with pytest.raises(KeyboardInterrupt):
        purify_images(tmp_path / "x.npz", tmp_path / "out", Darken().until(2), batch_size=2)
    again = Darken()
    assert purify_images(tmp_path / "x.npz", tmp_path / "out", again, batch_size=2) == 5
    assert again._batches == [(1, 3, 4, 6)], "nothing is done twice"
    with np.load(tmp_path / "out/x.npz") as made:
        assert made["images"].dtype == dtype and made["images"].shape == images.shape
        half = np.round(images / 2) if dtype == "uint8" else images / 2
        assert np.abs(made["images"] - half).max() <= (1e-6 if dtype != "uint8" else 0)
        assert (made["labels"] == np.arange(5)).all()
    assert sorted(os.listdir(tmp_path / "out")) == [".lock", ".lock-0", "made.jsonl", "manifest.json", "x.npz"]
    left = tmp_path / "out/.x.npz-images-2"
    left.mkdir()  # by a kill when the result was there
    purify_images(tmp_path / "x.npz", tmp_path / "out", Darken().until(0))
    assert not left.exists()


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f4", "longdouble", "float16"])
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_arrays_of_any_byte_order_and_width(dtype, ending, tmp_path):
    images = np.random.default_rng(0).random((3, 4, 6, 3)).astype(dtype)
    (np.save if ending == "npy" else np.savez)(tmp_path / f"x.{ending}", images)
    assert purify_images(tmp_path / f"x.{ending}", tmp_path / "out", Darken(), batch_size=2) == 3
    made = np.load(tmp_path / "out" / f"x.{ending}")
    made = made if ending == "npy" else made["arr_0"]
    assert made.dtype == images.dtype and np.abs(made - images / 2).max() < 1e-3


def test_tables_beside_images_are_copied_and_named(tmp_path, capsys):
    class Anything(Purifier):
        def purify(self, x, noise):
            return x / 2

    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 256, (4, 8, 8, 3), np.uint8), "confidence": rng.random((4, 10, 10)),
        "mask": np.ones((4, 8, 8), np.uint8), "x_test": rng.random((2, 8, 8)), "max": rng.random((2, 8, 8)),
    }  # fmt: skip
    np.savez(tmp_path / "x.npz", **arrays)
    assert purify_images(tmp_path / "x.npz", tmp_path / "out", Anything(), hidden=False) == 6
    assert "copied as they are, for they are no images: confidence, mask, max\n" in capsys.readouterr().err
    with np.load(tmp_path / "out/x.npz") as made:
        same = {name: np.array_equal(made[name], array) for name, array in arrays.items()}
    assert same == {"images": False, "confidence": True, "mask": True, "x_test": False, "max": True}


def test_batches_that_do_not_fit_may_be_made_smaller(tmp_path):
    class Small(Darken):
        def purify(self, x, noise):
            if len(x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().purify(x, noise)

    np.save(tmp_path / "x.npy", np.zeros((4, 4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=r"batches \(4, 3, 4, 6\) do not fit .* repeat the command with a smaller"):
        purify_images(tmp_path / "x.npy", tmp_path / "out", Small(), batch_size=4)
    assert purify_images(tmp_path / "x.npy", tmp_path / "out", Small(), batch_size=2) == 4
    assert sorted(os.listdir(tmp_path / "out")) == [".lock", ".lock-0", "made.jsonl", "manifest.json", "x.npy"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 6, 3), np.uint8), r"has no images .*it holds images uint8 \(4, 6, 3\)"),
        (np.full((2, 3, 4, 6), 7.0), r"images ranges from 7 to 7; divide by 255"),
        (np.zeros((2, 4, 6), np.uint8), r"\(C, H, W\) = \(1, 4, 6\), which the purifier's network does not take"),
        (np.array([{}]), "cannot be read: "),
    ],
    ids=["single", "range", "grey", "pickled"],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises((ValueError, OSError), match=message):
        purify_images(tmp_path / "x.npy", tmp_path / "out", Darken())


@pytest.fixture
def digit(tmp_path, repository_root, monkeypatch):
    """A folder with one grey picture of 8 x 8."""
    monkeypatch.chdir(repository_root)
    (tmp_path / "in").mkdir()
    Image.fromarray(np.eye(8, dtype=np.uint8) * 200).save(tmp_path / "in/x.png")
    return tmp_path


FILES = ["--purifier", "configs/purifier/pursamere_digits.yaml", "--score_model=configs/score_model/digits.yaml"]


def test_the_command_and_its_line_in_python(digit, capsys):
    args = ["purify", str(digit / "in"), str(digit / "out"), *FILES, "--purifier.sigmas.stride=12"]
    assert main([*args, "--device", "cpu", "--batch_size", "4"]) == 0
    assert f"1 images purified in {digit / 'out'}" in capsys.readouterr().out
    row = json.loads((digit / "out/made.jsonl").read_text())
    x, made = (decode((digit / place / "x.png").read_bytes()).float() / 255 for place in ("in", "out"))
    assert 0.1 < row["moved"] <= 1.5 + 1e-4 and (made - x).norm() == pytest.approx(row["moved"], abs=0.02)
    assert main([*args, "--purifier.rho_pur=1"]) == 1
    assert "purifier.rho_pur: there 1.5, now 1.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "which purifier? Give its file"),
        (["--config", "nope.yaml"], "there is no file nope.yaml"),
        (["--config=configs/digits/purify.yaml"], "configs/digits/purify.yaml is not the file of a purifier"),
        ([*FILES, "--batch_size", "0"], "batch_size must be at least 1; got 0"),
        ([*FILES, "--purifier.rho_pur=-1"], "got rho_pur=-1.0, rho_sam=0.25\n"),
        ([*FILES, "--device", "cuda:77"], "--device cuda:77 cannot be used here"),
        ([*FILES, "--device", "abacus"], "--device abacus cannot be used here"),
    ],
    ids=["purifier", "file", "experiment", "batch", "value", "cuda", "device"],
)
def test_mistakes_of_the_command_are_one_line(digit, args, message, capsys):
    assert main(["purify", str(digit / "in"), str(digit / "out"), *args]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["y/../../../escaped/evil", "/tmp/evil", "..", "a/b"])
def test_names_of_arrays_stay_in_the_output_folder(name, tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros((2, 4, 4, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as archive:
        for member in ("images", name):
            archive.writestr(f"{member}.npy", content.getvalue())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"in.npz: an array cannot be called '{name}'; rename it"):
        purify_images(tmp_path / "in.npz", tmp_path / "a" / "out", Darken())
    assert sorted(tmp_path.rglob("*")) == before


def test_arrays_may_be_called_anything_else_and_are_written_as_numpy_does(tmp_path):
    images = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
    arrays = {"file": images, "allow_pickle": np.arange(3), "my images (2)": images, "0": np.array("text")}
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())
    assert purify_images(tmp_path / "in.npz", tmp_path / "out", Darken()) == 4
    with np.load(tmp_path / "out" / "in.npz") as made:
        assert list(made) == list(arrays) and (made["file"] == made["my images (2)"]).all()
        assert (made["allow_pickle"] == np.arange(3)).all() and made["0"] == "text"
    content = io.BytesIO()
    np.savez(content, x=images, y=np.arange(3))
    assert as_file({"x": images, "y": np.arange(3)}, ".npz") == content.getvalue()


@pytest.mark.parametrize(
    "odd", [np.zeros((2, 8, 8, 5), np.uint8), np.zeros((2, 8, 8), np.int64), np.zeros((8, 8, 3), np.uint8)],
    ids=["channels", "type", "one picture"],
)  # fmt: skip
def test_what_is_called_images_and_holds_none_is_not_copied_in_silence(odd, tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.zeros((2, 4, 6, 3), np.uint8), test_images=odd)
    with pytest.raises(ValueError, match=r"by its name test_images holds images, but .* \(N, C, H, W\)") as caught:
        purify_images(tmp_path / "x.npz", tmp_path / "out", Darken())
    assert f"{odd.dtype} {odd.shape}" in str(caught.value) and not (tmp_path / "out").exists()


def test_a_seed_below_zero_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seed must be a whole number from 0 up; got -1"):
        purify_images(tmp_path, tmp_path / "out", Darken(), seed=-1)
