"""The images of a `test` that kept them: untouched, attacked, and with which noise each was purified to be judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_pursamere.attacks import Attack
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion.image_noise import follow
from lit_pursamere.evaluation.evaluation import verdict_keys
from lit_pursamere.progress import Progress
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purifiers.base import assignments
from lit_pursamere.purifiers.states import purify_watched
from lit_pursamere.store import read_rows
from lit_pursamere.store.images import read_images
from lit_pursamere.store.manifest import setting_of
from lit_pursamere.store.records import CLEAN

__all__ = ["Kept", "read_kept"]


@dataclass(frozen=True, eq=False)
class Kept:
    """A defence, and images before and after attacks on it.

    Args:
        defense: The defence.
        system: Its name in the records.
        attacks: The attacks by name.
        images: Images (B, C, H, W) in [0, 1] by the name of their attack, last iterates; `clean`: untouched.
        y: True classes (B,).
        index: Positions of the images in the data set (B,).
        data: Name of the data set and split.
        class_names: Names of the classes.
        batch: Images per forward pass.
        seed: Seed of the test.
        hidden: Whether to keep progress to oneself.
    """

    defense: Defense
    system: str
    attacks: Mapping[str, Attack]
    images: Mapping[str, Tensor]
    y: Tensor
    index: Tensor
    data: str = ""
    class_names: Sequence[str] = ()
    batch: int = 64
    seed: int = 0
    hidden: bool = True

    @property
    def purifiers(self) -> dict[str, Purifier]:
        """The defence's purifier and its surrogate, if it has one, by class and the settings in which they differ."""
        found = [one for one in (self.defense.purifier, self.defense.surrogate) if one is not None]
        if len({type(one) for one in found}) == len(found):
            return {type(one).__name__: one for one in found}
        first, second = (one.settings for one in found)
        names = [
            assignments({key: value for key, value in mine.items() if value != others.get(key)})
            for mine, others in ((first, second), (second, first))
        ]
        return {f"{type(one).__name__} {name}".strip(): one for name, one in zip(names, found, strict=True)}

    def attacked(self, attack: str) -> str:
        """Which of `purifiers` an attack looks at."""
        names = list(self.purifiers)
        return names[-1] if getattr(self.attacks.get(attack), "view", "") == "surrogate" else names[0]

    def walk(self, name: str, attack: str, look: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
        """Purify images as they were purified to be judged, and look at all states on the way.

        Args:
            name: Which of `purifiers`.
            attack: Which of `images`.
            look: Called with the number of a step (0: before the first) and the images after it (b, C, H, W), some of
                all at a time; returns a row per image, (b, ...).

        Returns:
            What was returned, for every step, of all images: (B, ...) on the CPU.
        """
        keys = verdict_keys(self.index, self.seed, self.system, attack)["last"]
        groups: list[dict[int, Tensor]] = []
        with Progress("walk", "image", len(self.y), self.hidden) as progress:
            for chosen in torch.arange(len(self.y)).split(self.batch):
                found: dict[int, Tensor] = {}

                def keep(k: int, state: Tensor, found: dict[int, Tensor] = found) -> None:
                    found[k] = look(k, state).cpu()

                with follow(keys[chosen]):
                    purify_watched(self.purifiers[name], self.images[attack][chosen], keep)
                groups.append(found)
                progress.advance(len(chosen))
        last = max(map(max, groups))  # a group whose images all stand still may end before the others
        return [torch.cat([found[min(k, max(found))] for found in groups]) for k in range(last + 1)]

    @torch.no_grad()
    def probabilities(self, name: str, attack: str) -> Tensor:
        """What the classifier says of every state on the way, (steps + 1, B, K); see `walk`."""
        return torch.stack(self.walk(name, attack, lambda k, state: self.defense.classify(state).softmax(1).double()))

    def only(self, chosen: Tensor) -> Kept:
        """Some of the images, by their places."""
        images = {name: x[chosen.to(x.device)] for name, x in self.images.items()}
        changed = {"images": images, "y": self.y[chosen.to(self.y.device)], "index": self.index[chosen]}
        return Kept(**{**vars(self), **changed})

    @property
    def settings(self) -> dict[str, Any]:
        """What was looked at, as JSON values."""
        attacks = {name: self.attacks[name].settings for name in self.images if name != CLEAN}
        told = {"data": self.data, "n": len(self.y), "seed": self.seed, "defense": self.defense.settings}
        return {**told, "attacks": setting_of(attacks)}


def read_kept(folder: Path, system: str, defense: Defense, attacks: Mapping[str, Attack], **more: Any) -> Kept:
    """What a `test` kept of one of its systems.

    Args:
        folder: Its output.
        system: Name of the system.
        defense: The system.
        attacks: Its attacks by name.
        more: Further arguments of `Kept`.

    Raises:
        ValueError: If it is not complete, or kept no images.
        FileNotFoundError: If the file of the images is gone.
    """
    device, dtype = more.pop("device", "cpu"), more.pop("dtype", torch.float32)
    found = [row for row in read_rows(folder) if row["system"] == system]
    by_attack = {name: {row["index"]: row for row in found if row["attack"] == name} for name in (CLEAN, *attacks)}
    index = sorted(by_attack[CLEAN])
    if lacking := [name for name, rows in by_attack.items() if sorted(rows) != index]:
        raise ValueError(f"the test in {folder} is not complete: {', '.join(lacking)} lack images; run it again")
    images = {
        name: read_images(folder, [rows[i] for i in index])[0].to(device, dtype) for name, rows in by_attack.items()
    }
    y = torch.tensor([by_attack[CLEAN][i]["label"] for i in index], device=device)
    return Kept(defense, system, attacks, images, y, torch.tensor(index), **more)
