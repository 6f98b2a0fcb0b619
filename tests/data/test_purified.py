"""The purified set: parts that never change, any order and any process, and a message for each way to be wrong."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections import namedtuple
from contextlib import suppress

import numpy as np
import pytest
import torch

from lit_pursamere.data import PurifiedSet
from lit_pursamere.data.purified_checks import examine, verify

INDICES = [1, 2, 3, 5, 8, 13, 21]  # three parts of 3, 3 and 1 images
MADE = {"data": "world", "split": "train", "purifier": {"class": "Half", "rho": 1.5}, "weights": "abc123"}


def images(first: int = 0, last: int = 7) -> torch.Tensor:
    return torch.rand(7, 2, 4, 3, generator=torch.Generator().manual_seed(1))[first:last]


def make(folder, parts=(0, 1, 2), **options) -> PurifiedSet:
    made = PurifiedSet.create(folder, INDICES, (2, 4, 3), MADE, part=3, **options)
    for number in parts:
        made.write(number, images(3 * number, 3 * number + 3))
    return made


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 3e-4), ("uint8", 0.5 / 255 + 1e-6), ("float32", 0)])
def test_images_come_back_by_their_index_in_the_source(tmp_path, dtype, tolerance):
    make(tmp_path, (2, 0, 1), dtype=dtype)
    opened = PurifiedSet.open(tmp_path)
    assert opened.missing() == [] and opened.count() == len(opened) == 7
    for position, index in enumerate(INDICES):
        assert opened[index].dtype == torch.float32
        torch.testing.assert_close(opened[index], images()[position], rtol=0, atol=tolerance)
    scattered = opened.take([21, 1, 8])
    assert scattered.dtype == dtype and (scattered[1] == opened.take([1])[0]).all()
    with pytest.raises(KeyError, match="has no image 4"):
        opened.take([1, 4])


def test_the_bytes_do_not_depend_on_the_order_of_writing(tmp_path):
    make(tmp_path / "a", (0, 1, 2))
    make(tmp_path / "b", (1,))
    make(tmp_path / "b", (2, 0))
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_a_part_is_a_file_that_numpy_reads(tmp_path):
    make(tmp_path)
    assert (np.load(tmp_path / "part-000001.npy") == images(3, 6).half().numpy()).all()


@pytest.mark.parametrize("change", [{"dtype": "float9"}, {"dtype": None}, {"images": None}, {"part": None}], ids=str)
def test_a_manifest_that_does_not_say_what_the_parts_are_is_damaged(tmp_path, change):
    make(tmp_path)
    told = json.loads((tmp_path / "manifest.json").read_text()) | change
    (tmp_path / "manifest.json").write_text(
        json.dumps({key: value for key, value in told.items() if value is not None})
    )
    with pytest.raises(ValueError, match=rf"manifest\.json is damaged: .*{next(iter(change))}"):
        PurifiedSet.open(tmp_path)


@pytest.fixture
def few_files():
    """A process that may have 128 files open, as far as this one has fewer open."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_set_of_more_parts_than_files_can_be_open(tmp_path, few_files, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    count = 1200
    pixels = torch.arange(count).reshape(count, 1, 1, 1) % 256 / 255
    made = PurifiedSet.create(tmp_path, range(count), (1, 1, 1), MADE, "uint8", part=1)
    for number in range(count):
        made.write(number, pixels[number : number + 1])
    opened = PurifiedSet.open(tmp_path)
    verify(opened)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    assert (opened.take(order) == (255 * pixels[order]).round().byte().numpy()).all()
    assert all(opened[index] == pixels[index] for index in order[:300].tolist())


def test_there_may_be_more_than_a_million_parts(tmp_path):
    made = PurifiedSet.create(tmp_path, range(1_281_167), (1, 2, 2), MADE, "uint8", part=1)
    made.write(1_281_166, torch.ones(1, 1, 2, 2))
    assert made[1_281_166].min() == 1 and made.count() == 1
    verify(made, [1_281_166])


def test_loader_processes_get_the_set_without_its_images(tmp_path):
    made = PurifiedSet.create(tmp_path, range(2), (3, 64, 64), MADE, "uint8", part=2)
    made.write(0, torch.rand(2, 3, 64, 64))
    taken, sent = made.take([0, 1]), pickle.dumps(made)
    assert len(sent) < 3 * 64 * 64 and (pickle.loads(sent).take([0, 1]) == taken).all()


def test_reading_keeps_no_file_open_and_sees_when_one_was_cut_since(tmp_path):
    made, before = make(tmp_path), len(os.listdir("/dev/fd"))
    made.take(INDICES)
    assert len(os.listdir("/dev/fd")) == before
    file = tmp_path / "part-000000.npy"
    file.write_bytes(file.read_bytes()[:130])
    with pytest.raises(ValueError, match=r"part-000000.npy is cut short: image 0 of it is not whole; remove that file"):
        made.take(INDICES)


def flipped(file):
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-30])


def header(file):
    """A byte: a bracket that never closes."""
    content = bytearray(file.read_bytes())
    content[content.index(b"False")] = ord("(")
    file.write_bytes(content)


def emptied(file):
    file.write_bytes(b"")


def swapped(file):
    shutil.copy(file.parent / "part-000000.npy", file)


def told_otherwise(file):
    content = file.read_bytes()
    file.write_bytes(content[:-3] + b"0\n" + content[-1:])


DAMAGES = {
    flipped: r"part-000001\.npy is damaged: its checksum is not that of what was written; remove that file and repeat",
    cut: r"part-000001\.npy is cut short: \d+ bytes instead of \d+; remove that file",
    header: r"part-000001\.npy is damaged: it is no array",
    emptied: r"part-000001\.npy is cut short: 0 bytes",
    swapped: r"part-000001\.npy was not written here: it is part 000000 of the set",
    told_otherwise: r"part-000001\.npy is damaged: its checksum",
    lambda file: file.unlink(): r"lacks 3 of 7 images \(parts 1 of 3\); run the same .*continues where it stopped",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "cut", "header", "emptied", "swapped", "told", "missing"])
def test_each_damage_has_its_message_and_its_mend(tmp_path, damage):
    verify(make(tmp_path))
    damage(tmp_path / "part-000001.npy")
    opened = PurifiedSet.open(tmp_path)
    with pytest.raises(ValueError, match=DAMAGES[damage]):
        verify(opened)
    verify(opened, [1, 3, 21])  # whose parts are whole
    sums, found = examine(opened)
    assert (list(sums), len(found)) == ([0, 2], 1)
    (tmp_path / "part-000001.npy").unlink(missing_ok=True)
    make(tmp_path, (1,))
    verify(PurifiedSet.open(tmp_path))


def test_parts_of_a_manifest_that_was_changed_are_refused(tmp_path):
    make(tmp_path)
    file = tmp_path / "manifest.json"
    file.write_text(file.read_text().replace("1.5", "2.5"))
    with pytest.raises(ValueError, match=r"part-000000\.npy was not written here"):
        verify(PurifiedSet.open(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 2.5}, r"another configuration \(purifier\.rho: there 1\.5, now 2\.5\); choose another `output`"),
        ({"rho": 1.5, "sam": 1}, r"purifier\.sam: there None, now 1"),
    ],
)
def test_another_configuration_is_refused(tmp_path, change, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        PurifiedSet.create(tmp_path, INDICES, (2, 4, 3), MADE | {"purifier": {"class": "Half", **change}}, part=3)
    with pytest.raises(ValueError, match=r"part: there 3, now 4"):
        PurifiedSet.create(tmp_path, INDICES, (2, 4, 3), MADE, part=4)


def test_what_is_no_set_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no purified set in .*lit-pursamere predict"):
        PurifiedSet.open(tmp_path / "nothing")
    (tmp_path / "manifest.json").write_text(json.dumps({"data": "digits", "shape": [2, 1, 8, 8], "dtype": "float16"}))
    with pytest.raises(
        ValueError, match=r"results in format 1, and this version reads and writes format 3; use the version"
    ):
        PurifiedSet.open(tmp_path)
    with pytest.raises(ValueError, match="in format 1"):
        make(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        PurifiedSet.open(tmp_path)


def test_damaged_indices(tmp_path):
    make(tmp_path)
    np.save(tmp_path / "indices.npy", np.array(INDICES) + 1)
    with pytest.raises(ValueError, match=r"indices\.npy is missing or damaged"):
        PurifiedSet.open(tmp_path)


@pytest.mark.filterwarnings("ignore:Data type alias")
@pytest.mark.parametrize("bit", [0, 3])
def test_any_flipped_bit_of_a_header_is_told(bit, tmp_path):
    """The header of an array is Python, and what is wrong with Python has many names."""
    make(tmp_path)
    part, indices = tmp_path / "part-000001.npy", tmp_path / "indices.npy"
    for file in (part, indices):
        whole = file.read_bytes()
        for place in range(128):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            if file == part:
                assert len(examine(PurifiedSet.open(tmp_path), [5])[1]) == 1, place
            else:
                with suppress(ValueError):  # of padding a bit may differ
                    assert PurifiedSet.open(tmp_path).indices.tolist() == INDICES
        file.write_bytes(whole)


def test_images_that_are_none_are_not_kept(tmp_path):
    made = make(tmp_path, ())
    for bad in (float("nan"), 1.5, -0.1):
        broken = images(0, 3)
        broken[1, 0, 0, 0] = bad
        with pytest.raises(ValueError, match=r"part 0 \(image 1 and following\), which is not within \[0, 1\]"):
            made.write(0, broken)
    with pytest.raises(ValueError, match=r"part 2 holds images \(1, 2, 4, 3\); got \(3, 2, 4, 3\)"):
        made.write(2, images(0, 3))
    assert made.missing() == [0, 1, 2]


def test_a_full_disk_is_noticed_before_work_begins(tmp_path, monkeypatch):
    made = make(tmp_path, (0, 1))
    free = made.dtype.itemsize * 24  # the one image that is missing
    for room, refused in ((free, False), (free - 1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, room=room: namedtuple("Usage", "free")(room))
        if refused:
            with pytest.raises(OSError, match=r"no room in .* for 48 more bytes \(47 free\)"):
                make(tmp_path, ())
        else:
            make(tmp_path, ())
