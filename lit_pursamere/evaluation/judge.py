"""The verdict of a defence on images: what it predicts, how often it is right, and by how much.

Everything that is computed for an image is computed in a group of one fixed size, so that rounding, which may depend on
the size of a batch, is the same in every run.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lit_pursamere.attacks.batching import in_groups
from lit_pursamere.attacks.gradients import adversarial_loss
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion.image_noise import follow
from lit_pursamere.host import deferred
from lit_pursamere.threat import Norm, image_norm

__all__ = ["Verdict", "distances", "judge"]


class Verdict(NamedTuple):
    """What a defence says of B images, all (B,).

    `prediction` is its first answer, `votes` the number of right ones; `margin` (true logit minus the best other one),
    `loss` (cross-entropy) and `moved` (l2 distance by which the purifier moves the image) are means over all answers;
    the margin and the loss of an ensemble are those of what it averages to. `statistic` is the detector's statistic
    (0 without one) and `rejected` whether it is too large. A rejected image has no votes; `unfooled` counts the answers
    that were right or rejected, which is all of them for a rejected image.
    """

    prediction: Tensor
    votes: Tensor
    unfooled: Tensor
    margin: Tensor
    loss: Tensor
    moved: Tensor
    statistic: Tensor
    rejected: Tensor


@torch.no_grad()
def judge(
    defense: Defense, images: Tensor, y: Tensor, evaluations: int, slots: int, keys: Tensor | None = None
) -> Verdict:
    """Let a defence judge images.

    Args:
        defense: The defence.
        images: (B, C, H, W) in [0, 1].
        y: True classes (B,).
        evaluations: How often each image is judged.
        slots: Images per forward pass.
        keys: Key of each image (B,), from which fresh noise is made, see `diffusion.image_noise`. None: fresh noise
            comes from torch's global generator.

    Returns:
        The verdict on every image.
    """

    def answers(x: Tensor, labels: Tensor, *keys: Tensor) -> tuple[Tensor, ...]:
        draws = []
        with follow(*keys or (None,)), deferred():
            for _ in range(evaluations):
                copies = defense.purifications(x)
                logits = defense.decide(copies)
                margin, loss = -adversarial_loss(logits, labels, "margin"), adversarial_loss(logits, labels)
                moved = torch.stack([image_norm(purified - x, "l2") for purified in copies]).mean(0)
                draws.append((logits.argmax(1), margin, loss, moved))
        predictions, *numbers = (torch.stack(column) for column in zip(*draws, strict=True))
        statistic, rejected = statistics_of(defense, x)
        right = predictions == labels
        votes, unfooled = (right & ~rejected).sum(0), (right | rejected).sum(0)
        return predictions[0], votes, unfooled, *(number.mean(0) for number in numbers), statistic, rejected

    return Verdict(*in_groups(answers, slots, images, y, *([] if keys is None else [keys.to(images.device)])))


def statistics_of(defense: Defense, x: Tensor) -> tuple[Tensor, Tensor]:
    """Statistic of the detector on images, (B,), and whether it rejects them, (B,) bool."""
    if defense.detector is None:
        return x.new_zeros(len(x)), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    return defense.detector.verdict(x)


@torch.no_grad()
def distances(x_adv: Tensor, x: Tensor, slots: int) -> dict[str, Tensor]:
    """How far x_adv (B, C, H, W) is from x in every norm, (B,) each."""
    norms: tuple[Norm, ...] = ("linf", "l2", "l1")
    found = in_groups(lambda a, b: tuple(image_norm(a - b, norm) for norm in norms), slots, x_adv, x)
    return dict(zip(norms, found, strict=True))
