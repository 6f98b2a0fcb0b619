"""Networks and files as others write them, made here because no published file is at hand."""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_pursamere.networks import NCSNv2
from lit_pursamere.weights import read_weights
from lit_pursamere.weights.pickles import read_pickle


class wide_basic(nn.Module):  # noqa: N801, RUF100 - named as meliketoy's trainer names it
    def __init__(self, inputs, outputs):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3)
        self.activation, self.partial = F.relu, functools.partial(F.leaky_relu, negative_slope=0.1)
        self.register_buffer("constant", torch.ones(2), persistent=False)


class Wide_ResNet(nn.Module):  # noqa: N801, RUF100
    def __init__(self):
        super().__init__()
        self.conv1, self.depth, self.name = nn.Conv2d(3, 16, 3, bias=False), 10, "wide"
        for stage, (inputs, outputs) in enumerate([(16, 32), (32, 64), (64, 128)], start=1):
            setattr(self, f"layer{stage}", nn.Sequential(wide_basic(inputs, outputs)))
        self.bn1, self.linear = nn.BatchNorm2d(128), nn.Linear(128, 10)


class Persistent(nn.Module):
    """A module that pickles itself as EDM's do; `source` is the code that the official reader would execute."""

    source = ""

    def __reduce__(self):
        facts = {"type": "class", "version": 6, "module_src": self.source, "class_name": type(self).__name__}
        rebuild = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        return rebuild, ({**facts, "state": dict(self.__dict__)},)


class SongUNet(Persistent):
    def __init__(self):
        super().__init__()
        self.enc = nn.ModuleDict({"32x32_conv": nn.Conv2d(3, 4, 3), "32x32_block0": nn.Conv2d(4, 4, 3)})
        self.map_layer0 = nn.Linear(4, 16)
        self.register_buffer("resample_filter", torch.ones(2, 2))


class EDMPrecond(Persistent):
    def __init__(self):
        super().__init__()
        self.sigma_data, self.model = 0.5, SongUNet()


def _reconstruct_persistent_obj(facts):
    raise AssertionError("the reader called the code that it should only record")


FOREIGN = {
    "networks.wide_resnet": (wide_basic, Wide_ResNet),
    "training.networks": (SongUNet, EDMPrecond),
    "torch_utils.persistence": (_reconstruct_persistent_obj,),
}


@contextmanager
def elsewhere():
    """The machine where the classes above can be imported; outside of this, nobody can."""
    names = {part for name in FOREIGN for part in (name, name.partition(".")[0])}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
        for thing in FOREIGN.get(name, ()):
            setattr(sys.modules[name], thing.__name__, thing)
    before = {thing: thing.__module__ for things in FOREIGN.values() for thing in things}
    for name, things in FOREIGN.items():
        for thing in things:
            thing.__module__ = name
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        for thing, module in before.items():
            thing.__module__ = module


@pytest.fixture
def save_elsewhere():
    """Write an object whose classes cannot be imported here: `torch.save` in a format, or `pickle`."""

    def save(content, path, how="zip"):
        with elsewhere():
            if how == "pickle":
                path.write_bytes(pickle.dumps(content, protocol=4))
            else:
                torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
        return path

    return save


@pytest.fixture(params=["zip", "legacy"])
def archive(request):
    """The two formats of torch.save."""
    return request.param


@pytest.fixture
def wrn():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Wide_ResNet()


@pytest.fixture
def edm():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return EDMPrecond()


@pytest.fixture
def ncsnv2():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return NCSNv2(ngf=4, channels=1, image_size=8)


@pytest.fixture
def unet():
    """State dict with the names of a UNet2DModel that has attention, in the old way of naming it."""
    generator = torch.Generator().manual_seed(6)
    shapes = {
        "conv_in.weight": (8, 3, 3, 3),
        "down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3),
        "down_blocks.1.resnets.0.conv1.weight": (16, 8, 3, 3),
        "down_blocks.1.attentions.0.group_norm.weight": (16,),
        "down_blocks.1.attentions.0.query.weight": (16, 16),
        "down_blocks.1.attentions.0.query.bias": (16,),
        "down_blocks.1.attentions.0.key.weight": (16, 16),
        "down_blocks.1.attentions.0.value.weight": (16, 16),
        "down_blocks.1.attentions.0.proj_attn.weight": (16, 16),
    }
    return OrderedDict((name, torch.randn(shape, generator=generator)) for name, shape in shapes.items())


@pytest.fixture
def trace(tmp_path):
    """A file that hostile weights would make; the test fails if they did."""
    path = tmp_path / "trace"
    yield path
    assert not path.exists(), "code of a weight file was run"


@pytest.fixture
def hostile(call, trace):
    """An object whose unpickling would create the trace."""
    return call(open, str(trace), "w")


@pytest.fixture
def refused():
    """The one error of a file, which must name it."""

    def error(path):
        with pytest.raises(ValueError) as caught:
            read_weights(path)
        message = str(caught.value)
        assert message.startswith(f"{path} is not a readable weight file") and "\n" not in message
        return message

    return error


def dumped(content, archive):
    """The bytes of a file: `zip` and `legacy` as torch.save writes them, or the protocol of a plain pickle."""
    stream = io.BytesIO()
    if archive in ("zip", "legacy"):
        torch.save(content, stream, _use_new_zipfile_serialization=archive == "zip")
    else:
        pickle.dump(content, stream, protocol=archive)
    return stream.getvalue()


@pytest.fixture
def dump():
    """Make the bytes of a file in one of the formats."""
    return dumped


@pytest.fixture
def restricted():
    """What the restricted reader makes of a content in one of the formats."""
    return lambda content, archive="zip": read_pickle(io.BytesIO(dumped(content, archive)))


@pytest.fixture
def same():
    """Tell whether two sets hold the same names in the same order, types and numbers."""

    def compare(a, b):
        assert list(a) == list(b)
        return all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)

    return compare
