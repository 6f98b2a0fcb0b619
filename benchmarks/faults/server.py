"""A process that has imported everything, and forks one process per command: a command costs a second, not ten.

    request {argv, cwd, environment, out, err, group, cpu, memory}  ->  pid     request {wait: pid}  ->  how it ended

Commands that a command starts (`experiment`, Lightning's further processes) are asked of the same server, because a
process that has computed gradients must not be forked. Requests are pickles over a Unix socket of this machine.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import json
import os
import pkgutil
import resource
import select
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, NoReturn

from pytorch_lightning.utilities import rank_zero_only

from lit_pursamere.stopping import SIGNALS, heed

ADDRESS = "FAULTS_SERVER"
COMMAND = "lit-pursamere"


def main() -> None:
    """Import, say so, and serve until the first client, whose process started this one, hangs up."""
    import_all()
    listener = Listener(sys.argv[1], "AF_UNIX", backlog=64)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda *unused: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    socket = listener._listener._socket  # type: ignore[attr-defined]
    print("ready", flush=True)
    serve(listener, socket, reader)


def import_all() -> None:
    import lit_pursamere

    for module in pkgutil.walk_packages(lit_pursamere.__path__, "lit_pursamere."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("matplotlib.pyplot", "matplotlib.backends.backend_agg", "sklearn.datasets", "torch.distributed",
                 "torch.utils.tensorboard", "PIL.PngImagePlugin", "PIL.JpegImagePlugin", "scipy.stats"):  # fmt: skip
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def serve(listener: Listener, socket: Any, reader: int) -> None:
    ended: dict[int, dict] = {}
    waiting: dict[int, list[Connection]] = {}
    while True:
        ready, _, _ = select.select([socket, reader, sys.stdin], [], [])
        if sys.stdin in ready:  # whoever started this process is gone
            return
        if reader in ready:
            os.read(reader, 4096)
        if socket in ready:
            connection = listener.accept()
            request = connection.recv()
            if "wait" in request:
                waiting.setdefault(request["wait"], []).append(connection)
            elif "poll" in request:
                reap(ended)
                connection.send(ended.get(request["poll"]))
                connection.close()
            else:
                with suppress(OSError):  # whoever asked was killed, and its pipes are gone
                    connection.send(start(request, listener))
                connection.close()
        reap(ended)
        for pid in ended.keys() & waiting.keys():
            for connection in waiting.pop(pid):
                with suppress(OSError):  # whoever waited was killed
                    connection.send(ended[pid])
                connection.close()


def reap(ended: dict[int, dict]) -> None:
    while True:
        try:
            pid, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        ended[pid] = {
            "status": os.waitstatus_to_exitcode(status),
            "cpu": used.ru_utime + used.ru_stime,
            "memory": used.ru_maxrss * 1024,
        }


def start(request: dict, listener: Listener) -> int:
    """Fork a command; its output is opened before whoever asked closes it."""
    out, err = (os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) for name in ("out", "err"))
    pid = os.fork()
    if pid == 0:
        listener.close()
        os.dup2(out, 1)
        os.dup2(err, 2)
    os.close(out)
    os.close(err)
    if pid == 0:
        child(request)
    with suppress(OSError):  # here as well, so that it holds before the caller goes on
        os.setpgid(pid, request.get("group") or pid)
    return pid


def child(request: dict) -> NoReturn:
    """Be the command, to its end."""
    status = 1
    try:
        prepare(request)
        from lit_pursamere.cli.main import main as command

        status = command(request["argv"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status or 0)


def prepare(request: dict) -> None:
    os.setpgid(0, request.get("group") or 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, *SIGNALS):  # whatever started the harness may ignore some
        signal.signal(number, signal.SIG_DFL)
    heed(*SIGNALS)  # as the command does
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    address = os.environ[ADDRESS]
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ[ADDRESS] = address
    rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", 0))  # as importing Lightning here would say
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    sys.argv = [COMMAND, *request["argv"]]
    sys.modules["__main__"].__spec__ = None
    subprocess.Popen = Spawned  # type: ignore[misc, assignment]
    for limit, value in ((resource.RLIMIT_CPU, request.get("cpu")), (resource.RLIMIT_FSIZE, request.get("size"))):
        if value:
            resource.setrlimit(limit, (value, value))
    if request.get("memory"):
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + request["memory"],) * 2)
    if plan := os.environ.get("FAULTS"):
        from benchmarks.faults.events import arm

        arm(**json.loads(plan))


def ask(request: dict, address: str | None = None) -> Any:
    """Put a request to the server."""
    with Client(address or os.environ[ADDRESS], "AF_UNIX") as connection:
        connection.send(request)
        return connection.recv()


PopenOfPython = subprocess.Popen
PARAMETERS = inspect.signature(PopenOfPython._execute_child)  # type: ignore[attr-defined]
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


class Spawned(PopenOfPython):  # type: ignore[type-arg]
    """subprocess.Popen for the commands of this project; everything else starts as ever."""

    forked = False

    def _execute_child(self, *values: Any) -> None:
        given = PARAMETERS.bind(self, *values).arguments
        words = own_words(given["args"])
        if words is None:
            return super()._execute_child(*values)  # type: ignore[misc]
        self.forked = True
        handles = {"out": given["c2pwrite"], "err": given["errwrite"]}
        own = {"out": 1, "err": 2}  # where nothing else is said
        self.pid = ask({
            "argv": words, "cwd": str(given["cwd"] or os.getcwd()), "environment": dict(given["env"] or os.environ),
            **{name: f"/proc/{os.getpid()}/fd/{handles[name] if handles[name] >= 0 else own[name]}" for name in own},
            "group": 0 if given["start_new_session"] else os.getpgrp(),
        })  # fmt: skip
        self._close_pipe_fds(*(given[name] for name in PIPES))  # type: ignore[attr-defined]

    def poll(self) -> int | None:
        if not self.forked:
            return super().poll()
        if self.returncode is None and (found := ask({"poll": self.pid})):
            self.returncode = found["status"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self.forked:
            return super().wait(timeout)
        with Client(os.environ[ADDRESS], "AF_UNIX") as connection:
            connection.send({"wait": self.pid})
            if not connection.poll(timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = connection.recv()["status"]
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if not self.forked:
            return super().send_signal(sig)
        if self.poll() is None:
            os.kill(self.pid, sig)

    def __del__(self, *unused: Any, **more: Any) -> None:
        if not self.forked:
            super().__del__()


def own_words(args: Any) -> list[str] | None:
    """The words behind the command, if it is one of this project."""
    words = [str(word) for word in args] if isinstance(args, list | tuple) else []
    if words[:1] != [sys.executable]:
        return None
    if words[1:3] == ["-m", "lit_pursamere"]:
        return words[3:]
    return words[2:] if os.path.basename(words[1]) == COMMAND else None


if __name__ == "__main__":
    from benchmarks.faults import server  # one module by one name, here and in the children

    server.main()
