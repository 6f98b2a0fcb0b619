"""Errors of one line: what went wrong, with what value, where, and what to do; the traceback goes to a file.

    told             raised with a sentence for whoever gave the command, by this package, Lightning or the parser
    out of memory    what to lower
    anything else    its kind, its message, and the line of this package or of the user's own that it came from

Nothing heavy is imported, so that `lit-pursamere --help` is quick.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
import tempfile
import traceback
from argparse import ArgumentError
from pathlib import Path

from lit_pursamere.configuration.readable import MISFIT, readable
from lit_pursamere.names import shown

__all__ = ["TRACEBACK", "in_one_line", "keep_traceback"]

TRACEBACK = "LIT_PURSAMERE_TRACEBACK"  # in the environment: a run that is debugged
SENTENCES = ("lit_pursamere", "pytorch_lightning", "lightning_fabric", "jsonargparse")  # who raises them for readers
FAULTS = (TypeError, AttributeError, LookupError, NameError, AssertionError, ArithmeticError, NotImplementedError)
PACKAGE = str(Path(__file__).parents[1])
LONGEST = 1000  # characters of a line

# What to do where Lightning only says what is wrong.
TASKS = (
    "LitScoreModel and LitClassifier are for fit, LitPurification for predict, LitRobustness for test, "
    "LitCertification for certify"
)
ADVICE = (
    ("No supported gpu backend found", "there is none here: --trainer.accelerator cpu"),
    ("_step()` method", TASKS),
    ("requires `forward` method", TASKS),
    ("No module named", "install it, or put the folder that holds it on PYTHONPATH"),
    ("Too many open files", "raise the limit (`ulimit -n 1024`) or lower data.num_workers"),
    ("channels instead", "give the network's `channels`, or those of the data (data.channels), the other's number"),
    ("that has no logger", "keep the logger, or give --trainer.callbacks without it"),
    ("`enable_checkpointing=False` but found", "leave that option out, or give --trainer.callbacks without it"),
)  # fmt: skip

NO_MEMORY = re.compile(r"out of memory|can't allocate memory|ALLOC_FAILED|Unable to allocate|Cannot allocate memory")
AMOUNT = re.compile(r"(?:tried to allocate|Unable to allocate) ([\d.]+ ?\w+)", re.IGNORECASE)
LOWER = {
    "fit": "data.batch_size, with trainer.accumulate_grad_batches larger by as much the recipe stays",
    "purify": "--batch_size",
    "reverify": "--batch_size",
    "sigmas": "--images",
}
LOWER_ELSE = "data.eval_batch_size, or eot_chunk of attacks that average over draws"


def in_one_line(error: BaseException, verb: str) -> str:
    """What whoever gave the command reads of an error: one line, printable, not too long."""
    text = readable(error)
    if exhausted(error):
        text = f"out of memory{told_amount(text)}; lower {LOWER.get(verb, LOWER_ELSE)}"
    elif not is_told(error):
        text = f"{type(error).__name__}: {text or 'without a message'} ({place_of(error)})"
    for pattern, advice in ADVICE:
        text = f"{text.rstrip(' .!')}; {advice}" if pattern in text else text
    line = shown(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


def keep_traceback(error: BaseException) -> str | None:
    """Write the command and the traceback of its error to a temporary file; its name, or None if it cannot be."""
    try:
        descriptor, name = tempfile.mkstemp(".log", "lit-pursamere-")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{shlex.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}")
    except OSError:
        return None
    return name


def exhausted(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a device."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error))))


def told_amount(text: str) -> str:
    """Where memory ran out, and for how much, as far as it is said."""
    amount = AMOUNT.search(text)
    return f" on {'the GPU' if 'CUDA' in text else 'this machine'}{f' (asked for {amount[1]})' if amount else ''}"


def is_told(error: BaseException) -> bool:
    """Whether the message of an error is a sentence for whoever gave the command: somebody wrote `raise`."""
    if isinstance(error, (OSError, ArgumentError)) or MISFIT in str(error):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not str(error) or isinstance(error, FAULTS):
        return False
    speaks = not is_library(frames[-1].filename) or not set(SENTENCES).isdisjoint(Path(frames[-1].filename).parts)
    return speaks and (frames[-1].line or "").startswith("raise")


def is_library(file: str) -> bool:
    """Whether code is neither of this package nor of a user's own."""
    libraries = (f"{os.sep}site-packages{os.sep}", f"{os.path.dirname(os.__file__)}{os.sep}", "<frozen")
    return not file.startswith(PACKAGE) and any(library in file for library in libraries)


def place_of(error: BaseException) -> str:
    """The innermost line that is not of a library."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_library(frame.filename)]
    if not own:
        return "in a library"
    return f"{own[-1].filename.replace(PACKAGE, 'lit_pursamere')}:{own[-1].lineno}"
