"""What a purifier is: a function of an image and of named noise, nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from lit_pursamere.diffusion.noise import NoiseSource

__all__ = ["Identity", "Purifier"]


class Purifier(nn.Module, ABC):
    """Maps images (B, C, H, W) in [0, 1] to images of the same shape in [0, 1].

    A purifier has no state that a forward pass changes: it does no I/O, leaves weights, modes, `.grad` and, when its
    noise is seeded, the global generators alone, and treats every image on its own. It always stays in evaluation
    mode. If gradients are enabled and x requires one, the output is differentiable with respect to x.

    `recompute`: whether a differentiated purification keeps only the state between its steps and computes each step a
    second time on the way back, so that memory does not grow with the number of steps.
    `first_order`: whether derivatives leave out how gradients that the purifier itself takes change with x.
    """

    recompute = True
    first_order = False

    @abstractmethod
    def forward(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """Purify x; `noise` replaces the purifier's own source of Gaussian draws."""

    def checkpointed(self, step: Callable[..., tuple[Tensor, ...]], *state: Tensor) -> tuple[Tensor, ...]:
        """Run one step of a purification, from state to state; its noise must be drawn outside, or it would be redrawn.

        Raises:
            RuntimeError: On the way back, if the step computed a second time gives another state: the gradient would
                be that of another purification.
        """
        if not (self.recompute and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in state)):
            return step(*state)
        first: list[Tensor] = []

        def checked(*state: Tensor) -> tuple[Tensor, ...]:
            result = step(*state)
            if not first:
                first.extend(tensor.detach() for tensor in result)
            elif not all(torch.equal(a, b) for a, b in zip(first, result, strict=True)):
                raise RuntimeError(
                    f"a step of {type(self).__name__} gave another state when it was computed again, so its gradient "
                    "would be wrong; switch on torch.use_deterministic_algorithms(True), and look for noise that is "
                    "drawn inside a step, or for NaN"
                )
            return result

        with set_checkpoint_early_stop(False):  # to the end of the step, where it is compared
            return checkpoint(checked, *state, use_reentrant=False, preserve_rng_state=False)

    def train(self, mode: bool = True) -> Purifier:
        return super().train(False)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class Identity(Purifier):
    """No purification: what an undefended classifier has."""

    def forward(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return x
