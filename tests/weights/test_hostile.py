"""Files made to harm: on every way into the reader they run nothing, change nothing, and end in one clear error."""

from __future__ import annotations

import collections
import io
import pickle

import pytest
import torch

from lit_pursamere.weights import inspect_weights, load_weights, read_weights
from lit_pursamere.weights.pickles import Refused, read_pickle

pytestmark = pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")


WEIGHTS = {"a": torch.ones(2)}
LAYOUTS = {
    "plain": lambda bad: {**WEIGHTS, "x": bad},
    "lightning": lambda bad: {"state_dict": WEIGHTS, "pytorch-lightning_version": "2", "hyper_parameters": {"x": bad}},
    "lightning with averaging": lambda bad: {"state_dict": WEIGHTS, "current_model_state": WEIGHTS, "callbacks": [bad]},
    "ncsnv2": lambda bad: [WEIGHTS, {"state": bad}, 0, 3, WEIGHTS],
    "score_sde": lambda bad: {"optimizer": bad, "model": WEIGHTS, "ema": {"shadow_params": [torch.ones(2)]}, "step": 1},
    "classifier": lambda bad: {"net": WEIGHTS, "acc": bad},
    "in place of a tensor": lambda bad: {"a": bad},
    "alone": lambda bad: bad,
}  # fmt: skip


@pytest.mark.parametrize("archive", ["zip", "legacy", 2, 3, 4, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_call_is_refused_in_every_layout(tmp_path, hostile, layout, archive, refused, dump):
    (tmp_path / "w").write_bytes(dump(LAYOUTS[layout](hostile), archive))
    message = refused(tmp_path / "w")
    assert "io.open" in message and "nothing in it was run" in message and "--execute-code-in-file" in message


@pytest.mark.parametrize("protocol", [0, 1])
def test_pickles_of_the_first_protocols_are_not_even_begun(tmp_path, hostile, protocol, refused, dump):
    (tmp_path / "w").write_bytes(dump({**WEIGHTS, "x": hostile}, protocol))
    assert "text" in refused(tmp_path / "w") or "neither" in refused(tmp_path / "w")


def test_the_environment_cannot_unlock_it(tmp_path, hostile, monkeypatch, refused):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({**WEIGHTS, "x": hostile}, tmp_path / "w")
    assert "nothing in it was run" in refused(tmp_path / "w")


def test_the_same_call_would_have_run_elsewhere(tmp_path, call):
    pickle.loads(pickle.dumps(call(open, str(tmp_path / "made"), "w"))).close()
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("where", [".", "unet"])
def test_inside_a_diffusers_folder(tmp_path, hostile, where):
    folder = tmp_path / "ddpm" / where
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    torch.save({**WEIGHTS, "x": hostile}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="nothing in it was run"):
        read_weights(tmp_path / "ddpm")


@pytest.fixture
def rebuilt(call):
    """A tensor as a pickle of an object holds it, on a storage of our choice."""
    hooks = collections.OrderedDict()
    return lambda storage: call(torch._utils._rebuild_tensor_v2, storage, 0, (2,), (1,), False, hooks)


@pytest.mark.parametrize("archive", ["zip", "legacy", 2, 4])
def test_inside_the_storages_of_an_edm_snapshot(
    tmp_path, save_elsewhere, edm, hostile, archive, call, refused, dump, rebuilt
):
    storage = call(torch.storage._load_from_bytes, dump(hostile, archive))
    edm.model.map_layer0.__dict__["_parameters"]["weight"] = rebuilt(storage)
    save_elsewhere({"ema": edm}, tmp_path / "w", "pickle")
    assert "nothing in it was run" in refused(tmp_path / "w")


def test_storages_that_nest_or_are_none(tmp_path, hostile, call, refused, rebuilt):
    inner = call(torch.storage._load_from_bytes, pickle.dumps(hostile))
    nested = call(torch.storage._load_from_bytes, pickle.dumps(inner))
    (tmp_path / "w").write_bytes(pickle.dumps({"a": rebuilt(nested)}))
    assert "numbers that it does not hold" in refused(tmp_path / "w")
    no_storage = call(torch.storage._load_from_bytes, pickle.dumps([1]))
    (tmp_path / "w").write_bytes(pickle.dumps({"a": rebuilt(no_storage)}))
    assert "a tensor is built on a list" in refused(tmp_path / "w")


def test_the_source_in_an_edm_snapshot_is_not_executed(tmp_path, save_elsewhere, edm, trace):
    for module in (edm, edm.model):
        type(module).source = f"open({str(trace)!r}, 'w')"
    try:
        path = save_elsewhere({"ema": edm}, tmp_path / "w", "pickle")
    finally:
        for module in (edm, edm.model):
            type(module).source = ""
    assert str(trace).encode() in path.read_bytes()
    assert inspect_weights(path).tensors.keys() == edm.state_dict().keys()


def test_a_class_that_acts_when_it_is_made_or_filled_stays_inert(tmp_path, save_elsewhere, archive, wrn, trace):
    wrn.spy = Spy(str(trace))
    path = save_elsewhere({"net": wrn}, tmp_path / "w", archive)
    assert read_weights(path).keys() == wrn.state_dict().keys()
    Spy.armed = True
    try:
        assert read_weights(path).keys() == wrn.state_dict().keys()
    finally:
        Spy.armed = False


class Spy:
    """Importable, so a reader that imported the classes of a file would run its methods."""

    armed = False

    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        if Spy.armed:
            open(state["path"], "w").close()


def test_nothing_is_loaded_from_a_refused_file(tmp_path, hostile, ncsnv2):
    before = {name: tensor.clone() for name, tensor in ncsnv2.state_dict().items()}
    torch.save({**{n: t + 1 for n, t in before.items()}, "x": hostile}, tmp_path / "w")
    with pytest.raises(ValueError, match="nothing in it was run"):
        load_weights(ncsnv2, tmp_path / "w")
    assert all(torch.equal(tensor, before[name]) for name, tensor in ncsnv2.state_dict().items())


# --- names: what the pickle asks for decides nothing about what is imported


@pytest.mark.parametrize(
    "name",
    ["os.system", "posix.system", "nt.system", "builtins.eval", "builtins.exec", "builtins.getattr", "__builtin__.eval",
     "builtins.__import__", "subprocess.Popen", "importlib.import_module", "pickle.loads", "types.FunctionType",
     "operator.attrgetter", "functools.reduce", "runpy.run_path", "ctypes.CDLL", "collections.namedtuple",
     "copyreg.add_extension", "torch.load", "torch.serialization.load", "torch.hub.load", "torch.jit.load",
     "torch.ops.load_library", "numpy.load", "torch.storage.os.system", "torch._utils._import_dotted_name",
     "torch.utils.cpp_extension.load_inline", "lit_pursamere.weights.saving.write_tensors", "nowhere.to_be_found"],
)  # fmt: skip
@pytest.mark.parametrize("opcode", ["GLOBAL", "STACK_GLOBAL"])
def test_calls_are_refused_by_name(tmp_path, name, opcode, refused):
    module, _, function = name.rpartition(".")
    if opcode == "GLOBAL":
        pickled = f"c{module}\n{function}\n".encode()
    else:
        pickled = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, function)) + b"\x93"
    (tmp_path / "w").write_bytes(b"\x80\x04" + pickled + b"\x8c\x04echo\x85R.")
    assert name.replace("__builtin__", "builtins") in refused(tmp_path / "w")


def test_names_cannot_write_on_the_terminal(tmp_path, refused):
    name = b"\x1b[2Jsystem\nlit-pursamere: all is well"
    (tmp_path / "w").write_bytes(b"\x80\x04\x8c\x02os\x8c" + bytes([len(name)]) + name + b"\x93)R.")
    assert refused(tmp_path / "w").isprintable()


def test_dotted_names_do_not_reach_into_what_is_allowed(tmp_path, refused):
    for dotted in ("OrderedDict.fromkeys", "OrderedDict.__init__.__globals__"):
        body = b"\x8c\x0bcollections\x8c" + bytes([len(dotted)]) + dotted.encode() + b"\x93)R."
        (tmp_path / "w").write_bytes(b"\x80\x04" + body)
        assert f"collections.{dotted}" in refused(tmp_path / "w")


@pytest.mark.parametrize(
    ("allowed", "arguments"),
    [
        (b"c_codecs\nencode\n", b"X\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R"),
        (b"ccopyreg\n_reconstructor\n", b"c__builtin__\nset\nc__builtin__\nobject\nN\x87R"),
        (b"ccopyreg\n__newobj__\n", b"X\x01\x00\x00\x00a\x85R"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n", b"(ctorch\nload\nN)NtR"),
        (b"ctorch\nFloatStorage\n", b")R"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n", b"(NK\x00))\x89NtR"),
    ],
)
def test_allowed_names_do_only_what_they_are_for(allowed, arguments):
    with pytest.raises(Refused):
        read_pickle(io.BytesIO(b"\x80\x02" + allowed + arguments + b"."))


STATE = b"}X\x06\x00\x00\x00originK\x01s"


@pytest.mark.parametrize("target", [b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
                                    b"ctorch\nFloatStorage\n", b"cos_\nsystem\n", b"c__builtin__\nset\n"])  # fmt: skip
@pytest.mark.parametrize("state", [b"N" + STATE + b"\x86", STATE], ids=["slots", "attributes"])
def test_the_stand_ins_cannot_be_changed(tmp_path, target, state, refused):
    (tmp_path / "w").write_bytes(b"\x80\x02" + target + state + b"b.")
    refused(tmp_path / "w")


def test_attributes_cannot_be_put_on_dicts():
    """An OrderedDict whose `items` is something else would mislead whoever walks it."""
    body = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb."
    read = read_pickle(io.BytesIO(body))
    assert type(read) is dict and list(read.items()) == []


@pytest.mark.parametrize("body", [b"(ios\nsystem\n.", b"(cos_\nSystem\no.", b"\x82\x01.", b"P1\n.", b"\x97."])
def test_opcodes_that_weights_do_not_need(body):
    with pytest.raises(Refused, match="opcode"):
        read_pickle(io.BytesIO(b"\x80\x02" + body))
