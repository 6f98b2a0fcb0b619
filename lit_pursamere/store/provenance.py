"""What made something: the command, versions and hardware, told beside results and compared with nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from lit_pursamere import __version__
from lit_pursamere.store.durable import append_rows, end_line

__all__ = ["command", "device_name", "note_start", "package_versions"]

NAME = "environment.jsonl"
PACKAGES = ("torch", "pytorch-lightning", "torchvision")


def command() -> str:
    """The command line of this process, without the place of the program."""
    program = Path(sys.argv[0]).name
    return shlex.join(["lit-pursamere" if program == "__main__.py" else program, *sys.argv[1:]])


def package_versions() -> dict[str, str]:
    """Versions of this package and of those that its numbers depend on; what is not installed is left out."""
    versions = {"lit_pursamere": __version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def note_start(folder: str | Path, device: torch.device, processes: int = 1) -> None:
    """Add a line to environment.jsonl: time (UTC), command, versions, hardware, number of processes.

    Args:
        folder: Folder of the run.
        device: Where the first process computes.
        processes: How many there are.

    Raises:
        OSError: If the line cannot be written.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "versions": {"python": platform.python_version(), **package_versions()},
        "device": device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
    }
    end_line(Path(folder) / NAME)
    append_rows(Path(folder) / NAME, [line])


def device_name(device: torch.device) -> str:
    """What computes, such as "NVIDIA H100" or the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{device.type}: {models[0] if models else platform.processor() or platform.machine()}"
