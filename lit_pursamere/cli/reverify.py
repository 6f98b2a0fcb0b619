"""`lit-pursamere reverify`: judge the stored images of a run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from lit_pursamere.cli.parsing import read_part
from lit_pursamere.ending import command, ending
from lit_pursamere.evaluation.reverify import check_systems, summary
from lit_pursamere.evaluation.reverify import reverify as judge_again
from lit_pursamere.progress import Progress
from lit_pursamere.store import read_rows
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.manifest import read_manifest, require_stated

if TYPE_CHECKING:
    from lit_pursamere.tasks import LitRobustness

__all__ = ["reverify"]

DTYPES = {"32": torch.float32, "64": torch.float64}
SHOWN = 50


def reverify(
    run: Path,
    batch_size: int | None = None,
    precision: Literal["32", "64"] = "32",
    device: Literal["cpu", "cuda"] = "cpu",
    config: Path | None = None,
    trust: list[str] | None = None,
) -> None:
    """Judge the stored images of a test run again, in another batch size, precision or device.

    Prints where the verdicts differ, and writes it to RUN/reverify.md.

    Args:
        run: Output folder of a test with --model.save_images true.
        batch_size: Images per forward pass (default: as in the run).
        precision: Floating-point bits.
        device: Where.
        config: Configuration of the run (default: RUN/config.yaml).
        trust: Modules of your own that the configuration may name.

    Raises:
        FileNotFoundError: If there is no such run.
        ValueError: If it is another run's configuration, names what is not run to look at it, or a setting is wrong.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1; got {batch_size}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here")
    manifest = read_manifest(run)
    if manifest is None:
        raise FileNotFoundError(f"no run in {run}; name the output folder of a `lit-pursamere test`")
    require_stated(run, manifest, "defenses", "slots", "images.shape")
    require_stated(run, manifest, *(f"weights.{name}" for name in manifest["defenses"]))
    rows = read_rows(run)
    task = rebuild(config or run / "config.yaml", trust or ())
    systems = dict(task.systems.to(device).items())
    if task.detector is not None:
        require_stated(run, manifest, "threshold")
        task.detector.threshold = manifest["threshold"]
    check_systems(run, systems, manifest)
    batch_size = batch_size or manifest["slots"]
    with Progress("reverify", "image", len(rows)) as progress:
        found, count = judge_again(run, systems, batch_size, DTYPES[precision], progress)
    text = summary(found, count, f"batches of {batch_size}, float{precision}, {device}")
    file = run / "reverify.md"
    write_whole(file, text.encode())  # in place of a link that lies there, not through it
    lines = text.splitlines()
    print("\n".join(lines[: SHOWN + 4]))
    if len(lines) > SHOWN + 4:
        print(f"... and {len(lines) - SHOWN - 4} more in {file}")
    told, then = f"{len(found)} of {count} verdicts differ", command("export", run, f"{run.name}.npz")
    if (wanted := rows_of(manifest)) > len(rows):
        told += f"; the run is not complete: {len(rows)} of {wanted} rows"
    print(f"\n{ending(f'disagreements written to {file}', told, then)}")


def rows_of(manifest: dict) -> int:
    """How many rows a complete run has."""
    return manifest["images"].get("count", 0) * len(manifest["defenses"]) * (1 + len(manifest.get("attacks", {})))


def rebuild(config: Path, trusted: Sequence[str]) -> LitRobustness:
    """The task of a configuration file of a `test`, with its weights.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it configures something else.
    """
    if not config.is_file():
        raise FileNotFoundError(f"no configuration at {config}; name that of the run with --config")
    part = read_part(config, "model")
    from lit_pursamere import tasks  # Lightning's, heavy: after all that can be found without
    from lit_pursamere.cli.trust import build

    name = str(part.get("class_path") if isinstance(part, dict) else part).rpartition(".")[2]
    if name in tasks.__all__ and name != tasks.LitRobustness.__name__:
        raise ValueError(f"{config} configures a {name}; reverify needs the configuration of a `test`")
    return build(tasks.LitRobustness, part, config, trusted)
