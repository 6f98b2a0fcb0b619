"""Names of published deny lists, by every opcode that can call or build, in every container: none runs."""

from __future__ import annotations

import builtins
import io
import pickle
import resource
import sys
import zipfile

import numpy as np
import pytest
import torch

from lit_pursamere.data.npz import NPZ
from lit_pursamere.purify.arrays import read_arrays
from lit_pursamere.weights import read_weights

NAMES = """
os.system os.popen os.execv os.execve os.execvp os.spawnl os.spawnv os.spawnvp os.fork os.remove os.unlink os.rename
os.rmdir os.removedirs os.chmod os.kill os.putenv os._exit posix.system posix.popen posix.execv posix.fork nt.system
subprocess.Popen subprocess.run subprocess.call subprocess.check_call subprocess.check_output subprocess.getoutput
subprocess.getstatusoutput commands.getoutput builtins.eval builtins.exec builtins.compile builtins.open
builtins.getattr builtins.setattr builtins.delattr builtins.globals builtins.vars builtins.map builtins.filter
builtins.apply builtins.breakpoint builtins.input builtins.__import__ builtins.type __builtin__.eval
importlib.import_module importlib.reload importlib.machinery.SourceFileLoader imp.load_source runpy.run_path
runpy.run_module runpy._run_code code.interact code.InteractiveInterpreter codeop.compile_command pty.spawn
platform.popen pickle.loads pickle.load _pickle.loads dill.loads cloudpickle.loads joblib.load shelve.open
marshal.loads torch.load torch.hub.load torch.jit.load torch.serialization.load torch.ops.load_library torch.compile
torch.utils.cpp_extension.load torch._inductor.codecache.compile_file torch.utils._config_module.load_config
torch.storage.torch.load torch._dynamo.guards.GuardBuilder.get torch.fx.experimental.symbolic_shapes.eval numpy.load
numpy.fromfile numpy.loadtxt numpy.testing._private.utils.runstring numpy.f2py.crackfortran.myeval operator.attrgetter
operator.methodcaller operator.itemgetter functools.reduce functools.partialmethod itertools.starmap
types.FunctionType types.CodeType types.MethodType ctypes.CDLL ctypes.PyDLL ctypes.util.find_library pydoc.locate
pydoc.pipepager pydoc.safeimport pip.main pip._internal.main timeit.timeit timeit.main timeit.Timer cProfile.run
cProfile.runctx profile.run profile.Profile.run bdb.Bdb.run bdb.Bdb trace.Trace.run pdb.run pdb.Pdb
doctest.debug_script asyncio.create_subprocess_shell asyncio.unix_events._UnixSubprocessTransport._start asyncio.run
multiprocessing.Process multiprocessing.util.spawnv_passfds threading.Thread concurrent.futures.ThreadPoolExecutor
shutil.rmtree shutil.move shutil.copy shutil.os.system webbrowser.open webbrowser.os.system socket.socket
socket.create_connection urllib.request.urlopen urllib.request.urlretrieve http.client.HTTPConnection requests.get
smtplib.SMTP ftplib.FTP sys.exit sys.settrace signal.alarm tempfile.mktemp pathlib.Path.unlink zipfile.ZipFile
tarfile.open sqlite3.connect logging.config.dictConfig distutils.file_util.write_file ensurepip._run_pip venv.create
idlelib.pyshell.ModifiedInterpreter.runcommand idlelib.run.Executive.runcode lib2to3.pgen2.pgen.ParserGenerator
test.support.script_helper.assert_python_ok uuid._get_command_stdout aiohttp.client.ClientSession
""".split()  # noqa: SIM905


def text(word):
    return b"X" + len(word.encode()).to_bytes(4, "little") + word.encode()


def plain_global(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def stack_global(name):
    module, _, attribute = name.rpartition(".")
    return text(module) + text(attribute) + b"\x93"


def form(body):
    return lambda name, argument: body(name, text(argument))


def line(name, opcode):
    module, _, attribute = name.rpartition(".")
    return opcode + f"{module}\n{attribute}\n".encode()


FORMS = {
    "GLOBAL REDUCE": form(lambda name, argument: plain_global(name) + argument + b"\x85R"),
    "STACK_GLOBAL REDUCE": form(lambda name, argument: stack_global(name) + argument + b"\x85R"),
    "memo": form(
        lambda name, argument: (
            text(name.rpartition(".")[0]) + b"q\x010" + text(name.rpartition(".")[2]) + b"q\x020h\x01h\x02\x93q\x03"
            b"0h\x03" + argument + b"\x85R"
        )
    ),
    "INST": form(lambda name, argument: b"(" + argument + line(name, b"i")),
    "OBJ": form(lambda name, argument: b"(" + plain_global(name) + argument + b"o"),
    "NEWOBJ": form(lambda name, argument: plain_global(name) + argument + b"\x85\x81"),
    "NEWOBJ_EX": form(lambda name, argument: plain_global(name) + argument + b"\x85}\x92"),
    "copyreg": form(lambda name, argument: b"ccopyreg\n__newobj__\n" + plain_global(name) + argument + b"\x86R"),
    "reconstructor": form(
        lambda name, argument: b"ccopyreg\n_reconstructor\n" + plain_global(name) * 2 + argument + b"\x87R"
    ),
    "BUILD of its state": form(lambda name, argument: plain_global(name) + b"}" + text("x") + argument + b"sb"),
    "BUILD that sets __setstate__": form(
        lambda name, argument: (
            b"ccollections\nOrderedDict\n)R}" + text("__setstate__") + plain_global(name) + b"sb" + argument + b"b"
        )
    ),
    "BUILD of a class": form(
        lambda name, argument: (
            b"cx\nX\nN}" + text("__setstate__") + plain_global(name) + b"s\x86b0cx\nX\n)\x81" + argument + b"b"
        )
    ),
    "partial": form(
        lambda name, argument: b"cfunctools\npartial\n" + plain_global(name) + argument + b"\x86R)R"
    ),
    "rebuild": form(
        lambda name, argument: (
            b"ctorch._tensor\n_rebuild_from_type_v2\n("
            + plain_global(name) + b"ctorch\nTensor\n" + argument + b"\x85NtR"
        )
    ),
    "EXT1": lambda name, argument: b"\x82\x01)R",
    "EXT2": lambda name, argument: b"\x83\x01\x00)R",
    "EXT4": lambda name, argument: b"\x84\x01\x00\x00\x00)R",
    "PERSID": lambda name, argument: b"P" + name.encode() + b"\n",
    "BINPERSID": form(lambda name, argument: plain_global(name) + argument + b"\x86Q"),
    "BINPERSID storage": form(
        lambda name, argument: b"(" + text("storage") + plain_global(name) + argument * 2 + b"K\x01tQ"
    ),
}  # fmt: skip


def zipped(pickled):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"w/{name}", content)
    return stream.getvalue()


def legacy(pickled):
    parts = (torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, protocol=2) for part in parts) + pickled + pickle.dumps([], protocol=2)


def nested(pickled):
    data = b"B" + len(pickled).to_bytes(4, "little") + pickled
    return b"\x80\x04}" + text("a") + b"ctorch.storage\n_load_from_bytes\n" + data + b"\x85Rs."


def npz(pickled):
    """An archive of numpy whose array is one of objects: their pickle stands behind its header."""
    array, stream = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", array.getvalue() + pickled)
    return stream.getvalue()


CONTAINERS = {
    "pickle": lambda pickled: pickled,
    "zip": zipped,
    "legacy": legacy,
    "nested": nested,
    "legacy, nested": lambda pickled: nested(legacy(pickled)),
    "npz": npz,
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(CONTAINERS)[1:]]


def test_there_are_a_hundred_names():
    assert len(set(NAMES)) > 100


@pytest.fixture(scope="module")
def called():
    """Names of what was executed, compiled, imported or opened, by Python's own audit."""
    with zipfile.ZipFile(io.BytesIO(zipped(b"."))) as archive:
        archive.namelist()  # the first archive of a process imports the codec of its names
    events, watched = [], [False]
    kinds = ("exec", "import", "os.", "subprocess.", "shutil.", "socket.", "ctypes.", "webbrowser.", "pty.", "urllib.")

    def hook(event, arguments):
        if watched[0] and event.startswith(kinds):
            events.append((event, arguments))

    sys.addaudithook(hook)
    return events, watched


@pytest.mark.parametrize("container", ["pickle", *SLOW])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs(tmp_path, trace, called, name, container):
    events, watched = called
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, make in FORMS.items():
        body = b"\x80\x04}" + text("x") + make(name, str(trace)) + b"s."
        (tmp_path / "w").write_bytes(CONTAINERS[container](body))
        del events[:]
        watched[0] = True
        try:
            read_weights(tmp_path / "w")
            message = ""
        except ValueError as error:
            message = str(error)
        finally:
            watched[0] = False
        assert not events, (kind, events)
        assert message.startswith(str(tmp_path / "w")) and message.isprintable(), (kind, message)
        assert "weights_only" not in message
    assert not trace.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB


def test_arrays_of_objects_are_refused_where_data_is_read(tmp_path, trace):
    body = b"\x80\x04" + FORMS["GLOBAL REDUCE"]("builtins.open", str(trace)) + b"."
    (tmp_path / "x.npz").write_bytes(npz(body))
    with pytest.raises((OSError, ValueError), match=r"Object arrays|pickled objects"):
        read_arrays(tmp_path / "x.npz")
    with pytest.raises((OSError, ValueError)):
        NPZ(str(tmp_path / "x.npz"))


def test_one_of_them_would_run_elsewhere(tmp_path):
    body = b"\x80\x04" + FORMS["GLOBAL REDUCE"]("os.mkdir", str(tmp_path / "made")) + b"."
    pickle.loads(body)
    assert (tmp_path / "made").exists() and builtins.eval is eval
