"""Pictures are found at any depth, read exactly, written without loss, and never changed silently."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lit_pursamere.data.pictures import decode, encode, find_pictures


def as_png(mode: str = "RGB", **options) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG" if mode == "CMYK" else "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_survive_a_round_trip(channels):
    pixels = torch.randint(256, (channels, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(decode(encode(pixels)), pixels)
    assert encode(pixels) == encode(pixels)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("RGB", 3), ("P", 3)])
def test_grey_and_colour_pictures_are_taken_as_they_are(mode, channels):
    assert decode(as_png(mode)).shape == (channels, 5, 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (as_png("RGBA"), "is transparent in places; --convert"),
        (as_png("LA"), "is transparent in places"),
        (as_png("P", transparency=0), "is transparent in places"),
        (as_png("I;16"), "more than 8 bits"),
        (as_png("CMYK"), "neither grey nor RGB but CMYK; --convert"),
        (as_png()[:-60], "is damaged: "),
        (b"", "is no PNG or JPEG picture"),
        (b"hello", "is no PNG or JPEG picture"),
    ],
    ids=["RGBA", "LA", "palette", "16 bits", "CMYK", "cut", "empty", "text"],
)
def test_what_would_be_changed_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        decode(content)


def test_conversion_on_demand():
    assert decode(as_png("RGBA"), 3).shape == (3, 5, 7) and decode(as_png(), 1).shape == (1, 5, 7)
    with pytest.raises(ValueError, match="more than 8 bits"):
        decode(as_png("I;16"), 1)


def test_pictures_are_found_at_any_depth(tmp_path):
    for name in ("b.JPG", "a/c/x.png", "a/y.jpeg", "notes.txt", ".hidden/z.png", "a/.z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [picture.name for picture in find_pictures(tmp_path)] == ["a/c/x.png", "a/y.png", "b.png"]
    (tmp_path / "b.png").touch()
    with pytest.raises(ValueError, match=r"b\.JPG and .*b\.png would both become b\.png"):
        find_pictures(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no pictures in .*known: \.png, \.jpg, \.jpeg"):
        find_pictures(tmp_path / "none")


def test_what_says_that_it_is_another_kind_is_refused_and_no_program_is_started(monkeypatch):
    """Pillow goes by a file's content, and has Ghostscript draw what begins like PostScript."""
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **options: started.append(args))
    bitmap = io.BytesIO()
    Image.new("L", (4, 4)).save(bitmap, "BMP")
    for content in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run\n", bitmap.getvalue()):
        with pytest.raises(ValueError, match="is no PNG or JPEG picture"):
            decode(content)
    assert not started
