"""A fault, a hanging step or the end of the time cost one step, and nothing that is known already."""

import json
import os
import signal
import time

import pytest


@pytest.fixture
def session(script, tmp_path):
    module = script("session")

    def build(minutes=1.0):
        parser = module.arguments("a test", minutes)
        return module.Session("trial", parser.parse_args(["--toy", f"--out={tmp_path}"]))

    return build


def saved(tmp_path):
    return json.loads((tmp_path / "trial.json").read_text())


def test_a_fault_is_named_with_its_place_and_the_rest_goes_on(session, tmp_path, capsys):
    run = session()

    def broken():
        raise ValueError("a tensor is\non another device")

    assert run.step("first", broken) is None
    assert run.step("second", lambda: {"images/s": 3.5}) == {"images/s": 3.5}
    report = saved(tmp_path)
    assert report["faults"]["first"].startswith("ValueError: a tensor is on another device (test_session.py:")
    assert report["results"] == {"second": {"images/s": 3.5}}
    assert run.finish() == json.loads(capsys.readouterr().out)


def test_a_hanging_step_is_broken_off(session, tmp_path):
    run = session()

    def hang():
        try:
            time.sleep(20)
        except Exception as error:  # what a careless library does
            raise AssertionError("the end of the time was swallowed") from error

    started = time.monotonic()
    run.step("hangs", hang, limit=0.2)
    run.step("next", lambda: 1)
    assert time.monotonic() - started < 5
    assert saved(tmp_path)["faults"]["hangs"].startswith("broken off after 0.")
    assert saved(tmp_path)["results"] == {"next": 1}


def test_what_finds_no_time_is_left_out(session, tmp_path):
    run = session(minutes=1 / 60)
    run.step("long", lambda: 1, needs=30)
    run.step("short", lambda: 2, needs=0.1)
    assert saved(tmp_path)["left_out"] == ["long"] and saved(tmp_path)["results"] == {"short": 2}


def test_a_termination_ends_the_step_and_begins_no_other(session, tmp_path):
    run = session()
    before = signal.getsignal(signal.SIGTERM)
    try:
        run.step("told to stop", lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(20)))
    finally:
        signal.signal(signal.SIGTERM, before)
    run.step("after", lambda: 1)
    assert list(saved(tmp_path)["faults"]) == ["told to stop"] and saved(tmp_path)["left_out"] == ["after"]


def test_a_termination_between_two_steps_still_ends_with_the_report(session, tmp_path, capsys):
    run = session()
    before = signal.getsignal(signal.SIGTERM)
    try:
        run.step("before", lambda: 1)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    run.step("after", lambda: 2)
    run.finish()
    report = json.loads(capsys.readouterr().out)
    assert report["results"] == {"before": 1} and report["left_out"] == ["after"] and not report["faults"]
