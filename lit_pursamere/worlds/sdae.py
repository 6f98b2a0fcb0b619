"""What a supervised denoising autoencoder learns, on two classes in one dimension where its minimiser is known.

Reference: Srinivasan et al. (2021), "Robustifying Models Against Adversarial Attacks by Langevin Dynamics", eq. 8 and
Theorem 1.

    r = argmin E (r(x + nu) - x)^2 + 2 sigma^2 CE(classifier(r(x + nu)), y)
    r(z) - z = sigma^2 E_{p(y|z)} grad log (p(z) classifier_y(z)) + O(sigma^3)                     Theorem 1

Class 0 is N(0.25, 0.1^2), class 1 is N(0.75, 0.1^2), both equally likely; the classifier is a logistic curve around
0.5 of any steepness, and Bayes' at 50. For a noisy z the objective is a function of the number r(z) alone, so that

    r = E[x | z] + sigma^2 gain (p(1 | z) - q(r)),      q(r) = the classifier's probability of class 1

has exactly one solution. In the limit the supervision adds gain (p(1 | z) - q(z)) to the score: nothing at all for
Bayes' classifier, since the expectation of its own gradient is that of a density.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_pursamere.worlds.theory import MEANS, STD, smooth_mixture_score

__all__ = ["BAYES", "Logistic", "class_posterior", "sdae_residual", "theorem_1_limit"]

BAYES = (MEANS[1] - MEANS[0]) / STD**2  # steepness of Bayes' classifier


class Logistic(nn.Module):
    """A classifier of 1-D images (B, 1, 1, 1), to logits (B, 2): class 1 with probability sigmoid(gain (x - 0.5)).

    Args:
        gain: Steepness, at least 0; 0 knows nothing.
    """

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        logit = self.gain * (x.flatten(1) - sum(MEANS) / 2)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def class_posterior(z: Tensor, sigma: float) -> Tensor:
    """Probability p(1 | z) of class 1 given z = x + nu, same shape as z."""
    return torch.sigmoid((MEANS[1] - MEANS[0]) / (STD**2 + sigma**2) * (z - sum(MEANS) / 2))


def sdae_residual(z: Tensor, sigma: float, gain: float) -> Tensor:
    """Compute r(z) - z of the minimiser of the sDAE's objective, by bisection: the equation above is monotone in r.

    Args:
        z: Noisy pixels (N,), float64.
        sigma: Standard deviation of the noise in pixel units, above 0.
        gain: Steepness of the classifier; 0 makes it a plain denoising autoencoder.
    """
    mean = smooth_mixture_score().denoise(z.reshape(-1, 1, 1, 1), sigma).reshape(z.shape)
    posterior, reach = class_posterior(z, sigma), sigma**2 * gain
    low, high = mean - reach, mean + reach
    for _ in range(60):
        r = (low + high) / 2
        above = r > mean + reach * (posterior - torch.sigmoid(gain * (r - sum(MEANS) / 2)))
        low, high = torch.where(above, low, r), torch.where(above, r, high)
    return low - z


def theorem_1_limit(z: Tensor, gain: float) -> Tensor:
    """E_{p(y|z)} grad log (p(z) classifier_y(z)), which Theorem 1 says the residual over sigma^2 tends to.

    Args and shape as in `sdae_residual`.
    """
    score = smooth_mixture_score().score(z.reshape(-1, 1, 1, 1), 1e-9).reshape(z.shape)
    return score + gain * (class_posterior(z, 0.0) - torch.sigmoid(gain * (z - sum(MEANS) / 2)))
