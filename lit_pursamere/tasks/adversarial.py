"""What a classifier is trained on: images as they are, purified, attacked, attacked and then purified, in any mixture.

References: Madry et al. (2018), eq. (2.1): only attacked images; PurSAMERE, eq. (17): half clean, half purified.

    x_adv = attack(view of h after Pur)(x, y)          h frozen and in evaluation mode; Pur a purifier, or the identity
    loss = E[ sum_p w_p CE(h(x_p), y) ],   x_p one of x, Pur(x), x_adv, Pur(x_adv)

In evaluation mode an image is attacked as it will be judged, whatever its neighbours are, and batch statistics stay as
they are. Madry's own code for CIFAR-10 attacks the network in training mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks import Attack, IterativeAttack
from lit_pursamere.attacks.library import frozen
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion.guidance import evaluating
from lit_pursamere.diffusion.image_noise import combine, follow, image_keys, repeated_draws
from lit_pursamere.host import deferred
from lit_pursamere.purifiers import Identity, Purifier
from lit_pursamere.seeding import reseed, run_seed

__all__ = ["PARTS", "Mixture", "attacked", "check_attack", "defended", "mean_cross_entropy", "purified"]

PARTS = ("clean", "purified", "adversarial", "purified_adversarial")
ATTACKED = PARTS[2:]


@dataclass(frozen=True, eq=False)
class Mixture:
    """The images of a step of training, made of those of its batch.

    No network here is part of the task: a purifier is neither trained, averaged nor saved with the classifier.

    Args:
        parts: Weight of each part of the loss; None: see `weights`.
        adversary: What attacks the images.
        purifier: What purifies them; `Identity`: nothing does.

    Raises:
        ValueError: If a part is unknown or lacks its adversary or purifier, the weights are not above 0 or do not sum
            to 1, or an adversary has nothing to do.
    """

    parts: Mapping[str, float] | None = None
    adversary: Attack | None = None
    purifier: Purifier = Identity()  # noqa: RUF009 (has no state)

    def __post_init__(self) -> None:
        if self.adversary is not None:
            check_attack("adversary", self.adversary, self.purifier)
        parts = self.weights(pairs=True)
        if unknown := [name for name in parts if name not in PARTS]:
            raise ValueError(f"parts must be some of {', '.join(PARTS)}; got {unknown[0]!r}")
        if not all(weight > 0 for weight in parts.values()) or not math.isclose(sum(parts.values()), 1, abs_tol=1e-6):
            raise ValueError(f"the weights of parts must be above 0 and sum to 1; got {dict(parts)}")
        attacks = [name for name in parts if name in ATTACKED]
        if attacks and self.adversary is None:
            raise ValueError(f"the part {attacks[0]!r} needs an attack: name it as `model.adversary`")
        if self.adversary is not None and not attacks:
            raise ValueError(f"an adversary is for the parts {' and '.join(ATTACKED)}; `model.parts` has neither")
        if "purified_adversarial" in parts and not self.purifies:
            raise ValueError("the part 'purified_adversarial' needs a purifier: name it as `model.purifier`")

    @property
    def purifies(self) -> bool:
        """Whether there is a purifier."""
        return not isinstance(self.purifier, Identity)

    def weights(self, pairs: bool) -> Mapping[str, float]:
        """Weight of each part of the loss.

        Where none are told, an adversary has all of it, behind the purifier if there is one; without an adversary it is
        half clean and half purified, or clean where nothing is purified.

        Args:
            pairs: Whether batches are of images and their purified twins.
        """
        if self.parts is not None:
            return self.parts
        if self.adversary is not None:
            return {"purified_adversarial" if self.purifies else "adversarial": 1.0}
        return {"clean": 0.5, "purified": 0.5} if pairs or self.purifies else {"clean": 1.0}

    def images(self, classifier: nn.Module, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> Tensor:
        """The parts of the loss for every image of a batch; the classifier stays as it is.

        Start and noise of an attack by steps, and the noise of the purifier, are those of the run's seed, the epoch and
        the image; what other attacks draw also depends on which images the batch has.

        Args:
            classifier: Whom the attack is for.
            x: Images (B, C, H, W), or pairs (B, 2, C, H, W) of images and their purified twins, in [0, 1].
            y: Their classes (B,).
            index: Their positions in the data set (B,).
            epoch: Which time they are seen.

        Returns:
            (B, P, C, H, W), the parts in the order of `weights`.

        Raises:
            ValueError: If images are to be purified, and there are neither pairs nor a purifier.
        """
        made = dict(zip(PARTS, [x] if x.ndim == 4 else x.unbind(1), strict=False))
        wanted = [*self.weights(x.ndim == 5)]
        if {*wanted} <= {*made}:
            return torch.stack([made[name] for name in wanted], 1)
        clean, keys = made["clean"], image_keys(index, run_seed(), "training", epoch)
        if "purified" in wanted and "purified" not in made:
            if not self.purifies:
                raise ValueError("the part 'purified' needs pairs (`data.purified`), or a purifier (`model.purifier`)")
            made["purified"] = purified(self.purifier, classifier, clean, combine(keys, -3))
        if self.adversary is not None:
            made["adversarial"] = attacked(self.adversary, self.purifier, classifier, clean, y, keys)
            if "purified_adversarial" in wanted:
                hostile = made["adversarial"]
                made["purified_adversarial"] = purified(self.purifier, classifier, hostile, combine(keys, -2))
        return torch.stack([made[name] for name in wanted], 1)

    def __str__(self) -> str:
        if self.parts is None and self.adversary is None and not self.purifies:
            return "half on clean and half on purified images where there are pairs"
        shares = self.weights(pairs=True)
        parts = [f"{f'{share:g} ' * (share < 1)}on {name.replace('_', ' ')}" for name, share in shares.items()]
        return " + ".join(parts) + " images"


def check_attack(name: str, attack: Attack, purifier: Purifier) -> None:
    """Refuse an attack that a training cannot carry out.

    Raises:
        ValueError: If it has no threat model, or a view that a classifier behind this purifier does not have.
    """
    views = ("gray",) if isinstance(purifier, Identity) else Defense(purifier, nn.Identity()).views
    if attack.view not in views and len(views) == 1:
        raise ValueError(
            f"there is no purifier in this training: its {name} must have the view 'gray'; got {attack.view!r}"
        )
    if attack.view not in views:
        raise ValueError(
            f"behind {type(purifier).__name__} the {name} may have the views {', '.join(views)}; got {attack.view!r}"
        )
    if attack.threat is None:
        raise ValueError(f"the {name} of a training names no threat model: give it as `model.{name}.threat`")


@contextmanager
def defended(purifier: Purifier, classifier: nn.Module, like: Tensor) -> Iterator[Defense]:
    """The classifier behind a purifier, frozen and in evaluation mode; afterwards it is trained as before.

    Args:
        purifier: Is taken to the device and the precision of the images.
        classifier: In training.
        like: Images (B, C, H, W).
    """
    with evaluating(classifier), frozen(classifier):
        yield Defense(purifier.to(like.device, like.dtype), classifier)


def attacked(attack: Attack, purifier: Purifier, classifier: nn.Module, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
    """Last iterates (B, C, H, W) of an attack on images x (B, C, H, W) of classes y (B,), drawn by keys (B,)."""
    with defended(purifier, classifier, x) as defense:
        view = defense.view(attack.view)
        if not isinstance(attack, IterativeAttack):
            with repeated_draws():  # as in an evaluation: the attack's own generator depends on the batch
                reseed(*(keys & 0xFFFFFFFF).tolist())
                return attack(view, x, y).last
        found = torch.empty_like(x)
        with follow(keys):  # so that every image has a start of its own
            for position, outcome in attack.in_slots(view, x, y, len(x), keys=keys):
                found[position] = outcome.last
        return found


@torch.no_grad()
def purified(purifier: Purifier, classifier: nn.Module, x: Tensor, keys: Tensor) -> Tensor:
    """What a purifier before a classifier makes of images (B, C, H, W), with the noise of keys (B,)."""
    with defended(purifier, classifier, x) as defense, follow(keys), deferred():
        return defense.purify(x)


def mean_cross_entropy(logits: Tensor, y: Tensor, weights: Sequence[float]) -> Tensor:
    """Cross-entropy of parts of images, weighted, and its mean over the images.

    Args:
        logits: (B P, K), the P parts of an image one after the other.
        y: Classes (B P,).
        weights: Of the parts, P of them; they sum to 1.
    """
    if len({*weights}) == 1:
        return F.cross_entropy(logits, y)
    parts = F.cross_entropy(logits, y, reduction="none").unflatten(0, (-1, len(weights))).mean(0)
    return torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum()
