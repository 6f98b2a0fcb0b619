"""Judge the stored images of a run again, in another batch size, precision or device: do the verdicts depend on it?

    lit-pursamere reverify runs/digits/robustness --precision 64

The images stay what they are, only the last forward passes are repeated, with the same noise. A verdict that changes
hangs on rounding.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
import yaml
from torch import nn

from lit_pursamere.defense import Defense
from lit_pursamere.evaluation.evaluation import verdict_keys
from lit_pursamere.evaluation.judge import judge
from lit_pursamere.markdown import markdown_table
from lit_pursamere.progress import Progress
from lit_pursamere.store import read_rows
from lit_pursamere.store.images import read_images
from lit_pursamere.store.manifest import differences, read_manifest
from lit_pursamere.tasks.robustness import LitRobustness
from lit_pursamere.weights import state_digest

__all__ = ["Disagreement", "reverify", "run"]

DTYPES = {"32": torch.float32, "64": torch.float64}
STORED_AS = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}
SHOWN = 50


@dataclass(frozen=True)
class Disagreement:
    """An image of which the class that was predicted then is not the class that is predicted now."""

    index: int
    system: str
    attack: str
    iterate: str
    label: int
    then: int
    now: int

    @property
    def flips(self) -> bool:
        """Whether a right answer became wrong, or a wrong one right."""
        return (self.then == self.label) != (self.now == self.label)


def reverify(
    folder: Path, systems: dict[str, Defense], batch_size: int, dtype: torch.dtype, progress: Progress
) -> tuple[list[Disagreement], int]:
    """Judge all stored images of a run again.

    Args:
        folder: Folder of the run.
        systems: Its defences by name, on the device that is to judge; they are cast to `dtype`.
        batch_size: Images per forward pass.
        dtype: Floating-point type of images and weights.
        progress: Counts images.

    Returns:
        Where the predicted class differs, and the number of verdicts that were compared.

    Raises:
        ValueError: If the run kept no images, or not all.
    """
    rows, found, count = read_rows(folder), [], 0
    read_images(folder, rows)  # complains of missing images before the work begins
    for name, defense in systems.items():
        device = next(iter(defense.state_dict().values())).device
        defense.to(dtype)
        mine = [row for row in rows if row["system"] == name]
        for done in range(0, len(mine), batch_size):
            part = mine[done : done + batch_size]
            y = torch.tensor([row["label"] for row in part], device=device)
            for iterate, images in zip(("last", "any"), read_images(folder, part), strict=True):
                asked = [row[f"prediction_{iterate}"] is not None for row in part]
                if not any(asked):
                    continue
                keys = torch.stack([verdict_keys(torch.tensor(row["index"]), row["seed"], name, row["attack"])[iterate]
                                    for row in part])  # fmt: skip
                now = judge(defense, images.to(device, dtype), y, 1, batch_size, keys).prediction.tolist()
                pairs = [(row, new) for row, new, wanted in zip(part, now, asked, strict=True) if wanted]
                count += len(pairs)
                found += [
                    Disagreement(row["index"], name, row["attack"], iterate, row["label"], then, new)
                    for row, new in pairs
                    if (then := row[f"prediction_{iterate}"]) != new
                ]
            progress.advance(len(part))
    return found, count


def rebuild(config: Path) -> LitRobustness:
    """The task of a configuration file of a `test`, with its weights.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it configures something else.
    """
    from jsonargparse import ArgumentParser
    from jsonargparse.typing import Path_fr
    from pytorch_lightning import LightningModule

    if not config.is_file():
        raise FileNotFoundError(f"no configuration at {config}; name that of the run with --config")
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or "model" not in content:
        raise ValueError(f"{config} has no `model`; name the configuration of a `lit-pursamere test` with --config")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    with Path_fr(str(config)).relative_path_context():  # a configuration names others relative to itself
        parsed = parser.parse_object({"model": content["model"]})
    task = parser.instantiate_classes(parsed).model
    if not isinstance(task, LitRobustness):
        raise ValueError(f"{config} configures a {type(task).__name__}; reverify needs the configuration of a `test`")
    return task


def check_systems(folder: Path, systems: dict[str, Defense], manifest: dict) -> None:
    """Refuse defences that are not those of the run.

    Raises:
        ValueError: If a setting or weights differ; the message says of which system.
    """
    dtype = STORED_AS.get(manifest.get("precision", ""), torch.float32)
    for name, settings in manifest["defenses"].items():
        if name not in systems:
            raise ValueError(f"{folder} evaluated the system {name!r}, which the configuration lacks")
        if found := differences(settings, systems[name].settings):
            raise ValueError(f"{name} of the run in {folder} is another than that of the configuration ({found})")
        if (digest := state_digest(systems[name].to(dtype))) != manifest["weights"][name]:
            raise ValueError(
                f"the weights of {name} are not those of the run in {folder}: {digest[:12]} instead of "
                f"{manifest['weights'][name][:12]}; restore the files that its config.yaml names"
            )


def summary(found: list[Disagreement], count: int, how: str) -> str:
    """Markdown: the rate, and a line per disagreement."""
    flips = sum(one.flips for one in found)
    text = (
        f"{len(found)} of {count} verdicts differ ({100 * len(found) / max(count, 1):.2f} %), {flips} of them between "
        f"right and wrong; judged again with {how}.\n"
    )
    if not found:
        return text
    return f"{text}\n{markdown_table([field.name for field in fields(Disagreement)], map(astuple, found))}"


def run(args: list[str]) -> None:
    """The command `lit-pursamere reverify`: prints the summary and writes it to RUN/reverify.md."""
    parser = argparse.ArgumentParser("lit-pursamere reverify", description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, metavar="RUN", help="output folder of a test with --model.save_images true"
    )
    parser.add_argument("--batch_size", type=int, help="images per forward pass (default: as in the run)")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="32", help="floating-point bits (default: 32)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--config", type=Path, help="configuration of the run (default: RUN/config.yaml)")
    parsed = parser.parse_args(args)
    if parsed.batch_size is not None and parsed.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1; got {parsed.batch_size}")
    if parsed.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here")
    manifest = read_manifest(parsed.folder)
    if manifest is None:
        raise FileNotFoundError(f"no run in {parsed.folder}; name the output folder of a `lit-pursamere test`")
    rows = read_rows(parsed.folder)
    task = rebuild(parsed.config or parsed.folder / "config.yaml")
    systems: nn.ModuleDict = task.systems.to(parsed.device)
    if task.detector is not None:
        task.detector.threshold = manifest["threshold"]
    check_systems(parsed.folder, dict(systems.items()), manifest)
    batch_size = parsed.batch_size or manifest["slots"]
    with Progress("reverify", "image", len(rows)) as progress:
        found, count = reverify(parsed.folder, dict(systems.items()), batch_size, DTYPES[parsed.precision], progress)
    text = summary(found, count, f"batches of {batch_size}, float{parsed.precision}, {parsed.device}")
    (parsed.folder / "reverify.md").write_text(text, encoding="utf-8")
    lines = text.splitlines()
    print("\n".join(lines[: SHOWN + 4]))
    if len(lines) > SHOWN + 4:
        print(f"... and {len(lines) - SHOWN - 4} more in {parsed.folder / 'reverify.md'}")
