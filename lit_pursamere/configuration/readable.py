"""The one sentence in a message that names the mistake, without the frame that the parser puts around it."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["MISFIT", "readable"]

MISFIT = "Error(s) in loading state_dict"  # begins torch's message where a checkpoint meets another network

# What jsonargparse says around the one line that names the mistake.
CALLABLE = re.compile(r"\s*- Type \S*Callable\[.*expects a function or a callable class")
SAID_OF_CALLABLE = re.compile(r"expects a function or a callable class: (.+?)(?:\. Got value: |$)", re.MULTILINE)
IN_WORKER = re.compile(r"\ACaught (\w+) in DataLoader worker.*^[\w.]*\1: (.*)\Z", re.DOTALL | re.MULTILINE)
NOISE = ("Does not validate against", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")
OTHER_TYPE = re.compile(r"Expected an? <class '\w+'>")  # what the parser says where a setting may be of several types


def readable(error: BaseException) -> str:
    """The message of an error, without the frame that the parser puts around a mistake in a configuration."""
    if told := IN_WORKER.search(str(error)):
        return told[2].strip()
    lines = [line.strip() for line in str(error).splitlines()]
    if MISFIT in str(error):
        return (
            f"the checkpoint does not fit this configuration: {fewer(lines[1])} ({len(lines) - 1} complaints in all). "
            "Continue a run with the configuration that it was started with, the config.yaml in its logs"
        )
    unread = re.search(r"(?:path format: |class_path ')(\S+\.ya?ml)\b", str(error))
    if unread:
        return f"there is no file {unread[1]}, and no class of that name"
    unknown = re.search(r"Expected a dot import path string: (\S+)", str(error))
    if unknown:
        return f"{key_of(error)}: there is no class {unknown[1]} here, and no file of that name"
    missing = re.search(r"No module named '([\w.]+)'", str(error))
    if missing and key_of(error):
        return f"{key_of(error)}: there is no module {missing[1]}; the folder that holds it must be on PYTHONPATH"
    if absent := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", str(error)):
        return f"{key_of(error)}: the module {absent[1]} has no class {absent[2]}"
    lines = [line.strip().removeprefix("- ") for line in without_callables(str(error).splitlines())]
    kept = [line for line in lines if line and not line.startswith(NOISE)]
    if kept and kept[-1].endswith(":") and (said := SAID_OF_CALLABLE.search(str(error))):
        kept.append(said[1])  # a callable is all that is wanted there
    if len(kept) == len(lines):
        return str(error)
    kept = [line for line in dict.fromkeys(kept) if not OTHER_TYPE.fullmatch(line)] or kept
    given = re.search(r"Given value: (?!Namespace\()([^{\n].*)", str(error))  # the innermost comes first
    kept += [f"got {given[1]}"] if given else []
    return re.sub(r"Problem with given class_path '([\w.]+)':", r"\1:", " ".join(kept))


def fewer(complaint: str) -> str:
    """A complaint of torch about names in quotes, the first three of them."""
    names = re.findall(r'"[^"]*"', complaint)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{complaint.partition(': ')[0]}: {', '.join(names[:3])}{more}." if more else complaint


def key_of(error: BaseException) -> str:
    """The setting that the parser complains of, by its dotted name."""
    return ".".join(re.findall(r'Parser key "([\w.]+)"', str(error)))


def without_callables(lines: list[str]) -> Iterator[str]:
    """The lines without what the parser says of a type `Callable`, which repeats what is said of the class itself."""
    depth = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        depth = depth if depth is not None and indent > depth else None
        if depth is None and CALLABLE.match(line):
            depth = indent
        if depth is None:
            yield line
