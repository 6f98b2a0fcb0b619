"""What is checked on the way is read late, and still raised: before anything is handed over, with the same words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import PGD, SPSA, RandomSearch
from lit_pursamere.attacks.gradients import LOSSES, adversarial_loss
from lit_pursamere.attacks.iterative import IterativeAttack
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import NoiseSource
from lit_pursamere.host import deferred
from lit_pursamere.purifiers import Identity, PurSAMERE
from lit_pursamere.threat import ThreatModel

THREAT, STEPS = ThreatModel("linf", 0.05), 6


class Late(nn.Module):
    """Logits, or images, to which something is done from a certain call on."""

    def __init__(self, inner: nn.Module, spoil: Callable[[Tensor], Tensor], first: int) -> None:
        super().__init__()
        self.inner, self.spoil, self.first, self.calls = inner, spoil, first, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.spoil(self.inner(x)) if self.calls > self.first else self.inner(x)


class Moving(Identity):
    """A module as a purifier."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.inner(x)


FAULTS = {
    "logits": (lambda z: z / 0, r"classifier Late returned logits from .*must be finite"),
    "one logit": (
        lambda z: z.index_fill(1, torch.tensor([1]), torch.nan),
        "logits from nan to nan; they must be finite",
    ),
    "images": (lambda x: x + 0.3, r"purifier Moving must return images in \[0, 1\].*clamp"),
}
ATTACKS = {
    "pgd": PGD(THREAT, "exact", STEPS, loss="margin"),
    "pgd-stop": PGD(THREAT, "exact", STEPS, stop_on_success=True),
    "spsa": SPSA(THREAT, "exact", STEPS, pairs=2),
    "random-search": RandomSearch(THREAT, "exact", draws=STEPS),
}


def broken(fault: str, classifier: nn.Module, first: int) -> tuple[Defense, Late, str]:
    """A defence with a fault from a call on, the part that has it, and what will be said of it."""
    spoil, message = FAULTS[fault]
    late = Late(nn.Identity() if fault == "images" else classifier, spoil, first)
    parts = (Moving(late), classifier) if fault == "images" else (Identity(), late)
    return Defense(*parts), late, message


@pytest.mark.parametrize("first", [0, 1, STEPS - 1])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_step_is_raised(linear_classifier, images, fault, attack, first):
    y = linear_classifier(images).argmax(1)
    defense, late, message = broken(fault, linear_classifier, first)
    with pytest.raises(ValueError, match=message):
        attack(defense.view("exact"), images, y)
    assert first or late.calls <= 2 + isinstance(attack, SPSA), "what is wrong from the start is said after one step"


@pytest.mark.parametrize("fault", FAULTS)
def test_in_slots_nothing_is_handed_over_before_its_checks_are_read(linear_classifier, images, fault):
    y, given = linear_classifier(images).argmax(1), []
    defense, _, message = broken(fault, linear_classifier, STEPS + 1)  # in the second group of images
    with pytest.raises(ValueError, match=message):
        given += (position.tolist() for position, _ in ATTACKS["pgd"].in_slots(defense, images, y, 4))
    assert given == [[0, 1, 2, 3]]


def test_whoever_is_handed_images_has_his_own_checks_at_once(linear_classifier, images):
    y, told = linear_classifier(images).argmax(1), []
    for position, _ in ATTACKS["pgd"].in_slots(Defense(Identity(), linear_classifier), images, y, 4):
        with pytest.raises(ValueError, match="images must lie in"):
            Defense(Identity(), linear_classifier)(255 * images)
        told.append(len(position))
    assert told == [4, 4]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("label", [3, -1, -100])
def test_labels_that_are_no_class_are_refused_after_one_step(linear_classifier, images, attack, label):
    y = linear_classifier(images).argmax(1)
    y[5] = label
    late = Late(linear_classifier, lambda z: z, 0)
    with pytest.raises(ValueError, match=rf"class numbers.*{label}"):
        attack(late, images, y)
    assert late.calls <= 2 or not isinstance(attack, IterativeAttack)


def test_a_step_that_changes_when_computed_again_is_an_error_of_the_attack(mixture, linear_classifier, images):
    class Restless(PurSAMERE):
        """Draws noise inside a step."""

        def _error_and_gradient(self, x, sigma, xi):
            return super()._error_and_gradient(x, sigma, torch.randn_like(xi))

    view = Defense(Restless(mixture, 0.4, 0.2, draws=2, sigmas=[0.5, 0.1]), linear_classifier).view("exact")
    with torch.random.fork_rng(devices=[]), pytest.raises(RuntimeError, match="Restless gave another state"):
        PGD(THREAT, "exact", 3)(view, images, linear_classifier(images).argmax(1))


@pytest.mark.parametrize("loss", LOSSES)
def test_until_a_label_is_refused_it_indexes_nothing_out_of_bounds(loss):
    """On a GPU an index out of bounds ends the process; nothing could be raised any more."""
    logits = torch.rand((3, 4), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"class numbers.*-100 to 4") as caught, deferred():
        assert adversarial_loss(logits, torch.tensor([0, 4, -100]), loss).isfinite().all()
    assert caught.value.__context__ is None
