"""`lit-pursamere export`: the adversarial images of a run in one file, for others to judge.

lit-pursamere export runs/digits/robustness digits.npz
"""

from __future__ import annotations

from pathlib import Path

from lit_pursamere.ending import command, ending
from lit_pursamere.evaluation.exported import Iterate, exported, write_exported

__all__ = ["export"]


def export(run: Path, file: Path, iterate: Iterate = "any") -> None:
    """Write the adversarial images of a test run to one .npz file, exactly as they were judged.

    With them are the clean images, classes, positions, which defence and attack each is of, and the run's manifest;
    NumPy reads it. `lit-pursamere judge` judges them on another defence.

    Args:
        run: Output folder of a test with --model.save_images true.
        file: File to write, ... .npz; one that is there is left alone.
        iterate: any, the images that decided that verdict; last, the last iterates.

    Raises:
        FileNotFoundError: If there is no such run.
        FileExistsError: If the file is there.
        ValueError: If the run kept no images.
    """
    found = exported(run, iterate)
    write_exported(found, file)
    size = f"{found.images.dtype} {'x'.join(map(str, found.images.shape[1:]))}, {file.stat().st_size / 1e6:.1f} MB"
    made = f"{len(found.images)} images of {len(set(found.attacks.tolist()))} attacks written to {file} ({size})"
    print(
        ending(
            made, f"{100 * found.accuracy.mean():.1f} % were judged right", command("judge", file, "--config", "FILE")
        )
    )
