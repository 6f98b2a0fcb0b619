"""Told to stop, a command ends with the status of the signal, says how to go on, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lit_pursamere import stopping
from lit_pursamere.cli.main import main
from lit_pursamere.data import PurifiedSet
from lit_pursamere.store import ResultsFolder

pytestmark = pytest.mark.usefixtures("heeding")
STATUS = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129}
GO_ON = "what is written stays, and the same command continues"


@pytest.mark.parametrize("name", STATUS)
def test_a_signal_ends_a_command_with_its_status_and_one_line(name, monkeypatch, capsys):
    monkeypatch.setattr("lit_pursamere.cli.main.run", lambda *unused: os.kill(os.getpid(), getattr(signal, name)))
    assert main(["purify"]) == STATUS[name]
    assert capsys.readouterr().err == f"lit-pursamere: stopped by {name}; {GO_ON}\n"


def test_an_interruption_from_within_is_told_alike(monkeypatch, capsys):
    def interrupted(*unused):
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_pursamere.cli.main.run", interrupted)
    assert main(["purify"]) == 130
    assert capsys.readouterr().err == f"lit-pursamere: stopped by SIGINT; {GO_ON}\n"


def test_of_several_processes_the_first_one_says_it(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("lit_pursamere.cli.main.run", lambda *unused: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["predict"]) == 143
    assert capsys.readouterr().err == ""


def test_signals_that_come_together_count_once():
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)


# Is told once more when Python has done all but clear its modules.
LATE = """
import os, signal, sys
from lit_pursamere.stopping import heed
class Late:
    def __del__(self, kill=os.kill, process=os.getpid()):
        kill(process, signal.SIGTERM)
        print("told again", flush=True)
heed(signal.SIGTERM)
late = Late()
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_second_signal_at_the_very_end_leaves_the_status_alone():
    ended = subprocess.run([sys.executable, "-c", LATE], stdout=subprocess.PIPE)
    assert (ended.returncode, ended.stdout) == (143, b"told again\n")


def test_what_others_send_back_is_no_order_to_stop():
    stopping.expect()
    os.kill(os.getpid(), signal.SIGTERM)


def test_who_leaves_the_complaint_to_the_first_process_gives_it_time(monkeypatch):
    slept = []
    monkeypatch.setattr(stopping.time, "sleep", slept.append)
    assert stopping.left_to_first().code == 1 and slept == [stopping.COMPLAINT]


def test_what_was_started_to_ignore_a_signal_ignores_it():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopping.heed(*stopping.SIGNALS)
    os.kill(os.getpid(), signal.SIGHUP)


def test_a_signal_while_a_command_is_started_ends_it_whoever_takes_the_signal(monkeypatch):
    """Another thread takes it, as the system may choose, while the main one is starting the process."""
    started = []

    class Told(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)
            thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
            thread.start()
            thread.join()

    monkeypatch.setattr(subprocess, "Popen", Told)
    with pytest.raises(SystemExit), stopping.running([sys.executable, "-c", "import time; time.sleep(60)"]):
        pytest.fail("the command was told to stop before this")
    assert started[0].returncode == -signal.SIGTERM
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_experiment_ends_its_stage_and_starts_no_other(tmp_path, monkeypatch):
    """The stage stands for a training: it takes its time, and says which signal it got."""
    stage, said = tmp_path / "stage.sh", tmp_path / "said"
    stage.write_text(f"#!/bin/sh\ntrap 'echo told >> {said}; exit 143' TERM\necho $3 >> {said}\nsleep 60 & wait $!\n")
    stage.chmod(0o755)
    (tmp_path / "two.yaml").write_text("stages: [report a, audit b]")
    monkeypatch.setattr(sys, "executable", str(stage))

    def tell():
        while not said.is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell).start()
    assert main(["experiment", str(tmp_path / "two.yaml")]) == 143
    assert said.read_text().split() == ["report", "told"]


# Waits in a C library for what never comes; handlers of Python are not called there.
DEAF = """
import ctypes, signal, sys
from lit_pursamere.stopping import Companions, heed
heed(signal.SIGTERM)
companions = Companions([int(word) for word in sys.argv[1:]], grace=0.2)
mutex = ctypes.create_string_buffer(64)
library = ctypes.CDLL(None)
library.pthread_mutex_lock(mutex)
print("deaf", flush=True)
library.pthread_mutex_lock(mutex)
"""


def test_what_waits_in_a_library_ends_too_and_passes_the_signal_on():
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    deaf = subprocess.Popen([sys.executable, "-c", DEAF, str(other.pid)], stdout=subprocess.PIPE)
    try:
        assert deaf.stdout.readline() == b"deaf\n"
        deaf.send_signal(signal.SIGTERM)
        assert (deaf.wait(30), other.wait(30)) == (143, -signal.SIGTERM)
    finally:
        for process in (deaf, other):
            process.kill()
            process.wait()
        deaf.stdout.close()


# A command that runs another one, which takes its time.
ORPHAN = """
import os, signal, sys
from lit_pursamere.stopping import running
with running([sys.executable, "-c", '''
import time
from lit_pursamere.stopping import SIGNALS, end_with_starter, heed
heed(*SIGNALS)
end_with_starter()
print("begun", flush=True)
time.sleep(30)
print("outlived it", flush=True)
''']):
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_command_does_not_outlive_the_one_that_runs_it():
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE)
    begun = parent.stdout.readline()
    parent.kill()
    parent.wait()
    assert begun == b"begun\n"
    assert parent.stdout.read() == b"", "the child has the pipe open as long as it lives"
    parent.stdout.close()


def start(repository_root, folder):
    """Start a run of two processes; returns it and their ids as soon as both have begun."""
    command = [
        sys.executable, "-m", "lit_pursamere", "predict", "--config=configs/digits/purify.yaml", "--data.evaluate=val",
        "--data.val_size=200", "--data.eval_batch_size=4", f"--model.output={folder}/set",
        f"--trainer.default_root_dir={folder}", "--trainer.accelerator=cpu", "--trainer.devices=2",
        "--trainer.strategy=ddp", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=repository_root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while process.poll() is None and len([*folder.glob("set/part-*.npy")]) < 2:
        time.sleep(0.05)
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    (child,) = map(int, children.stdout.split())
    return process, (process.pid, child)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "name", "status"), [(0, "SIGINT", 130), (1, "SIGHUP", 143), (0, "SIGKILL", -9)])
def test_a_signal_to_one_of_two_processes_ends_both(rank, name, status, repository_root, tmp_path):
    process, numbers = start(repository_root, tmp_path)
    os.kill(numbers[rank], getattr(signal, name))
    told = time.monotonic()
    said, _ = process.communicate(timeout=60)  # the pipe is open until both have ended
    assert time.monotonic() - told < 30
    assert process.returncode == status, said
    assert "Traceback" not in said
    if status > 0:
        assert said.splitlines()[-1].endswith(GO_ON)
    assert 2 <= PurifiedSet.open(tmp_path / "set").count() // 4 < 50
    ResultsFolder(tmp_path / "set").release()
    assert not [*tmp_path.glob("set/*.part")]
