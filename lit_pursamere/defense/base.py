"""A defence: purify, then classify; an ensemble does so several times. The object attacked is the object judged.

    gray         the attacker sees the classifier alone
    bpda         values of the defence, gradient as if the purifier were the identity (Athalye et al., 2018, 4.1)
    first_order  values of the defence, gradient without the curvature inside: gradients that the purifier takes itself
                 count as constants
    adjoint      values of the defence, gradient of the purifier's SDE walked backward (Li et al., 2020): no step is
                 stored, at an error of the order of a step; for purifiers that integrate an SDE
    surrogate    values and gradient of a defence with another purifier, say one of fewer steps
    exact        values and gradient of the defence through every purification step; each step is computed a second time
                 on the way back, so memory does not grow with their number

Views are what attackers differentiate; verdicts always come from the defence itself. Every evaluation is checked, so
that a broken part cannot pass for robustness: modes, shapes, the pixel box and NaN. What depends on pixels or logits is
noted (`host`): raised at once, or, in an attack by steps, when its notes are read.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lit_pursamere.defense.detectors import Detector
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.diffusion.noise import NoiseSource
from lit_pursamere.host import note
from lit_pursamere.purifiers.base import Purifier
from lit_pursamere.store.manifest import settings_of
from lit_pursamere.threat import VIEWS, View

__all__ = ["Defense"]

ALONE = Ensemble()

SLACK = 0.5  # how far beyond the box an attack may ask; images in other units (0..255, normalised) are farther out


class Defense(nn.Module):
    """Classifier behind a purifier; frozen and in evaluation mode for good.

    Args:
        purifier: Maps images to images in [0, 1].
        classifier: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        ensemble: How many purified copies of an image make an answer, and how.
        surrogate: What an attacker with the view `surrogate` differentiates instead of the purifier.
        detector: Looks at images before they are purified; what it rejects, verdicts count as `results.verdicts` says.
            Logits, and with them what attackers differentiate, do not know of it: `attacks.DetectorPGD` does.
    """

    def __init__(
        self,
        purifier: Purifier,
        classifier: nn.Module,
        ensemble: Ensemble = ALONE,
        surrogate: Purifier | None = None,
        detector: Detector | None = None,
    ) -> None:
        super().__init__()
        self.purifier, self.classifier = purifier.in_front_of(classifier), classifier
        self.surrogate = surrogate and surrogate.in_front_of(classifier)
        self.ensemble, self.detector = ensemble, detector
        self.requires_grad_(False).train(False)
        self._logits_seen = False

    def train(self, mode: bool = True) -> Defense:
        return super().train(False)

    def forward(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """Logits (B, K) of the purified images.

        Raises:
            ValueError: If a part is in training mode, x is not in [0, 1] units, the purifier changes the shape or
                leaves the box, the classifier does not return logits (B, K), or anything is NaN.
        """
        return self.decide(self.purifications(x, noise))

    def purifications(self, x: Tensor, noise: NoiseSource | None = None) -> list[Tensor]:
        """The purified copies (B, C, H, W) that one answer is made of; raises as `forward` does."""
        if self.ensemble.copies == 1:
            return [self.purify(x, noise)]
        source = noise or getattr(self.purifier, "noise", None)
        return [self.purify(x, None if source is None else source.copy(j)) for j in range(self.ensemble.copies)]

    def decide(self, copies: Sequence[Tensor]) -> Tensor:
        """The answer (B, K) to purified copies; raises as `forward` does."""
        return self.ensemble.answer(torch.stack([self.classify(images) for images in copies]))

    def purify(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """Purified images (B, C, H, W); raises as `forward` does."""
        _refuse_training("purifier", self.purifier)
        given = _check_images(x)
        purified = self.purifier(x, noise)
        name = type(self.purifier).__name__
        if purified.shape != x.shape:
            raise ValueError(
                f"the purifier {name} turned images of shape {tuple(x.shape)} into {tuple(purified.shape)}; "
                "it must keep the shape"
            )
        if purified is not x and (found := _extremes(purified)):
            note(partial(_refuse_outside, name), *given, *found)
        return purified

    def classify(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images as they are; raises as `forward` does."""
        _refuse_training("classifier", self.classifier)
        logits, name = self.classifier(images), type(self.classifier).__name__
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
            raise ValueError(
                f"the classifier {name} must return logits (B, K), one row per image and one column for each of at "
                f"least two classes; got {shape} for {len(images)} images"
            )
        if found := _extremes(logits):
            note(partial(_refuse_infinite, name), *found)
            if not self._logits_seen:
                self._logits_seen = True
                note(partial(_warn_of_probabilities, name), found[0], (logits.detach().sum(1) - 1).abs().amax())
        return logits

    @property
    def description(self) -> str:
        """What decides its answers, beside weights, in a line."""
        detector = f"rejecting by {self.detector}" if self.detector is not None else ""
        return ", ".join(part for part in (str(self.purifier), str(self.ensemble), detector) if part)

    @property
    def settings(self) -> dict[str, object]:
        """What decides its answers, beside weights, as JSON values: the settings of every part by its name."""
        parts = {"purifier": self.purifier, "surrogate": self.surrogate, "detector": self.detector}
        return {
            **{name: settings_of(part) for name, part in parts.items() if part is not None},
            "classifier": type(self.classifier).__name__,
            "ensemble": dataclasses.asdict(self.ensemble),
        }

    @property
    def views(self) -> tuple[View, ...]:
        """The views that it has."""
        lacking = {"adjoint": self.purifier.adjoint is None, "surrogate": self.surrogate is None}
        return tuple(name for name in VIEWS if not lacking.get(name))

    def view(self, name: View) -> nn.Module:
        """The module x -> logits that an attacker with this knowledge differentiates.

        Raises:
            ValueError: If the view is unknown, or this defence does not have it.
        """
        if name == "gray":
            return Gray(self)
        if name == "bpda":
            return StraightThrough(self._seen())
        if name == "first_order":
            return self._seen(first_order=True)
        if name == "adjoint":
            if self.purifier.adjoint is None:
                raise ValueError(
                    f"{type(self.purifier).__name__} integrates no SDE, so it has no adjoint view; use the view exact"
                )
            return self._seen(adjoint=True)
        if name == "surrogate":
            if self.surrogate is None:
                raise ValueError(
                    "the view surrogate needs a purifier to differentiate instead; name it with `model.surrogate`, or "
                    "use the view exact"
                )
            return Defense(self.surrogate, self.classifier, self.ensemble.seen)
        if name == "exact":
            return self._seen()
        raise ValueError(f"view must be one of {', '.join(VIEWS)}; got {name!r}")

    def _seen(self, **settings: bool) -> Defense:
        """The defence as attackers see it, weights included, with other settings of its purifier."""
        if not settings and self.ensemble.attacked is None:
            return self
        purifier = copy.copy(self.purifier)
        for name, value in settings.items():
            setattr(purifier, name, value)
        return Defense(purifier, self.classifier, self.ensemble.seen)


class Gray(nn.Module):
    """The classifier of a defence alone."""

    def __init__(self, defense: Defense) -> None:
        super().__init__()
        self.defense = defense
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        _check_images(x)
        return self.defense.classify(x)


class StraightThrough(nn.Module):
    """The defence with the identity as the purifier's derivative."""

    def __init__(self, defense: Defense) -> None:
        super().__init__()
        self.defense = defense
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        zero = x - x.detach()  # carries the gradient
        return self.defense.decide([images.detach() + zero for images in self.defense.purifications(x.detach())])


def _extremes(values: Tensor) -> tuple[Tensor, ...]:
    """Smallest and largest value, both NaN if any is; nothing where there are no values to look at."""
    if not values.numel() or torch.compiler.is_compiling():
        return ()
    return torch.aminmax(values.detach())


def _refuse_training(part: str, module: nn.Module) -> None:
    if any(child.training for child in module.modules()):
        name = next(name for name, child in module.named_modules() if child.training)
        raise ValueError(
            f"the {part} of a defence was put in training mode (module {name or type(module).__name__!r}): dropout "
            "and batch statistics would decide; call .eval() on it"
        )


def _check_images(x: Tensor) -> tuple[Tensor, ...]:
    """The images' extremes, which may lie a little beyond the box, but not in other units."""
    if found := _extremes(x):
        note(_refuse_other_units, *found)
    return found


def _refuse_other_units(low: float, high: float) -> None:
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise ValueError(
            f"images must lie in [0, 1]; they range from {low:g} to {high:g} (divide 0..255 by 255; normalisation "
            "belongs into the classifier)"
        )


def _refuse_outside(name: str, low: float, high: float, lowest: float, highest: float) -> None:
    """Purified images may lie from `lowest` to `highest` only if those given, from `low` to `high`, did."""
    if not (lowest >= min(0, low) and highest <= max(1, high)):
        raise ValueError(
            f"the purifier {name} must return images in [0, 1]; they range from {lowest:g} to {highest:g} (clamp "
            "them; NaN comes from the score model or from too large a step)"
        )


def _refuse_infinite(name: str, low: float, high: float) -> None:
    if not -torch.inf < low <= high < torch.inf:
        raise ValueError(
            f"the classifier {name} returned logits from {low:g} to {high:g}; they must be finite numbers (look for a "
            "division by zero, or for half precision that overflows)"
        )


def _warn_of_probabilities(name: str, low: float, farthest: float) -> None:
    """`farthest`: the largest distance from 1 of a sum of an image's logits."""
    if low >= 0 and farthest < 1e-3:
        warnings.warn(
            f"the classifier {name} seems to return probabilities instead of logits (its rows sum to 1): gradients of "
            "the cross-entropy fade on them, which looks like robustness; leave out its softmax",
            stacklevel=2,
        )
