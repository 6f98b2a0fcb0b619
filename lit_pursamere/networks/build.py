"""Compile kernels.c for this CPU: python -m lit_pursamere.networks.build"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lit_pursamere.networks.kernels import SOURCE, library, options, path

__all__ = ["build"]


def build() -> Path:
    """Compile the library with $CC, or cc; processes that build at the same time do not disturb each other.

    Raises:
        RuntimeError: If there is no compiler, or it fails.
    """
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [os.environ.get("CC", "cc"), *options(), str(SOURCE), "-o", str(made), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise RuntimeError(f"there is no compiler {command[0]!r}: install one, or name yours in CC") from None
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"{' '.join(command)} failed: {error.stderr.strip()}") from None
        made.replace(target)
    library.cache_clear()
    return target


if __name__ == "__main__":
    try:
        print(f"{build()} is used from now on; LIT_PURSAMERE_KERNELS=0 goes without it")
    except RuntimeError as error:
        sys.exit(str(error))
