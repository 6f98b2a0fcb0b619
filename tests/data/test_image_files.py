"""Images are taken as they are shown, or refused by name: depth, orientation, colours, frames, transparency."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from lit_pursamere.cli.errors import readable
from lit_pursamere.data import ImageFolder
from lit_pursamere.data.pictures import decode, find_pictures
from lit_pursamere.purifiers import Identity
from lit_pursamere.purify.pictures import purify_images

HALVES = np.zeros((8, 8, 3), np.uint8)
HALVES[:4, :, 0], HALVES[:, :4, 1] = 200, 90


def file_of(kind: str, pixels: np.ndarray = HALVES, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def deep_png(channels: int, colour: int) -> bytes:
    """A PNG with 16 bits a channel, each 0x40ff."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x40\xff" * 8 * channels) * 8
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_tiff() -> bytes:
    """A TIFF with 16 bits in each of three channels."""
    pixels = b"\xff\x40" * 192
    tags = [(256, 8), (257, 8), (258, 8 + len(pixels) + 114), (259, 1), (262, 2), (273, 8), (277, 3), (278, 8),
            (279, len(pixels))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, v) for tag, v in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", 9) + entries + bytes(4) + (
        b"\x10\0" * 3
    )  # fmt: skip


def other_profile() -> bytes:
    """A colour profile other than sRGB: one in which red and blue have changed places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    for entry in range(132, 132 + 12 * count, 12):
        name = bytes(profile[entry : entry + 4])
        profile[entry : entry + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(name, name)
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "odd!".encode("utf-16-be"))


OTHER = other_profile()


def shown(tmp_path, content: bytes, size: int = 8) -> np.ndarray:
    """What ImageFolder makes of an image, (H, W, C) in 0..255."""
    (tmp_path / "test" / "a").mkdir(parents=True)
    (tmp_path / "test" / "a" / "x.png").write_bytes(content)
    data = ImageFolder(str(tmp_path), image_size=size)
    data.setup("test")
    return (data.sources["test"][0][0].permute(1, 2, 0) * 255).round().byte().numpy()


DEEP = {
    "grey": deep_png(1, 0), "RGB": deep_png(3, 2), "grey and alpha": deep_png(2, 4), "RGBA": deep_png(4, 6),
    "PPM": b"P6\n8 8\n65535\n" + b"\x40\xff" * 192, "PGM": b"P5\n8 8\n1023\n" + b"\x02\xff" * 64,
    "plain PPM": b"P3\n1 1\n1023\n1 2 3\n", "TIFF": deep_tiff(),
}  # fmt: skip
OTHERS = {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}
FRAMES = {kind: file_of(kind, **OTHERS) for kind in ("PNG", "WEBP", "TIFF")}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_images_are_refused_whatever_their_mode(kind, tmp_path):
    with pytest.raises(OSError, match=r"the image .*x\.png has more than 8 bits a channel .*; make it one with 8"):
        shown(tmp_path, DEEP[kind])


@pytest.mark.parametrize("convert", [None, 1, 3])
@pytest.mark.parametrize("kind", ["grey", "RGB", "grey and alpha", "RGBA"])
def test_deep_pictures_are_refused_also_on_demand(kind, convert):
    with pytest.raises(ValueError, match="has more than 8 bits a channel"):
        decode(DEEP[kind], convert)


@pytest.mark.parametrize("kind", FRAMES)
def test_images_of_several_frames_are_refused(kind, tmp_path):
    with pytest.raises(OSError, match=r"the image .* has 2 frames; save the one"):
        shown(tmp_path, FRAMES[kind])
    if kind == "PNG":
        with pytest.raises(ValueError, match="has 2 frames"):
            decode(FRAMES[kind], 3)


def test_the_preview_beside_a_photo_is_no_frame(tmp_path):
    content = file_of("MPO", **OTHERS, quality=100, subsampling=0)
    assert np.abs(shown(tmp_path, content).astype(int) - HALVES).max() <= 4 and decode(content).shape == (3, 8, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_as_they_are_shown(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file_of("PNG", HALVES[:, :6], exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert np.array_equal(decode(content).permute(1, 2, 0).numpy(), upright)
    made, expected = shown(tmp_path / "a", content, 6), shown(tmp_path / "b", file_of("PNG", upright), 6)
    assert np.array_equal(made, expected)
    assert orientation == 1 or not np.array_equal(upright, HALVES[:, :6])


def test_colours_of_a_data_set_are_srgb(tmp_path):
    """Red and blue change places where the profile says so; sRGB, no profile and a broken one change nothing."""
    assert np.array_equal(shown(tmp_path / "a", file_of("PNG", icc_profile=OTHER))[..., ::-1] > 99, HALVES > 99)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for place, profile in enumerate((srgb, None, b"no profile")):
        assert np.array_equal(shown(tmp_path / str(place), file_of("PNG", icc_profile=profile)), HALVES)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_purified_pictures_stand_and_shine_as_the_originals(kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"x.{kind.lower()}").write_bytes(file_of(kind, HALVES[:, :6], exif=exif, icc_profile=OTHER))
    purify_images(tmp_path / "in", tmp_path / "out", Identity())
    with Image.open(tmp_path / "out" / "x.png") as made, Image.open(tmp_path / "in" / f"x.{kind.lower()}") as given:
        assert made.info["icc_profile"] == OTHER and made.getexif().get(0x0112, 1) == 1
        assert np.array_equal(np.asarray(made), np.asarray(ImageOps.exif_transpose(given)))


def test_a_profile_is_kept_where_it_fits_only(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(file_of("PNG", HALVES[..., 0], icc_profile=OTHER))
    purify_images(tmp_path / "in", tmp_path / "out", Identity())
    with Image.open(tmp_path / "out" / "x.png") as made:
        assert "icc_profile" not in made.info and np.array_equal(np.asarray(made), HALVES[..., 0])


@pytest.mark.parametrize("alpha", [255, 254])
def test_transparent_images_need_a_background(alpha, tmp_path):
    pixels = np.dstack([HALVES, np.full((8, 8), 255, np.uint8)])
    pixels[3, 3, 3] = alpha
    if alpha == 255:
        assert np.array_equal(shown(tmp_path, file_of("PNG", pixels)), HALVES)
    else:
        with pytest.raises(OSError, match=r"x\.png is transparent in places; give it a background"):
            shown(tmp_path, file_of("PNG", pixels))


SYSTEM = ("@eaDir", "__MACOSX", ".hidden", "lost+found", "$RECYCLE.BIN")


def test_folders_of_systems_and_empty_ones_are_no_classes(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog", "empty", *SYSTEM):
            (tmp_path / split / name / "@eaDir").mkdir(parents=True)
            if name != "empty":
                for file in ("x.png", "._x.png", "@eaDir/x.png"):
                    (tmp_path / split / name / file).write_bytes(file_of("PNG"))
        (tmp_path / split / "cat" / "folder.png").mkdir()
    (tmp_path / "test" / "dog" / "x.png").unlink()  # no test images of a class are no mistake
    (tmp_path / "train" / "none").mkdir()
    data = ImageFolder(str(tmp_path), image_size=8)
    data.setup("fit")
    data.setup("test")
    assert data.class_names == ("cat", "dog")
    assert len(data.sources["train"]) == 2 and len(data.sources["test"]) == 1
    assert [picture.name for picture in find_pictures(tmp_path / "train")] == ["cat/x.png", "dog/x.png"]


def test_the_damaged_file_is_named_in_one_line_by_loader_workers_too(tmp_path):
    (tmp_path / "test" / "a").mkdir(parents=True)
    for name in ("0.png", "1.png"):
        (tmp_path / "test" / "a" / name).write_bytes(file_of("PNG")[: None if name == "0.png" else 45])
    data = ImageFolder(str(tmp_path), image_size=8, num_workers=1, eval_batch_size=2)
    data.setup("test")
    with pytest.raises(OSError, match=r"1\.png") as caught:
        next(iter(data.test_dataloader()))
    told = readable(caught.value)
    assert told.startswith(f"cannot read the image {tmp_path / 'test/a/1.png'}: ") and "\n" not in told


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_that_are_changed_are_read_or_refused():
    """Whatever byte is damaged, EXIF and profile included: pixels, or one kind of error."""
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = [file_of("PNG", exif=exif, icc_profile=OTHER), file_of("JPEG", exif=exif)]
    generator = torch.Generator().manual_seed(0)
    for content in whole:
        for place in torch.randint(len(content), (30,), generator=generator).tolist():
            damaged = bytearray(content)
            damaged[place] ^= 1 << int(torch.randint(8, (), generator=generator))
            try:
                assert decode(bytes(damaged)).dtype == torch.uint8
            except ValueError as error:
                assert "\n" not in str(error)


def test_a_link_to_nothing_is_an_image_that_is_missing(tmp_path):
    (tmp_path / "test" / "a").mkdir(parents=True)
    (tmp_path / "test" / "a" / "0.png").symlink_to(tmp_path / "gone.png")
    data = ImageFolder(str(tmp_path), image_size=8)
    data.setup("test")
    with pytest.raises(OSError, match=r"cannot read the image .*0\.png: .*No such file"):
        data.sources["test"][0]
    assert [picture.name for picture in find_pictures(tmp_path)] == ["test/a/0.png"]


def test_long_images_do_not_fill_the_memory(tmp_path):
    (tmp_path / "test" / "a").mkdir(parents=True)
    for name, width in (("0.png", 4000), ("1.png", 5_000_000)):
        Image.new("L", (width, 1)).save(tmp_path / "test" / "a" / name)
    data = ImageFolder(str(tmp_path), image_size=32)
    data.setup("test")
    assert data.sources["test"][0][0].shape == (3, 32, 32)
    with pytest.raises(OSError, match=r"1\.png is too long to be resized to 32: \(5000000, 1\); crop it"):
        data.sources["test"][1]
