"""The command line: a verb, and what belongs to it.

lit-pursamere test --config configs/digits/robustness.yaml --model.purifier.rho_pur 1.5
lit-pursamere report runs/digits/robustness
lit-pursamere figure reconstruction-error figure1.png

A verb is a function of its name (`_` for `-`) in the module that `usage.VERBS` names, which is imported only to run it.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from itertools import pairwise
from typing import Any

from lit_pursamere import __version__
from lit_pursamere.cli.errors import TRACEBACK, in_one_line, keep_traceback
from lit_pursamere.cli.usage import VERBS, tell_all
from lit_pursamere.stopping import SIGNALS, end_with_starter, heed, told_by

__all__ = ["console", "main"]

UNREAD = 141  # the status of a command whose output nobody reads to its end: 128 + SIGPIPE


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. An error ends in one line on stderr, its traceback in a file."""
    name, *rest = (sys.argv[1:] if args is None else args) or [""]
    if name == "--version":
        print(f"lit-pursamere {__version__}")
        return 0
    try:
        if name not in VERBS:
            return tell_all(name)
        run(name, rest)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and unread():
            return UNREAD
        if os.environ.get(TRACEBACK):
            raise
        print(f"lit-pursamere: error: {in_one_line(error, name)}", file=sys.stderr)
        kept = keep_traceback(error)
        also = f"; so does {kept}" if kept else ""
        print(f"({TRACEBACK}=1 shows where it came from{also})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if os.environ.get(TRACEBACK):
            raise
        return stopped(130)
    except SystemExit as end:
        if told_by(end.code) is None:
            raise
        return stopped(end.code)
    return 0


def unread() -> bool:
    """Whether whoever read what is printed has read enough and gone, as `| head` does; then nothing more is printed."""
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    try:
        output = sys.stdout.fileno()
    except OSError:  # it is no file
        return False
    if not hasattr(select, "poll"):  # Windows
        return False
    ends = select.poll()
    ends.register(output, 0)
    gone = any(state & select.POLLERR for _, state in ends.poll(0))
    if gone:  # or the end of the process would complain of what it cannot write
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return gone


def stopped(status: Any) -> int:
    """Say, once for all processes, that a signal ended the command, and how to go on; returns the status."""
    if all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        print(f"lit-pursamere: stopped by {told_by(status)}; what is written stays, and the same command continues",
              file=sys.stderr)  # fmt: skip
    return status


def run(name: str, args: Sequence[str]) -> None:
    """Run a verb; help and what is mistyped end it before anything heavy is imported."""
    from lit_pursamere.cli.helping import HELP, asks_for_screen, screen

    if asks_for_screen(args):
        return print(screen(name, args))
    if name == "completion":  # at every tab: without a parser
        return import_module("lit_pursamere.cli.completion").completion(*args)
    from lit_pursamere.cli.spelling import check_words
    from lit_pursamere.configuration.composition import at_home

    words = [at_home(word) for before, word in pairwise(("", *args)) if before not in HELP or word != "all"]
    check_words(name, words)
    from lit_pursamere.cli.parsing import run_verb

    verb = getattr(import_module(f"lit_pursamere.cli.{VERBS[name].module}"), name.replace("-", "_"))
    run_verb(name, verb, words)


def console() -> None:
    """Entry point of the installed command."""
    heed(*SIGNALS)
    end_with_starter()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
    finally:
        gone = unread()
    sys.exit(UNREAD if gone else status)
