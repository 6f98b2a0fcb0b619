"""Images that were made against one defence, judged by another: what they transfer, and how much that says.

check every image: within the stated budget around the clean one
let every system judge:  clean images;  the images of every (defence, attack) in the file
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lit_pursamere.attacks.base import BUDGET_SLACK
from lit_pursamere.data.resident import to_float
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion.image_noise import image_keys
from lit_pursamere.evaluation.exported import Exported
from lit_pursamere.evaluation.judge import judge
from lit_pursamere.names import shown
from lit_pursamere.progress import Progress
from lit_pursamere.store.manifest import differences
from lit_pursamere.store.records import CLEAN
from lit_pursamere.threat import ThreatModel
from lit_pursamere.weights import state_digest

__all__ = ["WORST", "Transferred", "check_budgets", "transferred"]

WORST = "worst case"


@dataclass(frozen=True)
class Transferred:
    """What a system makes of the images that one attack made against one defence.

    Args:
        judged_by: Name of the system that judged.
        made_for: Name of the defence that was attacked; empty for clean images.
        attack: Name of the attack, `clean`, or of a worst case.
        threat: Its budget; None for clean images and worst cases.
        right: How right each image is, in [0, 1], by position.
        there: How right the attacked defence was, the mean over the images.
        same: Whether it is the very defence, with the same weights, that was attacked.
    """

    judged_by: str
    made_for: str
    attack: str
    threat: ThreatModel | None
    right: dict[int, float]
    there: float | None = None
    same: bool = False


def threats_of(found: Exported) -> dict[str, ThreatModel]:
    """The threat models of the attacks in the file, as it states them.

    Raises:
        ValueError: If one states none, or one that there is not.
    """
    threats = {}
    for name in sorted(set(found.attacks.tolist())):
        told = found.manifest["attacks"][name].get("threat") or {}
        try:
            threats[name] = ThreatModel(told["norm"], float(told["eps"]))  # type: ignore[arg-type]
        except (KeyError, ValueError) as error:
            raise ValueError(f"the attack {shown(name)} states no threat model ({shown(error)})") from error
    return threats


def check_budgets(found: Exported, chunk: int = 1024) -> dict[str, ThreatModel]:
    """The threat models of the attacks, after every image was found within its own.

    Raises:
        ValueError: If images lie beyond; the message says how many, and how far.
    """
    threats = threats_of(found)
    for name, threat in threats.items():
        rows = np.flatnonzero(found.attacks == name)
        far = torch.cat([
            threat.distance(pixels(found.images[part]), pixels(found.clean[found.which[part]]))
            for part in np.array_split(rows, -(-len(rows) // chunk))
        ])  # fmt: skip
        one = torch.zeros(1, *found.images.shape[1:], dtype=torch.float64)
        rounding = threat.distance(one + torch.finfo(torch.float32).eps, one)
        beyond = far > threat.eps * (1 + BUDGET_SLACK) + rounding
        if beyond.any():
            raise ValueError(
                f"{int(beyond.sum())} of {len(rows)} images of {shown(name)} are further from the clean ones than the "
                f"{threat} that the file states, up to {float(far.max()):.4g}: they do not keep to that threat model"
            )
    return threats


def pixels(images: np.ndarray) -> Tensor:
    """Images (B, C, H, W) in [0, 1], float64."""
    return (
        to_float(torch.from_numpy(images)).double() if images.dtype == np.uint8 else torch.from_numpy(images).double()
    )


def transferred(
    found: Exported,
    systems: Mapping[str, Defense],
    batch_size: int,
    evaluations: int,
    seed: int,
    progress: Progress,
) -> list[Transferred]:
    """Let systems judge the images of a file.

    Args:
        found: The file's content.
        systems: Defences by name, on the device that is to judge.
        batch_size: Images per forward pass.
        evaluations: How often each verdict is given.
        seed: Of fresh noise.
        progress: Counts images.

    Returns:
        For every system the clean images, the images of each defence and attack, and the worst case over all of them.

    Raises:
        ValueError: If images leave their budgets, or a label is no class of the defence.
    """
    threats = check_budgets(found)
    index, first = np.unique(found.positions, return_index=True)
    pairs = sorted(set(zip(found.systems.tolist(), found.attacks.tolist(), strict=True)))
    progress.total = len(systems) * (len(index) + len(found.images))
    lines = []
    for name, defense in systems.items():
        ask = partial(verdicts, found, name, defense, batch_size, evaluations, seed, progress)
        mine = [Transferred(name, "", CLEAN, None, ask("", CLEAN, found.clean[found.which[first]], first))]
        for system, attack in pairs:
            rows = np.flatnonzero((found.systems == system) & (found.attacks == attack))
            right, there = ask(system, attack, found.images[rows], rows), float(found.accuracy[rows].mean())
            same = is_same(found.manifest, system, defense)
            mine.append(Transferred(name, system, attack, threats[attack], right, there, same))
        least = {k: min(line.right.get(k, 1.0) for line in mine) for k in index.tolist()}
        lines += [*mine, Transferred(name, "", WORST, None, least)]
    return lines


def is_same(manifest: dict, system: str, defense: Defense) -> bool:
    """Whether a defence is the one that a run calls so: its weights and its settings."""
    settings = manifest.get("defenses", {}).get(system, {})
    return manifest["weights"].get(system) == state_digest(defense) and not differences(settings, defense.settings)


def verdicts(
    found: Exported, judge_name: str, defense: Defense, slots: int, evaluations: int, seed: int, progress: Progress,
    system: str, attack: str, images: np.ndarray, rows: np.ndarray,
) -> dict[int, float]:  # fmt: skip
    """How right a defence is on images (B, C, H, W) of these rows, by position, in [0, 1]."""
    positions = torch.from_numpy(found.positions[rows].astype(np.int64))
    keys = image_keys(positions, seed, judge_name, system, attack)
    tensor = next(iter(defense.state_dict().values()))
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    right: list[float] = []
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) // slots)):
        x = pixels(images[part]).to(tensor.device, dtype)
        y = torch.from_numpy(found.labels[rows[part]].astype(np.int64)).to(tensor.device)
        right += (judge(defense, x, y, evaluations, slots, keys[torch.from_numpy(part)]).votes / evaluations).tolist()
        progress.advance(len(part))
    return dict(zip(positions.tolist(), right, strict=True))
