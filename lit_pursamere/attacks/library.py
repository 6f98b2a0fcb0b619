"""Around attack libraries: they get a float32 view of their own, and whatever they do to the world is undone.

Libraries seed the global generators, add to the parameters' gradients, cast images to float32 and overwrite logits.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks.gradients import NO_GRADIENT
from lit_pursamere.diffusion.image_noise import AT_HAND, follow
from lit_pursamere.seeding import forked_randomness, global_generators, kept_randomness

__all__ = ["Draws", "LibraryView", "fingerprint", "frozen", "require"]


def require(module: str, package: str) -> ModuleType:
    """Import a module of an attack library.

    Raises:
        ImportError: With the command that installs the package.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"this attack needs another package: pip install {package}  ({error})") from error


@contextmanager
def frozen(view: nn.Module) -> Iterator[None]:
    """No parameter of the view requires a gradient inside: a library's `backward` finds nowhere to add to."""
    trainable = [parameter for parameter in view.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class Draws:
    """How often a decision asks a view.

    Args:
        count: Answers of a view with randomness.
        sparing: Whether one answer is enough where no global generator moved for it.
    """

    count: int
    sparing: bool

    @classmethod
    @torch.no_grad()
    def of(cls, view: nn.Module, x: Tensor, count: int) -> Draws:
        """Spare the others unless a view answers differently on one of the images x, by a generator of its own."""
        if count == 1:
            return cls(1, sparing=False)
        with forked_randomness(), kept_randomness(), follow(None):  # noise that follows images would need all of them
            before = global_generators()
            first, second = view(x[:1]), view(x[:1])
            return cls(count, sparing=global_generators() != before or torch.equal(first, second))

    def answers(self, view: nn.Module, x: Tensor) -> list[Tensor]:
        """Logits of all draws, (B, K) each; a view may draw for some images only, so every call is watched."""
        before = global_generators() if self.sparing else None
        first = view(x)
        spared = self.sparing and AT_HAND.get() is None and global_generators() == before
        return [first, *(view(x) for _ in range(0 if spared else self.count - 1))]


def fingerprint(x: Tensor) -> int:
    """A number of 32 bits that depends on the pixels of a batch."""
    return zlib.crc32(x.detach().cpu().contiguous().view(torch.uint8).numpy().data)


class LibraryView(nn.Module):
    """A view as libraries want it: float32 images to float32 logits that they may overwrite.

    Points outside the pixel box are answered by what is nearest to them in it.

    The view is no submodule, so that moving this module, or changing its mode, does not reach the view.

    Args:
        view: Map from images (B, C, H, W) to logits (B, K).
        dtype: Type of the images that the view is given.
        classes: Number of classes K.
        tick: Called at every evaluation.
        draws: How often a decision asks.
    """

    def __init__(
        self,
        view: nn.Module,
        dtype: torch.dtype,
        classes: int,
        tick: Callable[[], None],
        draws: Draws = Draws(1, sparing=False),
    ) -> None:
        super().__init__()
        self.training = False  # a library warns otherwise
        self.evaluate, self.dtype, self.classes, self.tick, self.draws = view.__call__, dtype, classes, tick, draws
        self._vouched: Tensor | None = None

    def vouch(self, y: Tensor) -> None:
        """Answer the next call with these classes: for a library that would first check the clean images itself."""
        self._vouched = y

    def forward(self, x: Tensor) -> Tensor:
        if self._vouched is not None:
            y, self._vouched = self._vouched, None
            return F.one_hot(y, self.classes).float()
        self.tick()
        inside = x.clamp(0, 1)
        if x.requires_grad:  # EAD's momentum points leave the box; the gradient stays theirs
            inside = x + (inside - x).detach()
        logits = self.evaluate(inside.to(self.dtype))
        if torch.is_grad_enabled() and x.requires_grad and not logits.requires_grad:
            raise RuntimeError(NO_GRADIENT)
        return logits.to(torch.float32, copy=True)
