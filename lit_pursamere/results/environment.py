"""Where and when a run was started: one JSON line per start, beside the manifest and not compared with anything."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from lit_pursamere.results.durable import append
from lit_pursamere.weights.saving import package_versions

__all__ = ["note_start"]

NAME = "environment.jsonl"


def note_start(folder: str | Path, device: torch.device, processes: int = 1) -> None:
    """Add a line to environment.jsonl: time (UTC), command, versions, hardware, number of processes.

    Args:
        folder: Folder of the run.
        device: Where the first process computes.
        processes: How many there are.

    Raises:
        OSError: If the line cannot be written.
    """
    program = Path(sys.argv[0]).name
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["lit-pursamere" if program == "__main__.py" else program, *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **package_versions()},
        "device": device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
    }
    append(Path(folder) / NAME, (json.dumps(line) + "\n").encode())


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
