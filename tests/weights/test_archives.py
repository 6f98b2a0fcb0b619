"""Tensors of every kind come out of the restricted reader as they went in, from each format of archive."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from lit_pursamere.weights import read_weights
from lit_pursamere.weights.pickles import Refused, read_pickle

TENSORS = {
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "slice of a larger one": torch.arange(10.0)[3:7],
    "every second": torch.arange(10.0)[::2],
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(2, 0),
    "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    **{str(dtype): torch.ones(3).to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64,
                                                         torch.uint8, torch.bool, torch.uint16)},
}  # fmt: skip


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("archive", ["zip", "legacy", 4])
def test_tensors(kind, archive, restricted):
    tensor = TENSORS[kind]
    read = restricted({"a": tensor, "b": [nn.Parameter(tensor)] if tensor.is_floating_point() else []}, archive)
    assert torch.equal(read["a"], tensor) and read["a"].dtype == tensor.dtype
    assert all(torch.equal(again, tensor) for again in read["b"])


def test_the_restricted_reader_agrees_with_torch(archive, ncsnv2, same):
    content = [
        ncsnv2.state_dict(),
        {"lr": 0.1, "betas": (0.9, 0.999), "on": True, "no": None},
        3,
        {"x"},
        torch.Size([2]),
    ]
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=archive == "zip")
    stream.seek(0)
    whole, read = torch.load(stream, weights_only=True), read_pickle(stream)
    assert same(read[0], whole[0])
    assert read[1:] == whole[1:]


def test_tensors_with_attributes_are_tensors(restricted):
    tensor, parameter = torch.ones(2), nn.Parameter(torch.ones(3))
    tensor.note, parameter.note = "a", "b"
    read = restricted({"a": tensor, "b": parameter})
    assert torch.equal(read["a"], tensor) and torch.equal(read["b"], parameter)


def test_parameters_of_the_time_of_variables():
    """Torch 0.3 wrote a call of Parameter with its data, and a state behind it."""
    tensor = pickle.dumps(torch.ones(2), protocol=2)[2:-1]
    call = b"\x80\x02ctorch.nn.parameter\nParameter\n" + tensor + b"\x85R\x88\x89ccollections\nOrderedDict\n)R\x87b."
    assert torch.equal(read_pickle(io.BytesIO(call)), torch.ones(2))


class Stored:
    """Pickles as a reference to a storage."""

    def __init__(self, kind, key, count, *view):
        self.pid = ("storage", kind, key, "cpu", count, view or None)


class Rebuilt:
    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (*self.args, False, collections.OrderedDict())


class ByHand(pickle.Pickler):
    def persistent_id(self, thing):
        return thing.pid if isinstance(thing, Stored) else None


def legacy_by_hand(content, storages, system=(("little_endian", True),)):
    """A legacy archive with float32 storages, as old versions of torch wrote it."""
    stream = io.BytesIO()
    for part in (torch.serialization.MAGIC_NUMBER, 1001, dict(system)):
        pickle.dump(part, stream, protocol=2)
    ByHand(stream, protocol=2).dump(content)
    pickle.dump(list(storages), stream, protocol=2)
    for numbers in storages.values():
        stream.write(len(numbers).to_bytes(8, "little") + np.array(numbers, dtype="<f4").tobytes())
    return stream


def test_legacy_archives_with_views_of_storages():
    whole = Rebuilt(Stored(torch.FloatStorage, "0", 6), 0, (2, 3), (3, 1))
    view = Rebuilt(Stored(torch.FloatStorage, "0", 6, "0v", 2, 3), 1, (2,), (1,))
    read = read_pickle(legacy_by_hand([whole, view], {"0": range(6)}))
    assert read[0].tolist() == [[0, 1, 2], [3, 4, 5]] and read[1].tolist() == [3, 4]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_legacy_archives_with_pickles_of_any_protocol(tmp_path, protocol):
    content = {"a": torch.arange(3.0), "x": collections.deque()}
    torch.save(content, tmp_path / "w", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "w")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("stored", "complaint"),
    [
        (Stored(torch.FloatStorage, "0", 6, "0v", -2, 3), "exceeds dimension size"),
        (Stored(torch.FloatStorage, "1", 6), "not those of its tensors"),
        (Stored(torch.FloatStorage, "0", -6), "negative dimension"),
        (Stored("FloatStorage", "0", 6), "no storage"),
        (Stored(torch.ones(1), "0", 6), "no storage"),
        (Stored(torch.nn.Linear, "0", 6), "no storage"),
    ],
)
def test_legacy_archives_that_do_not_hold_together(stored, complaint):
    with pytest.raises((Refused, RuntimeError), match=complaint):
        read_pickle(legacy_by_hand([Rebuilt(stored, 0, (1,), (1,))], {"0": range(6)}))


def test_a_legacy_archive_without_one_of_its_storages():
    tensors = [Rebuilt(Stored(torch.FloatStorage, key, 6), 0, (1,), (1,)) for key in "01"]
    assert len(read_pickle(legacy_by_hand(tensors, {"0": range(6), "1": range(6)}))) == 2
    with pytest.raises(Refused, match="not those of its tensors"):
        read_pickle(legacy_by_hand(tensors, {"0": range(6)}))


def test_archives_of_big_endian_machines(tmp_path):
    with pytest.raises(Refused, match="big-endian"):
        read_pickle(legacy_by_hand([], {}, [("little_endian", False)]))
    torch.save({"a": torch.ones(1), "x": collections.deque()}, tmp_path / "w")
    with zipfile.ZipFile(tmp_path / "w") as whole, zipfile.ZipFile(tmp_path / "big", "w") as big:
        for name in whole.namelist():
            big.writestr(name, b"big" if name.endswith("/byteorder") else whole.read(name))
    with pytest.raises(Refused, match="big-endian"):
        read_pickle(io.BytesIO((tmp_path / "big").read_bytes()))
