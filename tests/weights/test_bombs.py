"""Files that are small and claim to be large, or that do not hold together, end in one clear error, and soon."""

from __future__ import annotations

import collections
import copy
import io
import json
import pickle
import resource
import struct
import zipfile

import pytest
import torch

from lit_pursamere.weights import files, read_weights
from lit_pursamere.weights.choice import split
from lit_pursamere.weights.pickles import Refused, machine, read_pickle


def test_compressed_archives(tmp_path, ncsnv2, refused):
    torch.save(ncsnv2.state_dict(), tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as source, zipfile.ZipFile(tmp_path / "w", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
    assert "compressed" in refused(tmp_path / "w")


@pytest.mark.parametrize("how", ["torch", "restricted"])
def test_tensors_that_claim_more_than_the_file_holds(tmp_path, archive, how, dump):
    beside = {"x": collections.deque()} if how == "restricted" else {}
    (tmp_path / "w").write_bytes(dump({"a": torch.zeros(1).expand(10**12), **beside}, archive))
    with pytest.raises(ValueError, match=r"which is more than its|beyond its storage"):
        read_weights(tmp_path / "w")


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (9,), (1,)), (7, (2,), (1,)), (-1, (2,), (1,)), (0, (5,), (2,)), (0, (2,), (-1,)), (0, (-2,), (1,)),
     (0, (10**18, 10**18), (0, 0)), (0, (2, 2), (1,)), ("0", (2,), (1,))],
)  # fmt: skip
def test_tensors_beyond_their_storage(offset, size, stride, call):
    eight_bytes = torch.ones(2).untyped_storage()
    tensor = call(torch._utils._rebuild_tensor, eight_bytes, offset, size, stride)
    with pytest.raises((Refused, ValueError, TypeError)):
        read_pickle(io.BytesIO(pickle.dumps({"a": tensor}, protocol=4)))


def test_entries_that_lie_on_one_another(tmp_path, refused):
    """The directory of a zip archive can name the same bytes any number of times."""
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}.")
        archive.writestr("w/data/0", bytes(10_000))
        for key in range(1, 50):
            entry = copy.copy(archive.getinfo("w/data/0"))
            entry.filename = f"w/data/{key}"
            archive.filelist.append(entry)
    assert "larger than the archive" in refused(tmp_path / "w")


def test_many_tensors_of_one_storage(tmp_path, refused):
    """Tied layers share a storage; two thousand copies of one are no honest file."""
    base = torch.zeros(100_000)
    for copies in (20, 2_000):
        tied = {f"layer{n}": base[n % 7 :] for n in range(copies)}
        torch.save({**tied, "x": collections.deque()}, tmp_path / "w")
        if copies == 20:
            assert len(read_weights(tmp_path / "w")) == 20
    assert "far more content than it holds" in refused(tmp_path / "w")


def test_storages_shorter_than_they_say(tmp_path, refused, dump):
    whole = dump({"a": torch.ones(1000), "x": collections.deque()}, "legacy")
    for cut in (1, 100, 3999, 4000, 4008):
        (tmp_path / "w").write_bytes(whole[:-cut])
        assert "cut short" in refused(tmp_path / "w")


def test_modules_that_share_parts_without_end(tmp_path, refused):
    """Fifty modules, each holding the next one twice, are 2^50 modules to a reader that walks them."""
    net = torch.nn.Module()
    for _ in range(50):
        parent = torch.nn.Module()
        parent._modules = {"a": net, "b": net}
        net = parent
    torch.save({"net": net}, tmp_path / "w")
    assert "more than 100000 modules" in refused(tmp_path / "w")


def test_lists_that_share_parts_without_end(tmp_path, dump):
    deep = collections.deque()
    for _ in range(50):
        deep = [deep, deep]
    (tmp_path / "w").write_bytes(dump({"a": torch.ones(1), "x": deep}, 4))
    assert read_weights(tmp_path / "w")["a"].tolist() == [1]


def test_content_that_holds_itself(tmp_path, dump):
    content = {"a": torch.ones(1), "x": collections.deque()}
    content["self"] = content
    (tmp_path / "w").write_bytes(dump(content, 4))
    assert list(read_weights(tmp_path / "w")) == ["a"]


# --- safetensors


def safetensors(header, data=b"\x00" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start, stop, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "content",
    [
        safetensors({"a": entry(0, 800, (200,))}),
        safetensors({"a": entry(0, 8), "b": entry(0, 8)}),
        safetensors({"a": entry(8, 0)}),
        safetensors({"a": entry(0, 8, (10**18, 10**18))}),
        safetensors({"a": entry(-8, 0)}),
        safetensors({"a": entry(0, 8, dtype="O")}),
        safetensors({"a": entry(0, 8), "__metadata__": {"x": {"y": 1}}}),
        safetensors({"a": entry(0, 8)}, length=2**31),
        safetensors({"a": entry(0, 8)}, length=2**62),
        safetensors({"a": entry(0, 8)}, data=b""),
        safetensors(b'{"a":' * 5000),
        safetensors(b"{" + b"\xff" * 100),
    ],
    ids=lambda content: content[8:60].decode("ascii", "replace"),
)
def test_hostile_safetensors(tmp_path, content, refused):
    (tmp_path / "w").write_bytes(content)
    refused(tmp_path / "w")


def test_an_honest_file_made_by_the_same_hands_is_read(tmp_path):
    (tmp_path / "w").write_bytes(safetensors({"a": entry(0, 8)}))
    assert read_weights(tmp_path / "w")["a"].tolist() == [0, 0]


# --- what takes memory or time out of proportion


def large(number):
    size = (number.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + number.to_bytes(size, "little")


NOTHING = "no tensors by name"
KEYS = "no text or number of customary size"
A_MILLION = b"X\x40\x42\x0f\x00" + b"a" * 1_000_000

# What the body of the pickle is, and what is said of it.
BOMBS = {
    "bytearray": (b"}X\x01\x00\x00\x00acbuiltins\nbytearray\n" + large(1 << 31) + b"\x85Rs", NOTHING),
    "memo": (b"}r" + struct.pack("<I", 2**31), NOTHING),
    "deep tuple": (b"})" + b"\x85" * 3_000_000 + b"K\x01s", "more than 1000000 opcodes"),
    "deep tuple as key": (b"})" + b"\x85" * 100_000 + b"K\x01s", KEYS),
    "deep tuple as value": (b"}K\x01)" + b"\x85" * 100_000 + b"s", NOTHING),
    "deep list": (b"]" * 100_000 + b"a" * 99_999, NOTHING),
    "deep object": (b"cx\nX\n)\x81" * 100_000 + b"b" * 99_999, NOTHING),
    "deep tuple by size": (b"})" + b"0ctorch\nSize\nq\x000)" + b"q\x010h\x00h\x01\x85R" * 20_000 + b"K\x01s", NOTHING),
    "shared tuple as key": (b"})" + b"2\x86" * 100 + b"K\x01s", KEYS),
    "shared tuple in a set": (b"\x8f()" + b"2\x86" * 100 + b"\x90", KEYS),
    "shared tuple by a call": (b"c__builtin__\nset\n])" + b"2\x86" * 100 + b"a\x85R", KEYS),
    "shared tuple as a module": (b")" + b"2\x86" * 100 + b"X\x01\x00\x00\x00a\x93", "what is no text"),
    "shared tuple as storage": (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n)" + b"2\x86" * 100 + b"NK\x01tQ", "no storage"
    ),
    "colliding integers": (
        b"}(" + b"".join(large(((1 << 61) - 1) * n) + b"N" for n in range(1, 20_001)) + b"u", KEYS
    ),
    "tuples as keys": (
        b"}(" + b"".join(b"J%bK\x01\x86N" % n.to_bytes(4, "little") for n in range(9_999)) + b"u", "than 1000 entries"
    ),
    "tuples as keys, one by one": (
        b"}" + b"".join(b"J%bK\x01\x86Ns" % n.to_bytes(4, "little") for n in range(9_999)), "than 1000 entries"
    ),
    "copies of a text": (
        b"](" + A_MILLION + b"X\x06\x00\x00\x00latin1\x86q\x00" + b"c_codecs\nencode\nh\x00R" * 5000 + b"e", "content"
    ),
    "copies of a list": (
        b"]((" + b"N" * 100_000 + b"l\x85q\x00" + b"ctorch\nSize\nh\x00R" * 5000 + b"e", "more content"
    ),
    "set of a text": (b"c__builtin__\nset\n" + A_MILLION + b"\x85R", "container of a str"),
    "large integers as sizes": (
        pickle.dumps(torch.ones(1), protocol=2)[2:-1].replace(b"K\x01\x85q", large(1 << 2000) + b"\x85q", 1), "shape"
    ),
    "dimensions": (
        pickle.dumps(torch.ones(1), protocol=2)[2:-1].replace(b"K\x01\x85q", b"(" + b"K\x01" * 9000 + b"tq", 1),
        "9000 dimensions",
    ),
    "chain of modules": (b"", "too many inside of one another"),
}  # fmt: skip


def chain():
    """Modules, each inside of the last, all with one long name."""
    name = b"X\x90\x01\x00\x00" + b"a" * 400 + b"q\x000"
    module = b"cx\nX\n)\x81}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_modules}"
    return name + (module + b"h\x00") * 5000 + module + b"ub" + b"sub" * 5000


BOMBS["chain of modules"] = (chain(), BOMBS["chain of modules"][1])


@pytest.mark.parametrize("container", ["pickle", pytest.param("zip", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "bomb", [pytest.param(name, marks=pytest.mark.slow if name == "deep tuple" else ()) for name in BOMBS]
)
def test_pickles_that_grow(tmp_path, bomb, container):
    body, complaint = BOMBS[bomb]
    content = b"\x80\x02" + body + b"."
    if container == "zip":
        with zipfile.ZipFile(tmp_path / "w", "w") as archive:
            archive.writestr("w/data.pkl", content)
    else:
        (tmp_path / "w").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=complaint) as caught:
        read_weights(tmp_path / "w")
    assert "\n" not in str(caught.value) and str(tmp_path / "w") in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 21  # KiB


def test_safetensors_of_very_many_dimensions(tmp_path, refused):
    (tmp_path / "w").write_bytes(safetensors({"a": entry(0, 8, [1] * 300_000 + [2])}))
    assert "300001 dimensions" in refused(tmp_path / "w")


def test_safetensors_of_very_many_tensors(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(files, "TENSORS_AT_MOST", 10)
    (tmp_path / "w").write_bytes(safetensors({f"{n}": entry(0, 0, [0]) for n in range(11)}))
    assert "holds 11 tensors" in refused(tmp_path / "w")


def test_very_many_averages_in_one_file():
    """Each of them may be that of any of the other parts."""
    two = {f"{part}{n}.a": torch.ones(2) for n in range(2) for part in ("ema_", "x")}
    many = {f"{part}{n}.a": torch.ones(2) for n in range(20) for part in ("ema_", "x")}
    assert split(two) and not split(many)


def test_opcodes_are_counted(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(machine, "OPCODES_AT_MOST", 1_000)
    (tmp_path / "w").write_bytes(b"\x80\x02" + b"]" * 1_000 + b".")
    assert "more than 1000 opcodes" in refused(tmp_path / "w")


# --- numbers that are not those which were saved


@pytest.mark.parametrize("beside", [{}, {"x": collections.deque()}], ids=["plain", "objects"])
def test_flipped_bytes(tmp_path, refused, dump, beside):
    whole = bytearray(dump({"a": torch.full((50,), 1.5), **beside}, "zip"))
    whole[whole.index(torch.full((50,), 1.5).numpy().tobytes()) + 9] ^= 1
    (tmp_path / "w").write_bytes(whole)
    assert "Bad CRC-32" in refused(tmp_path / "w")


def test_two_entries_of_one_name(tmp_path, refused):
    """Readers differ in which of them they take."""
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}.")
        archive.writestr("w/DATA.PKL", b"\x80\x02].")
    assert "two of its entries have one name" in refused(tmp_path / "w")
