"""Files with objects in them are read without their classes: modules become state dicts, the rest inert records."""

from __future__ import annotations

import argparse
import collections
import functools
import io
import pathlib
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from lit_pursamere.weights import inspect_weights, load_weights, read_weights
from lit_pursamere.weights.pickles import Refused, read_pickle
from lit_pursamere.weights.pickles.names import Record

pytestmark = pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")


# --- modules saved as objects


@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel], ids=["bare", "DataParallel"])
def test_a_module_under_net(tmp_path, save_elsewhere, archive, wrn, wrap, same):
    net = wrap(wrn)
    path = save_elsewhere({"net": net, "acc": 95.5, "epoch": 200}, tmp_path / "ckpt.t7", archive)
    found = inspect_weights(path)
    assert same(found.tensors, net.state_dict())
    assert found.layout == f"module object under `net` ({type(net).__name__})"
    assert found.architecture == "WRN-10-2 (ADP naming), 10 classes"
    assert (found.metadata["acc"], found.metadata["epoch"]) == ("95.5", "200")


def test_a_whole_module(tmp_path, save_elsewhere, archive, wrn, same):
    found = inspect_weights(save_elsewhere(wrn, tmp_path / "w", archive))
    assert same(found.tensors, wrn.state_dict())
    assert found.layout == "module object (Wide_ResNet)"
    assert found.metadata == {"depth": "10", "name": "wide"}
    assert "layer1.0.constant" not in found.tensors and "layer1.0.bn1.running_var" in found.tensors


def test_a_whole_module_fills_a_module(tmp_path, save_elsewhere, ncsnv2, same):
    torch.save({"net": ncsnv2}, tmp_path / "w")
    loaded = type(ncsnv2)(ngf=4, channels=1, image_size=8)
    load_weights(loaded, tmp_path / "w")
    assert same(loaded.state_dict(), ncsnv2.state_dict())


def test_edm_snapshot(tmp_path, save_elsewhere, edm, same):
    content = {"ema": edm, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {"path": "cifar10.zip"}}
    found = inspect_weights(save_elsewhere(content, tmp_path / "w", "pickle"))
    assert same(found.tensors, edm.state_dict())
    assert "model.resample_filter" in found.tensors and "model.enc.32x32_conv.weight" in found.tensors
    assert found.layout == "EDM snapshot (EDMPrecond), EMA"
    assert found.architecture == "SongUNet 4 channels wide, 1 block per resolution, 32x32x3"


def test_shared_missing_and_empty_parameters(archive, same, restricted):
    net = nn.Module()
    net.a = nn.Linear(2, 3, bias=False)
    net.b = net.a
    net.none = None
    net.empty = nn.Parameter(torch.zeros(0, 4))
    net.short = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    net.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    assert same(restricted(net, archive), net.state_dict())


@pytest.mark.parametrize(
    ("place", "complaint"),
    [("_parameters", "its parameter 1.x is no plain tensor"), ("_buffers", "its parameter 1.x is no plain tensor"),
     ("_modules", "a part of its module 1. is no module")],
)  # fmt: skip
@pytest.mark.parametrize("part", [3, "text", [torch.ones(1)]], ids=repr)
def test_modules_whose_parts_are_something_else(place, complaint, part, restricted):
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    net[1].__dict__[place]["x"] = part
    with pytest.raises(Refused, match=complaint):
        restricted({"net": net})


def test_only_edm_s_objects_are_taken_for_edm_s():
    state = {"_parameters": {"a": torch.ones(1)}, "_modules": {}}
    call = pickle.dumps({"class_name": "EDMPrecond", "state": state}, protocol=4)
    for origin, kind in (("torch_utils.persistence\n_reconstruct_persistent_obj", dict), ("other\nClass", Record)):
        body = b"\x80\x04c" + origin.encode() + b"\n" + call[11:-1] + b"\x85R."
        assert isinstance(read_pickle(io.BytesIO(body)), kind)


# --- objects beside the weights


def test_harmless_objects_stay_inert(tmp_path, archive, same, restricted):
    content = {
        "state_dict": {"a": torch.ones(2)},
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b")),
        "best": np.float64(0.5),
        "table": np.ones(3),
        "log": collections.defaultdict(list, {"loss": [1, 2]}),
        "counts": collections.Counter("aab"),
        "partial": functools.partial(torch.nn.functional.relu, inplace=True),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "raw": b"bytes",
    }
    torch.save(content, tmp_path / "w", _use_new_zipfile_serialization=archive == "zip")
    assert same(read_weights(tmp_path / "w"), {"a": torch.ones(2)})
    read = restricted(content, archive)
    for name in ("args", "best", "table", "partial", "device"):
        assert isinstance(read[name], Record), name
    assert read["args"].state["lr"] == 0.1
    assert read["log"] == {"loss": [1, 2]} and read["counts"] == {"a": 2, "b": 1}
    assert (read["dtype"], read["raw"]) == (torch.float16, b"bytes")


def test_what_is_read_is_of_plain_types(archive, restricted):
    content = {"a": collections.OrderedDict(b=[torch.ones(1), ("c", {1, 2})])}
    read = restricted(content, archive)
    assert type(read) is type(read["a"]) is dict
    assert type(read["a"]["b"]) is list and type(read["a"]["b"][0]) is torch.Tensor
    assert read["a"]["b"][1] == ("c", {1, 2})
