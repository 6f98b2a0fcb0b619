"""What a preflight looks at: a few images of all classes, and what is known of all images without reading them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from lit_pursamere.attacks import Attack
from lit_pursamere.defense import Defense

__all__ = ["Doubt", "Examined", "Labels", "few", "first_line", "numbers"]

FEW = 48  # enough to tell an accuracy from chance, and to meet ten classes almost surely


@dataclass(frozen=True)
class Doubt:
    """A line about an evaluation: what was found, and what to set. `stops`: it would be nonsense as it is."""

    what: str
    stops: bool = False


@dataclass(frozen=True)
class Labels:
    """The classes of all images, and their names, as far as they have names."""

    all: Sequence[int]
    names: Sequence[str] = ()

    def name(self, label: int) -> str:
        """A class in words: "3 (cat)"."""
        return f"{label} ({self.names[label]})" if 0 <= label < len(self.names) else str(label)


@dataclass(frozen=True)
class Examined:
    """An evaluation, and the few images that are looked at.

    Args:
        defense: What will be attacked.
        attacks: With what, by name.
        x: The few images (n, C, H, W).
        y: Their classes (n,).
        read: All images that were read anyway (N, C, H, W).
        labels: The classes of all images.
        normalised: Whether the classifier stands behind a normalisation that the user named.
        batch_size: Images per forward pass.
    """

    defense: Defense
    attacks: Mapping[str, Attack]
    x: Tensor
    y: Tensor
    read: Tensor
    labels: Labels
    normalised: bool
    batch_size: int

    def on_device(self) -> Examined:
        """The same with images of its own, where the networks are."""
        own = chain(self.defense.classifier.parameters(), self.defense.parameters(), self.defense.buffers())
        device = next((tensor.device for tensor in own), self.x.device)
        x, y = (few.detach().clone().to(device) for few in (self.x, self.y))
        return replace(self, x=x, y=y, read=self.read.detach())

    @cached_property
    def shape(self) -> str:
        """Shape of an image in words: "(3, 32, 32)"."""
        return str(tuple(self.x.shape[1:]))

    @cached_property
    def logits(self) -> Tensor:
        """What the classifier alone says of the images, (n, K)."""
        return self.ask(self.x)

    @torch.no_grad()
    def ask(self, images: Tensor) -> Tensor:
        """What the classifier alone says of images in any units, (n, K)."""
        return self.defense.classifier(images)


def few(labels: Sequence[int], seed: int, count: int = FEW) -> list[int]:
    """Positions of a few images, ascending: chosen at random, as many of each class as there are."""
    seen, ranked = Counter[int](), []
    for position in np.random.default_rng(seed).permutation(len(labels)).tolist():
        ranked.append((seen[labels[position]], position))
        seen[labels[position]] += 1
    ranked.sort(key=lambda pair: pair[0])  # the first of every class, then the second; stable, so the rest is chance
    return sorted(position for _, position in ranked[:count])


def numbers(values: Sequence[float]) -> str:
    """Numbers as Python writes a tuple, with four digits."""
    return f"({', '.join(f'{value:.4g}' for value in values)}{',' if len(values) == 1 else ''})"


def first_line(error: Exception) -> str:
    """An error in a line that is not too long."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}"
