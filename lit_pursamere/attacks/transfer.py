"""Transfer attacks: fool another classifier and hope that the defence falls for the same images.

Reference: Papernot et al. (2017), "Practical Black-Box Attacks against Machine Learning".

    x_adv = attack(source, x, y)        the target is never asked
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from lit_pursamere.attacks.base import Attack, Outcome, Progress
from lit_pursamere.threat import ThreatModel, View
from lit_pursamere.weights import load_weights, state_digest

__all__ = ["Transfer", "identify"]


@dataclass(frozen=True)
class Transfer(Attack):
    """Attack a source classifier and hand its last iterates to the target; the view stays unused.

    Its own `view` is `gray`: nothing about the defence is known while it runs, so only `last` is judged, and
    `any` is the same.

    Args:
        attack: What to run on the source.
        source: Classifier from images (B, C, H, W) in [0, 1] to logits (B, K); frozen here, in evaluation mode.
        checkpoint: Weight file of the source, see `weights.load_weights` (None: as it is).

    Two of them are equal if their attacks and the classes and weights of their sources are.
    """

    threat: ThreatModel = field(init=False)
    view: View = field(init=False)
    attack: Attack
    source: nn.Module = field(repr=False, compare=False)
    checkpoint: str | None = field(default=None, repr=False, compare=False)
    source_id: str = field(init=False)

    def __post_init__(self) -> None:
        if self.checkpoint is not None:
            load_weights(self.source, self.checkpoint)
        self.source.requires_grad_(False).eval()
        for name, value in {
            "threat": self.attack.threat,
            "view": "gray",
            "source_id": identify(self.source),
        }.items():
            object.__setattr__(self, name, value)
        super().__post_init__()

    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        last = self.attack(self.source.to(x.device), x, y, progress).last
        return Outcome(last, last)


def identify(module: nn.Module) -> str:
    """Class and weights of a module in a few characters, such as `WideResNet 1f0c2d3e4a5b`."""
    return f"{type(module).__name__} {state_digest(module)[:12]}"
