"""Ensembles: one answer from several purified copies of an image.

Reference: Yoon, Hwang, Lee (2021), "Adversarial Purification with Score-based Generative Models", section 3.2.

    logits   mean_j z_j        softmax   log mean_j softmax(z_j)        votes   share of the copies for each class
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Ensemble"]

Average = Literal["logits", "softmax", "votes"]


@dataclass(frozen=True)
class Ensemble:
    """How often a defence purifies an image for one answer, and what it makes of the answers.

    Args:
        copies: Purified copies (ADP: 10). Copy j of seeded noise has a seed of its own, see `NoiseSource.copy`.
        average: `logits`, `softmax` or `votes`, see the head of this file. The gradient of votes is that of the mean
            softmax.
        attacked: Copies that an attacker's view of the defence has (None: all of them). With 1, an attacker averages
            over single copies by its own EoT, as published attacks on ADP do; the verdict is that of all copies.

    Raises:
        ValueError: If a number is below 1 or the average is unknown.
    """

    copies: int = 1
    average: Average = "logits"
    attacked: int | None = None

    def __post_init__(self) -> None:
        if self.copies < 1 or (self.attacked is not None and not 1 <= self.attacked <= self.copies):
            raise ValueError(
                f"an ensemble needs copies >= 1 and attacked from 1 to copies; got {self.copies} and {self.attacked}"
            )
        if self.average not in get_args(Average):
            raise ValueError(f"average must be one of {', '.join(get_args(Average))}; got {self.average!r}")

    @property
    def seen(self) -> Ensemble:
        """The ensemble that attackers see."""
        return self if self.attacked is None else Ensemble(self.attacked, self.average)

    def answer(self, logits: Tensor) -> Tensor:
        """One answer (B, K) from the logits of all copies, (copies, B, K)."""
        if self.average == "logits":
            return logits.mean(0)
        if self.average == "softmax":
            return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))
        shares = F.one_hot(logits.argmax(2), logits.shape[2]).to(logits.dtype).mean(0)
        soft = logits.softmax(2).mean(0)
        return shares + (soft - soft.detach())

    def __str__(self) -> str:
        return "" if self.copies == 1 else f"{self.average} of {self.copies} copies"
