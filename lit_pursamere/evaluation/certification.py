"""Certificates of randomised smoothing: within which l2 ball no attack changes the class, and how sure that is.

Reference: Cohen, Rosenfeld, Kolter (2019), "Certified Adversarial Robustness via Randomized Smoothing", theorem 1, and
CERTIFY and PREDICT of its section 3.2. f is a defence that begins with noise (`purifiers.smoothing`), g its majority.

    CERTIFY   c = the class that f gives most often in n0 draws;  k = how often it gives c in n others
              p = lower Clopper-Pearson bound of P(f = c), at confidence 1 - alpha, from k of n
              p > 1/2:  g = c within radius sigma Phi^-1(p), except with probability alpha;  else abstain
    PREDICT   the class most often given in those n draws, unless a two-sided binomial test of it against the second
              one, at 1/2, has a p-value above alpha: then abstain

Noise is a function of seed, image and draw: neither of the batch, nor of the process, nor of interruptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import betainc, betaincinv, ndtri
from torch import Tensor

from lit_pursamere.attacks.batching import in_groups
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion.image_noise import combine, follow, image_keys
from lit_pursamere.host import deferred

__all__ = ["ABSTAIN", "Certificate", "Certification", "lower_bound", "p_value"]

ABSTAIN = -1  # in place of a class


@dataclass(frozen=True)
class Certificate:
    """What is known of the smoothed classifier at one image.

    `selected` is the class that CERTIFY chose, given in `count` of n draws; `lower` the lower bound of its probability,
    and `radius` that of the certificate in l2, in pixel units (None: it abstains). `prediction` is what PREDICT
    answers, a class or ABSTAIN.
    """

    selected: int
    count: int
    lower: float
    radius: float | None
    prediction: int


@dataclass(frozen=True)
class Certification:
    """How certificates are made.

    Args:
        n0: Draws that choose the class, at least 1 (paper: 100).
        n: Draws that bound its probability, more than log2(1 / alpha) (paper: 100,000). No radius is larger than
            sigma Phi^-1(alpha^(1/n)), that of n draws that give one class.
        alpha: Probability, in (0, 1), that the certificate of an image is wrong (paper: 0.001).

    Raises:
        ValueError: If a number is out of range, or n is too small to certify anything.
    """

    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001

    def __post_init__(self) -> None:
        if self.n0 < 1 or self.n < 1:
            raise ValueError(f"a certificate needs n0 >= 1 and n >= 1 draws; got {self.n0} and {self.n}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is the probability that a certificate is wrong, in (0, 1); got {self.alpha}")
        if lower_bound(self.n, self.n, self.alpha) <= 0.5:
            enough = math.floor(-math.log2(self.alpha)) + 1
            raise ValueError(
                f"with n = {self.n} draws nothing can be certified at alpha = {self.alpha:g}, even if all give one "
                f"class; take n >= {enough}"
            )

    def certify(self, smoothed: Defense, sigma: float, x: Tensor, index: int, seed: int, slots: int) -> Certificate:
        """The certificate of one image.

        Args:
            smoothed: Its purifier begins with noise of this sigma, and draws fresh noise alone.
            sigma: Standard deviation of that noise, in pixel units.
            x: The image (1, C, H, W) in [0, 1].
            index: Its position in the data set.
            seed: Of all draws.
            slots: Draws per forward pass.
        """
        given = self.draws(smoothed, x, image_keys(torch.tensor([index]), seed, "certificate"), slots)
        selected = int(given[: self.n0].bincount().argmax())
        return self.certificate(selected, given[self.n0 :].bincount(minlength=selected + 2), sigma)

    @torch.no_grad()
    def draws(self, smoothed: Defense, x: Tensor, key: Tensor, slots: int) -> Tensor:
        """The classes (n0 + n,) that the defence gives to an image (1, C, H, W) with the noise of key (1,)."""

        def answers(keys: Tensor) -> tuple[Tensor]:
            with follow(keys), deferred():
                return (smoothed(x.expand(len(keys), *x.shape[1:])).argmax(1),)

        (given,) = in_groups(answers, slots, combine(key, torch.arange(self.n0 + self.n)))
        return given.cpu()

    def certificate(self, selected: int, counts: Tensor, sigma: float) -> Certificate:
        """The certificate that follows from counts.

        Args:
            selected: The class that was chosen by other draws than these.
            counts: How often each of at least two classes was given (K,).
            sigma: Standard deviation of the noise, in pixel units.
        """
        count = int(counts[selected])
        lower = lower_bound(count, int(counts.sum()), self.alpha)
        radius = sigma * float(ndtri(lower)) if lower > 0.5 else None
        (first, second), (top, _) = (column.tolist() for column in counts.topk(2))
        prediction = top if p_value(first, second) <= self.alpha else ABSTAIN
        return Certificate(selected, count, lower, radius, prediction)


def lower_bound(count: int, n: int, alpha: float) -> float:
    """One-sided lower Clopper-Pearson bound of a probability, too high with probability alpha at most.

    Args:
        count: How often it happened, in [0, n].
        n: In so many draws.
        alpha: In (0, 1).
    """
    return float(betaincinv(count, n - count + 1, alpha)) if count else 0.0


def p_value(first: int, second: int) -> float:
    """Of a two-sided binomial test of the hypothesis that two classes, given so often, are equally likely."""
    most, n = max(first, second), first + second
    return min(1.0, 2 * float(betainc(most, n - most + 1, 0.5))) if n else 1.0
