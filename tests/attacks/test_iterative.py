"""Slots change no result: not their number, not who shares them, not the order of arrival."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import MIM, PGD, SPSA, Outcome, ReconstructionPGD, SelectivePGD
from lit_pursamere.attacks.iterative import IterativeAttack
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.diffusion.image_noise import image_keys
from lit_pursamere.host import docket
from lit_pursamere.purifiers import DiffPure, PurSAMERE
from lit_pursamere.threat import ThreatModel

THREAT, COUNT = ThreatModel("linf", 0.1), 16


def score_model() -> GaussianMixtureScore:
    means = torch.stack([torch.full((1, 8, 8), 0.3), torch.full((1, 8, 8), 0.7)])
    return GaussianMixtureScore(means, std=[0.1, 0.15], weights=[0.6, 0.4]).double()


ATTACKS: dict[str, IterativeAttack] = {
    "pgd": PGD(THREAT, steps=5),
    "pgd-stop": PGD(THREAT, steps=5, stop_on_success=True),
    "pgd-l2-start": PGD(ThreatModel("l2", 0.5), steps=4, start="ball", stop_on_success=True),
    "pgd-l1-eot": PGD(ThreatModel("l1", 2), steps=3, eot=3, eot_chunk=2),
    "mim-stop": MIM(THREAT, steps=5, stop_on_success=True),
    "spsa-stop": SPSA(THREAT, steps=3, pairs=4, stop_on_success=True),
    "selective": SelectivePGD(THREAT, steps=4, eot=2, stop_on_success=True),
    "reconstruction": ReconstructionPGD(THREAT, steps=4, score_model=score_model(), sigmas=[0.3, 0.1]),
}


@pytest.fixture(params=ATTACKS)
def attack(request) -> IterativeAttack:
    return ATTACKS[request.param]


def classifier(dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(384, 4))
    return network.to(dtype).eval()


def images(dtype: torch.dtype) -> Tensor:
    return torch.rand((COUNT, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def labels(view: nn.Module, x: Tensor) -> Tensor:
    """The classes that the view predicts, wrong for every fifth image: attacks end at different steps."""
    with torch.no_grad():
        predicted = view(x).argmax(1)
    return torch.where(torch.arange(len(x)) % 5 == 0, (predicted + 1) % 4, predicted)


@pytest.fixture(params=["classifier", pytest.param("PurSAMERE", marks=pytest.mark.slow)])
def world(request, tiny_score) -> tuple[nn.Module, Tensor, Tensor]:
    """A float32 view of a convolutional network, alone or behind PurSAMERE on a tiny NCSNv2; images and labels."""
    view = classifier(torch.float32)
    if request.param == "PurSAMERE":
        view = Defense(PurSAMERE(tiny_score, 0.8, 0.2, 1, [0.5, 0.1]), view).view("bpda")
    x = images(torch.float32)
    return view, x, labels(view, x)


def scheduled(attack: IterativeAttack, view: nn.Module, x: Tensor, y: Tensor, slots: int) -> Outcome:
    """All images in the order of their positions; checks that each is delivered once, `slots` of them at a time."""
    found, sizes = {}, []

    for position, outcome in attack.in_slots(view, x, y, slots):
        sizes.append(len(position))
        for i, number in enumerate(position.tolist()):
            assert number not in found
            found[number] = [value[i] for value in outcome]
    assert sizes[:-1] == [slots] * (len(sizes) - 1) and sorted(found) == list(range(len(x)))
    return Outcome(*(torch.stack([found[i][kind] for i in range(len(x))]) for kind in range(3)))


def assert_same(one: Outcome, other: Outcome) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("slots", [1, 7, 64])
def test_the_number_of_slots_does_not_matter(slots, attack):
    view, x = classifier(torch.float64), images(torch.float64)
    y = labels(view, x)
    plain, found = attack(view, x, y), scheduled(attack, view, x, y, slots)
    assert torch.allclose(found.last, plain.last, rtol=0, atol=1e-10)
    assert torch.allclose(found.any, plain.any, rtol=0, atol=1e-10)
    assert torch.equal(found.first_success, plain.first_success)
    assert torch.equal(view(found.last).argmax(1), view(plain.last).argmax(1))


@pytest.mark.parametrize("slots", [1, 7, 64])
def test_nor_behind_pursamere(slots, mixture, images, linear_classifier):
    view = Defense(PurSAMERE(mixture, 0.4, 0.2, 2, [0.3, 0.1]), linear_classifier).view("bpda")
    y = view(images).argmax(1)
    attack = PGD(THREAT, "bpda", 4, stop_on_success=True)
    plain, found = attack(view, images, y), scheduled(attack, view, images, y, slots)
    assert torch.allclose(found.last, plain.last, rtol=0, atol=1e-10)
    assert torch.equal(found.first_success, plain.first_success)


def test_order_company_and_interruption_do_not_matter_bit_for_bit(world, attack, slots=7):
    view, x, y = world
    expected = scheduled(attack, view, x, y, slots)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(2))
    back = order.argsort()
    assert_same(Outcome(*(v[back] for v in scheduled(attack, view, x[order], y[order], slots))), expected)
    for part in (slice(11, None), slice(3, 5)):  # what is left after an interruption; a share of several processes
        assert_same(scheduled(attack, view, x[part], y[part], slots), Outcome(*(v[part] for v in expected)))


@dataclass(frozen=True)
class Counting(PGD):
    """PGD that notes the steps taken by every image, by its first pixel."""

    taken = []

    def step(self, view: nn.Module, x: Tensor, y: Tensor, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        self.taken.append(x[:, 0, 0, 0].tolist())
        return super().step(view, x, y, state)


@pytest.mark.parametrize("slots", [1, 4, 7])
def test_the_cost_is_the_work_left(slots):
    view, x = classifier(torch.float32), images(torch.float32)
    y, calls = labels(view, x), []
    Counting.taken.clear()
    attack = Counting(THREAT, steps=6, stop_on_success=True)
    outcome = scheduled(attack, view, x, y, slots)
    needed = torch.where(outcome.first_success < 0, 6, outcome.first_success + 1)  # it takes a call to see a success
    assert len(needed.unique()) >= 3, "images must leave at different steps"
    work = int(needed.sum())
    for i, first_pixel in enumerate(x[:, 0, 0, 0].tolist()):
        rounds = sum(first_pixel in batch for batch in Counting.taken)
        assert rounds == int(needed[i])
    assert all(len(batch) == slots for batch in Counting.taken), "every call gets as many images as there are slots"
    # Slots stand idle only in the end, while nobody waits.
    full = sum(len(set(batch)) == slots for batch in Counting.taken)
    assert sum(len(set(batch)) for batch in Counting.taken) == work and len(Counting.taken) - full <= 6
    list(attack.in_slots(view, x, y, slots, lambda *done: calls.append(done)))
    assert calls[-1] == (6 * COUNT, 6 * COUNT) and calls == sorted(calls)


class Scripted(nn.Module):
    """Two logits; which images are misclassified is a matter of their brightness."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.flatten(1).mean(1)
        return torch.stack([torch.full_like(brightness, 0.5), brightness], dim=1)


@pytest.mark.parametrize("stop", [False, True])
def test_first_success_counts_steps(stop):
    """Every step adds 0.1 of brightness; the border lies at 0.5."""
    x = torch.tensor([0.55, 0.45, 0.35, 0.25, 0.05]).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    attack = PGD(ThreatModel("linf", 0.3), steps=3, step_size=0.1, stop_on_success=stop)
    outcome = attack(Scripted(), x, torch.zeros(5, dtype=torch.long))
    assert outcome.first_success.tolist() == [0, 1, 2, -1, -1], "the last iterate is nobody's to judge here"
    assert torch.allclose(outcome.any[:3, 0, 0, 0], torch.full((3,), 0.55), atol=1e-6)
    steps = torch.tensor([0, 1, 2, 3, 3]) if stop else torch.tensor(3)
    assert torch.allclose(outcome.last, x + 0.1 * steps.reshape(-1, 1, 1, 1), atol=1e-6)


# --- the checks of every attack hold here, too


@dataclass(frozen=True)
class Jumping(IterativeAttack):
    """Adds a constant, whatever the budget says."""

    jump: float = 0.0

    def init(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"x_adv": x.clone()}

    def step(self, view: nn.Module, x: Tensor, y: Tensor, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        return {"x_adv": state["x_adv"] + self.jump}, torch.zeros_like(y, dtype=torch.bool)


class Lenient(ThreatModel):
    """Forgets to project."""

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return x_adv


def test_the_budget_is_enforced():
    view, x = classifier(torch.float32), images(torch.float32)
    y = labels(view, x)
    outcome = scheduled(Jumping(THREAT, steps=1, jump=5.0), view, x, y, 4)
    assert (outcome.last <= 1).all() and THREAT.distance(outcome.last, x).max() <= 0.1 + 1e-6
    for jump, threat in ((0.15, Lenient("linf", 0.1)), (1.5, Lenient("l2", 100))):
        with pytest.raises(RuntimeError, match="left its budget"):
            scheduled(Jumping(threat, steps=1, jump=jump), view, x, y, 4)
    with pytest.raises(RuntimeError, match="NaN"):
        scheduled(Jumping(THREAT, steps=1, jump=float("nan")), view, x, y, 4)


@pytest.mark.parametrize("value", [1.01, -0.01, float("nan")])
def test_images_outside_the_box_are_refused(value):
    view, x = classifier(torch.float32), images(torch.float32)
    y = labels(view, x)
    x[3, 0, 1, 1] = value
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        scheduled(ATTACKS["pgd"], view, x, y, 4)


def test_there_must_be_slots():
    view, x = classifier(torch.float32), images(torch.float32)
    with pytest.raises(ValueError, match="slots >= 1; got 0"):
        scheduled(replace(ATTACKS["pgd"], steps=1), view, x, labels(view, x), 0)


@pytest.mark.parametrize("label", [4, -1])
def test_labels_that_are_no_class_are_refused(label):
    view, x = classifier(torch.float32), images(torch.float32)
    y = labels(view, x)
    y[-1] = label  # of an image that waits
    with pytest.raises(ValueError, match=rf"class numbers.*{label}"):
        scheduled(ATTACKS["pgd"], view, x, y, 4)
    with pytest.raises(ValueError, match="one class number per image"):
        scheduled(ATTACKS["pgd"], view, x, y[:-1], 4)


# --- between two groups everything is the consumer's own


def test_gradients_need_not_be_enabled_and_are_not_left_enabled():
    view, x = classifier(torch.float32), images(torch.float32)
    y = labels(view, x)
    expected = scheduled(ATTACKS["pgd"], view, x, y, 7)
    with torch.no_grad():
        assert_same(scheduled(ATTACKS["pgd"], view, x, y, 7), expected)
        for _ in ATTACKS["pgd"].in_slots(view, x, y, 7):
            assert not torch.is_grad_enabled() and not view._forward_hooks and not docket().open
        for _ in ATTACKS["pgd"].in_slots(view, x, y, 7):
            break
        assert not torch.is_grad_enabled() and not view._forward_hooks and not docket().open


def test_two_attacks_may_take_turns(mixture, linear_classifier, images):
    """Fresh noise follows the images of each, and each goes on where it stood."""
    view = Defense(DiffPure(mixture, dt=0.05), linear_classifier).view("exact")
    y, keys = linear_classifier(images).argmax(1), image_keys(torch.arange(8), "a test")
    one, other = (lambda k=k: PGD(THREAT, "exact", 2 + k).in_slots(view, images, y, 2, keys=keys + k) for k in (0, 1))
    expected = list(one()), list(other())
    for mine, found in zip(expected, zip(*zip(one(), other(), strict=True), strict=True), strict=True):
        for (at, outcome), (position, new) in zip(mine, found, strict=True):
            assert torch.equal(at, position)
            assert_same(outcome, new)
    assert not torch.equal(expected[0][0][1].last, expected[1][0][1].last)
