"""Randomised smoothing: Gaussian noise, and a denoiser or a purifier that takes it off again.

References: Cohen, Rosenfeld, Kolter (2019), "Certified Adversarial Robustness via Randomized Smoothing", ICML; Salman,
Sun, Yang, Kapoor, Kolter (2020), "Denoised Smoothing: A Provable Defense for Pretrained Classifiers", NeurIPS; Carlini,
Tramer, Dvijotham, Rice, Sun, Kolter (2023), "(Certified!!) Adversarial Robustness for Free!", ICLR.

    y = x + sigma xi                     leaves the box, and is not clipped
    DenoisedSmoothing   D(y, sigma)      the score model's estimate of the clean image, in one step (Tweedie)
    SmoothedPurifier    Pur(y)           whatever a purifier makes of the noisy image

The smoothed classifier answers with the class that the classifier h behind this gives most often; `Certification` says
how sure that is within which l2 ball. A verdict of it, and what attackers differentiate, is an `Ensemble` of many
copies: votes, whose gradient is that of the mean softmax (Salman et al., 2019, "Provably Robust Deep Learning via
Adversarially Trained Smoothed Classifiers").
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod

from torch import Tensor, nn

from lit_pursamere.diffusion import NoiseSource, ScoreModel
from lit_pursamere.purifiers.base import Purifier
from lit_pursamere.store.manifest import setting_of

__all__ = ["DenoisedSmoothing", "SmoothedPurifier", "Smoothing"]

SLACK = 1.05  # how far beyond its levels a network still knows the noise


class Smoothing(Purifier):
    """A purifier that begins with Gaussian noise of its own stream; subclasses implement `clean`.

    Nothing else may know that noise: for a certificate, what follows it must be a function of y and of draws that are
    independent of xi.
    """

    streams: tuple[str, ...] = ("smoothing",)

    def __init__(self, score_model: ScoreModel | None, sigma: float, seed: int = 0) -> None:
        super().__init__(score_model, seed)
        if not 0 < sigma < math.inf:
            raise ValueError(f"{type(self).__name__} needs sigma above 0; got {sigma}")
        self.sigma = sigma

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        (xi,) = noise.draw("smoothing", 0, 1, x)
        return self.clean(x + self.sigma * xi, noise)

    @abstractmethod
    def clean(self, y: Tensor, noise: NoiseSource) -> Tensor:
        """Images (B, C, H, W) for the classifier, of noisy images y, which leave the box."""


class DenoisedSmoothing(Smoothing):
    """Noise, and one step of a score model at that level.

    Costs 1 network evaluation and one Gaussian.

    Args:
        score_model: Carlini et al.: a diffusion model; any `ScoreModel` that knows this level.
        sigma: Standard deviation of the noise in pixel units, in [0, 1] (papers: 0.12, 0.25, 0.5, 1).
        seed: One draw, from stream `smoothing`.

    Raises:
        ValueError: If sigma is not above 0, or none of the levels that the score model was trained at.
    """

    def __init__(self, score_model: ScoreModel, sigma: float = 0.25, seed: int = 0) -> None:
        super().__init__(score_model, sigma, seed)
        low, high = score_model.trained_at
        if not low / SLACK <= sigma <= high * SLACK:
            levels = f"sigma {low:.4g} alone" if low == high else f"sigma {low:.4g} to {high:.4g}"
            raise ValueError(
                f"{type(score_model).__name__} knows noise of {levels}, and is to take off noise of sigma {sigma:g}; "
                "choose a sigma among them, or another score model"
            )

    def clean(self, y: Tensor, noise: NoiseSource) -> Tensor:
        (x,) = self.checkpointed(lambda y: (self.score_model.denoise(y, self.sigma),), y)
        return x


class SmoothedPurifier(Smoothing):
    """Noise, and a purifier that gets the noisy image as it is.

    A purifier that draws fresh noise is one more random function, drawn anew with every copy; one whose noise is fixed
    is the same function for all of them. Its own noise is independent of that which comes before it.

    Args:
        purifier: Purifies; `Identity` leaves it to the classifier, which gets the noisy image clipped to the box.
        sigma: Standard deviation of the noise in pixel units, in [0, 1].
        seed: One draw, from stream `smoothing`.

    Raises:
        ValueError: If sigma is not above 0, or the purifier begins with such noise itself.
    """

    purifier: Purifier

    def __init__(self, purifier: Purifier, sigma: float = 0.25, seed: int = 0) -> None:
        super().__init__(None, sigma, seed)
        if isinstance(purifier, Smoothing):
            raise ValueError(
                f"the noise is told twice: {type(purifier).__name__} begins with noise of sigma {purifier.sigma:g} "
                f"itself, and is to be smoothed with {sigma:g}; name a purifier that does not"
            )
        self.purifier, self.adjoint = purifier, purifier.adjoint
        self.streams = (*Smoothing.streams, *purifier.streams)

    def in_front_of(self, classifier: nn.Module) -> SmoothedPurifier:
        inner = self.purifier.in_front_of(classifier)
        if inner is self.purifier:
            return self
        other = copy.copy(self)
        other._modules = {**self._modules, "purifier": inner}
        other._arguments = {**self._arguments, "purifier": setting_of(inner)}
        return other

    def clean(self, y: Tensor, noise: NoiseSource) -> Tensor:
        inner = copy.copy(self.purifier)
        inner.first_order, inner.adjoint = self.first_order, self.adjoint  # as a view of the defence has it
        return inner(y, noise if inner.knowledge == "fresh" else None)
