"""Attack with a detector in mind: images that fool, and that the detector takes for clean.

Reference: Srinivasan et al. (2021), "Robustifying Models Against Adversarial Attacks by Langevin Dynamics", section
4.5. With `ReconstructionNorm` and p = 2 it is their R+PGD, after Frosst et al. (2018).

    maximise CE(view(x_adv), y) - weight * statistic(x_adv) by projected steps, see `penalised_pgd`
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_pursamere.attacks.penalised_pgd import PenalisedPGD
from lit_pursamere.defense.detectors import Detector
from lit_pursamere.weights import state_digest

__all__ = ["DetectorPGD"]


@dataclass(frozen=True)
class DetectorPGD(PenalisedPGD):
    """PGD on the loss minus a multiple of a detector's statistic; all other settings are those of `PGD`.

    If the detector has a threshold, an iterate is a success only where the detector lets it pass, so that `any` is the
    first one that fools both. Give it the threshold of the defence's detector. Of the losses prefer `margin`: the
    gradient of the cross-entropy fades where the classifier is sure, and the statistic alone then leads.

    Args:
        detector: Whose statistic is kept low.
        weight: Factor of the statistic, in its own units. Positive: stay where it is small. 0 is PGD with the successes
            of the detector.
    """

    detector: Detector = field(kw_only=True, repr=False, compare=False)
    detector_id: str = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "detector_id", f"{self.detector} {state_digest(self.detector)[:12]}")

    def penalty_gradient(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.detector.to(x.device).statistic(x).sum(), x)[0]

    def counts(self, x_adv: Tensor, x: Tensor) -> Tensor:
        allowed = super().counts(x_adv, x)
        return allowed & ~self.detector.to(x.device).rejects(x_adv) if self.detector.calibrated else allowed
