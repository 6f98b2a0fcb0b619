"""Judge the stored images of a run again, in another batch size, precision or device: do the verdicts depend on it?

The images stay what they are, only the last forward passes are repeated, with the same noise. A verdict that changes
hangs on rounding.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch

from lit_pursamere.defense import Defense
from lit_pursamere.evaluation.evaluation import verdict_keys
from lit_pursamere.evaluation.judge import judge
from lit_pursamere.markdown import markdown_table
from lit_pursamere.progress import Progress
from lit_pursamere.store import read_rows
from lit_pursamere.store.images import read_images
from lit_pursamere.store.manifest import differences
from lit_pursamere.weights import state_digest

__all__ = ["Disagreement", "check_systems", "reverify", "summary"]

COMPARED = ("label", "prediction_last", "prediction_any", "seed")


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
        ValueError: If the run kept no images, or not all, or a row lacks what a verdict is compared with.
    """
    rows, found, count = read_rows(folder), [], 0
    if absent := sorted({name for row in rows for name in COMPARED if name not in row}):
        raise ValueError(f"{folder} has rows without {', '.join(absent)}; remove them, and run its test again")
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


def check_systems(folder: Path, systems: dict[str, Defense], manifest: dict) -> None:
    """Refuse defences that are not those of the run.

    Raises:
        ValueError: If a setting or weights differ; the message says of which system.
    """
    dtype = torch.float64 if manifest.get("precision") == "64-true" else torch.float32
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
