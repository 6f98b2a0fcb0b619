"""AutoAttack and its parts: recorded parity, decisions on stochastic views, what libraries may not touch, errors."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from lit_pursamere.attacks import APGD, FAB, AutoAttack, Square
from lit_pursamere.attacks.library import Draws, LibraryView
from lit_pursamere.attacks.survivors import SurvivorAttack
from lit_pursamere.seeding import global_generators
from lit_pursamere.threat import ThreatModel

RECORDED = {  # threat model, name of the norm in the recorded file, ending of the file
    "linf8": (ThreatModel("linf", 8 / 255), "Linf", ""),
    "linf11": (ThreatModel("linf", 11 / 255), "Linf", "_linf11"),
    "l2": (ThreatModel("l2", 0.35), "L2", ""),
    "l1": (ThreatModel("l1", 2.0), "L1", ""),
}
SMALL, LARGE = ThreatModel("linf", 0.1), ThreatModel("linf", 0.3)


class CoinFlip(nn.Module):
    """Four classes; answers 0 whatever the image, and 1 with probability `error` at every call."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error, self.calls = error, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        wrong = (torch.rand(len(x)) < self.error).to(x)
        logits = torch.stack([1 - wrong, wrong, torch.full_like(wrong, -0.1), torch.full_like(wrong, -0.2)], 1)
        return logits + 0 * x.flatten(1).sum(1, keepdim=True)


class Stumbling(nn.Module):
    """Passes everything on, but answers the listed calls wrongly for every image."""

    def __init__(self, inner: nn.Module, wrong_at: set[int]) -> None:
        super().__init__()
        self.inner, self.wrong_at, self.calls = inner, wrong_at, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        self.calls += 1
        return -logits if self.calls - 1 in self.wrong_at else logits


def recorded_network(data: dict[str, Tensor]) -> nn.Module:
    """Three convolutions of width 6, 12, 24 and a linear layer."""
    network = nn.Sequential(
        *[nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 12, 3, 2, 1), nn.ReLU()],
        *[nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 10)],
    )
    names = {"0": "c1", "2": "c2", "4": "c3", "7": "fc"}
    for key, value in network.state_dict().items():
        layer, kind = key.split(".")
        value.copy_(data[f"weights.{names[layer]}.{kind}"])
    return network


@pytest.fixture
def network(golden_tensors) -> nn.Module:
    return recorded_network(golden_tensors("attacks/autoattack_small_cnn"))


@pytest.fixture
def digits(golden_tensors) -> tuple[Tensor, Tensor]:
    data = golden_tensors("attacks/autoattack_small_cnn")
    return data["x"], data["y"]


def linear(classes: int = 4, size: int = 6) -> nn.Module:
    """A linear classifier of images with one channel."""
    layer = nn.Linear(size * size, classes)
    weight = torch.randn((classes, size * size), generator=torch.Generator().manual_seed(0))
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(classes)})
    return nn.Sequential(nn.Flatten(), layer)


def grey(number: int = 8, size: int = 6) -> Tensor:
    return 0.3 + 0.4 * torch.rand((number, 1, size, size), generator=torch.Generator().manual_seed(1))


# --- recorded runs


@pytest.mark.parametrize(
    ("name", "case", "images"),
    [("apgd-ce", case, 48) for case in RECORDED]
    + [("apgd-t", "linf11", 48), ("fab-t", "l2", 8), ("apgd-dlr", "linf11", 48)]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [
            *(("apgd-t", norm, 48) for norm in ("l2", "l1")),
            *(("fab-t", norm, 24) for norm in ("linf11", "l2", "l1")),
            *(("square", "linf11", 48), ("standard", "linf11", 48), ("standard", "l1", 12)),
        ]
    ],
)
def test_recorded_robust_flags(name, case, images, network, digits, golden_tensors):
    threat, norm, ending = RECORDED[case]
    attack = {
        "apgd-ce": APGD(threat, evaluations=1),
        "apgd-dlr": APGD(threat, evaluations=1, loss="dlr"),
        "apgd-t": APGD(threat, evaluations=1, loss="dlr-t"),
        "fab-t": FAB(threat, evaluations=1),
        "square": Square(threat, evaluations=1),
        "standard": AutoAttack(threat, evaluations=1, queries=300),
    }[name]
    x, y = (tensor[:images] for tensor in digits)
    outcome = attack(network, x, y)
    robust = network(outcome.last).argmax(1) == y
    expected = golden_tensors(f"attacks/autoattack_small_cnn{ending}")[f"{norm}.{name}.robust"][:images]
    differing = abs(robust.sum() - expected.sum()) if name == "square" else (robust != expected).sum()
    assert differing <= (2 if images == 48 else 1)
    assert threat.distance(outcome.last, x).max() <= threat.eps * (1 + 1e-5)
    assert outcome.last.min() >= 0 and outcome.last.max() <= 1
    unchanged = (outcome.last == x).flatten(1).all(1)
    assert torch.equal(unchanged, robust | (network(x).argmax(1) != y))


@pytest.mark.parametrize("kind", ["apgd", "apgd-t", "fab", "square"])
def test_decisions_agree_on_a_deterministic_view(kind, network, digits):
    threat = RECORDED["linf11"][0]
    attack = {
        "apgd": APGD(threat, steps=20),
        "apgd-t": APGD(threat, loss="dlr-t", steps=20, targets=3),
        "fab": FAB(threat, steps=20, targets=3, restarts=2),
        "square": Square(threat, queries=100, restarts=2),
    }[kind]
    x, y = digits
    outcomes = [replace(attack, decision=decision)(network, x, y).last for decision in ("mean", "original")]
    broken = [network(x_adv).argmax(1) != y for x_adv in outcomes]
    assert torch.equal(*broken)
    assert broken[0].sum() > (network(x).argmax(1) != y).sum()


@pytest.mark.parametrize("threat", [ThreatModel("linf", 0.05), ThreatModel("l2", 0.5)], ids=str)
def test_square_with_few_queries_is_no_weaker_than_the_library(threat):
    """Squares that are still as large as at the start when the queries are used up find little."""
    view, x = linear(4, 8), grey(48, 8)
    y = view(x).argmax(1)
    ours = Square(threat, queries=100)(view, x, y).last
    norm = threat.norm.capitalize()
    library = SquareAttack(view, norm=norm, n_queries=100, eps=threat.eps, seed=0).perturb(x, y)
    broken, theirs = (int((view(found).argmax(1) != y).sum()) for found in (ours, library))
    assert broken >= theirs > 0


# --- stochastic views


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(1), np.random.rand, random.random], ids=["torch", "numpy", "python"]
)
def test_a_view_that_draws_for_some_images_is_asked_as_often_as_told(draw):
    inner, x = linear(), torch.cat([0 * grey(1), grey(3)])
    before = global_generators()

    class Gated(nn.Module):
        """Draws where an image is not black, and answers as if it had not."""

        def forward(self, x: Tensor) -> Tensor:
            return inner(x) + 0 * float(draw() if x.any() else 0)

    draws = Draws.of(Gated(), x, 5)
    assert global_generators() == before and draws.sparing
    assert [len(draws.answers(Gated(), images)) for images in (x[:1], x)] == [1, 5]
    own = torch.Generator().manual_seed(0)
    inner.register_forward_hook(lambda module, args, logits: logits + torch.rand(1, generator=own))
    assert not Draws.of(inner, x, 5).sparing


def test_a_view_without_randomness_is_asked_once_per_decision():
    view, x = Stumbling(linear(), set()), grey()
    y = linear()(x).argmax(1)
    kept = APGD(SMALL, steps=5)(view, x, y).last
    asked, view.calls = view.calls, 0
    assert torch.equal(APGD(SMALL, steps=5, evaluations=1)(view, x, y).last, kept)
    assert asked == view.calls + 2


@pytest.mark.parametrize("error", [0.02, 0.1])
def test_a_coin_flip_keeps_its_accuracy(error):
    """Of 400 images, 20 draws each, the mean has the standard error sqrt(p (1 - p) / 8000)."""
    view, x, y = CoinFlip(error), grey(400), torch.zeros(400, dtype=torch.long)
    attack = AutoAttack(SMALL, version="rand", steps=10, eot=3)
    kept = attack(view, x, y).last
    standard_error = (error * (1 - error) / 400) ** 0.5
    own = attack.correctness(view, kept, y).mean()
    assert abs(own - (1 - error)) < 3 * standard_error / attack.evaluations**0.5
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        again = torch.stack([(view(kept).argmax(1) == y).float() for _ in range(200)]).mean()
    assert abs(again - (1 - error)) < 3 * standard_error / 200**0.5


@pytest.mark.parametrize("error", [0.02, 0.1])
def test_the_original_decision_under_reports_a_coin_flip(error):
    """One draw each for the clean images and after two attacks: images survive with probability (1 - p)^3."""
    x, y = grey(400), torch.zeros(400, dtype=torch.long)
    attack = AutoAttack(SMALL, version="rand", steps=10, eot=3, decision="original")
    judge = Judge(CoinFlip(error))
    attack(judge, x, y)
    expected, standard_error = (1 - error) ** 3, ((1 - error) ** 3 * (1 - (1 - error) ** 3) / 400) ** 0.5
    assert abs(judge.survivors / 400 - expected) < 3 * standard_error
    assert judge.survivors / 400 < 1 - error - standard_error


class Judge(nn.Module):
    """Counts the images that single draws of the original decision leave: all those that were never judged wrong.

    Only decisions evaluate without gradients after the attack of a run, on the images that are left.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.survivors = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        if not torch.is_grad_enabled():
            self.survivors = int((logits.argmax(1) == 0).sum())
        return logits


@pytest.mark.parametrize(
    ("attack", "unlucky"),
    [(APGD(LARGE, steps=20), {0, 2, 22}), (FAB(LARGE, steps=20), {0, 2, 22}), (Square(LARGE, queries=300), {0, 2})],
)
def test_one_unlucky_draw_of_the_clean_image_does_not_decide(attack, unlucky):
    """Neither the first of the 20 draws of our decision, nor the first call of a library that checks clean images.

    Two calls before them are there to see whether the view draws anything.
    """
    x = grey()
    y = linear()(x).argmax(1)
    mean = attack(Stumbling(linear(), unlucky), x, y)
    assert (linear()(mean.last).argmax(1) != y).any()
    original = replace(attack, decision="original")(Stumbling(linear(), {0}), x, y)
    assert torch.equal(original.last, x)


@pytest.mark.parametrize(
    "attack", [FAB(SMALL, steps=5), Square(SMALL, queries=20), AutoAttack(SMALL, steps=3, queries=9)]
)
def test_all_parts_bear_a_stochastic_view(attack):
    x, y = grey(20), torch.zeros(20, dtype=torch.long)
    kept = attack(CoinFlip(0.3), x, y).last
    assert abs(attack.correctness(CoinFlip(0.3), kept, y).mean() - 0.7) < 0.1


def test_a_stochastic_view_is_attacked_alike_whatever_the_global_generator():
    x, y = grey(), torch.zeros(8, dtype=torch.long)
    with torch.random.fork_rng(devices=[]):
        outcomes = []
        for seed in range(2):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            outcomes.append(AutoAttack(SMALL, version="rand", steps=3, eot=2)(CoinFlip(0.3), x, y).last)
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*outcomes)


class Blurred(nn.Module):
    """Adds noise to the logits of another view."""

    def __init__(self, inner: nn.Module, noise: float) -> None:
        super().__init__()
        self.inner, self.noise = inner, noise

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        return logits + self.noise * torch.randn_like(logits)


def test_square_searches_on_where_single_draws_would_stop_it():
    x = grey(24)
    y = linear()(x).argmax(1)
    left = {}
    for eot in (1, 16):
        attack, view = Square(LARGE, queries=200, eot=eot, evaluations=50), Blurred(linear(), noise=1.0)
        kept = attack(view, x, y).last
        left[eot] = attack.correctness(view, kept, y).mean().item()
    assert left[16] < left[1] - 0.1, left


def test_apgd_takes_the_margin():
    """With two classes the margin is the whole story: its gradient is that of the cross-entropy up to a factor."""
    view, x = linear(2), grey()
    y = view(x).argmax(1)
    margin, ce = (APGD(SMALL, loss=loss, steps=8, evaluations=1)(view, x, y).last for loss in ("margin", "ce"))
    assert torch.equal(margin, ce) and (view(margin).argmax(1) != y).any()
    original = APGD(SMALL, loss="margin", steps=8, decision="original")(view, x, y).last
    assert ((view(original).argmax(1) != y) == (view(margin).argmax(1) != y)).all()


# --- what libraries may not touch, and what they cannot do


ATTACKS = [APGD(SMALL, steps=5), FAB(SMALL, steps=5), Square(SMALL, queries=5), AutoAttack(SMALL, steps=3, queries=3)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_parameters_are_given_back_even_after_an_error(attack):
    view = linear()
    view[1].bias.requires_grad_(False)
    x = grey()
    y = view(x).argmax(1)
    broken = Stumbling(view, set())
    broken.register_forward_hook(lambda module, args, output: 1 / 0 if module.calls > 4 else None)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        attack(broken, x, y)
    assert view[1].weight.requires_grad and not view[1].bias.requires_grad
    assert view[1].weight.grad is None and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_nothing_is_printed_and_single_images_work(attack, capfd, caplog, recwarn):
    x = grey(1)
    outcome = attack(linear(), x, linear()(x).argmax(1))
    assert outcome.last.shape == x.shape and torch.equal(outcome.last, outcome.any)
    attack(CoinFlip(0), x, torch.zeros(1, dtype=torch.long))  # no gradient at all
    assert capfd.readouterr() == ("", "") and not caplog.records and not recwarn.list


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
@pytest.mark.parametrize("decision", ["mean", "original"])
def test_images_that_are_wrong_already_are_left_alone(attack, decision):
    view, x = Stumbling(linear(), set()), grey()
    y = (linear()(x).argmax(1) + 1) % 4
    attack = replace(attack, decision=decision)
    assert torch.equal(attack(view, x, y).last, x)
    assert view.calls == (3 if decision == "mean" else 1)  # two show that it draws nothing, and one decides


def test_logits_that_the_view_keeps_are_not_overwritten():
    class Keeping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.logits = linear()(x)
            self.copy = self.logits.clone()
            return self.logits

    view, x = Keeping(), grey()
    Square(SMALL, queries=3, evaluations=1)(view, x, linear()(x).argmax(1))
    assert torch.equal(view.logits, view.copy)


def test_memory_format_does_not_matter():
    view, x = linear(4, 8), torch.rand((6, 4, 4, 4), generator=torch.Generator().manual_seed(2))
    y = view(x).argmax(1)
    for attack in (APGD(SMALL, loss="dlr-t", steps=5), FAB(SMALL, steps=5), Square(SMALL, queries=5)):
        outcome = attack(view, x.to(memory_format=torch.channels_last), y)
        assert torch.equal(outcome.last, attack(view, x, y).last)


@pytest.mark.parametrize("attack", [*ATTACKS, replace(ATTACKS[3], one_by_one=True)], ids=lambda a: type(a).__name__)
def test_progress_rises_to_its_total(attack):
    view, x = linear(), grey(3)
    seen: list[tuple[int, int]] = []
    attack(view, x, view(x).argmax(1), lambda done, total: seen.append((done, total)))
    assert len({total for _, total in seen}) == 1 and seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and len(seen) > 3


@pytest.mark.parametrize(
    ("attack", "classes", "instead"),
    [
        (APGD(SMALL, loss="dlr"), 2, "ce or margin"),
        (APGD(SMALL, loss="dlr-t"), 3, "ce or margin or dlr"),
        (AutoAttack(SMALL), 2, "ce or margin"),
        (AutoAttack(SMALL), 3, "ce or margin or dlr"),
        (AutoAttack(SMALL, version="rand"), 2, "ce or margin"),
    ],
)
def test_too_few_classes_are_refused_and_what_to_run_instead_runs(attack, classes, instead):
    view, x = linear(classes), grey()
    message = (
        rf"at least \d classes, the view has {classes}; run APGD with loss {instead}, and in place .* FAB and Square"
    )
    with pytest.raises(ValueError, match=message):
        attack(view, x, view(x).argmax(1))
    for loss in instead.split(" or "):
        APGD(SMALL, loss=loss, steps=2, evaluations=1)(view, x, view(x).argmax(1))


@pytest.mark.parametrize("attack", [APGD(SMALL, steps=5), FAB(SMALL, steps=5), Square(LARGE, queries=50)])
def test_two_classes_are_enough_otherwise(attack):
    view, x = linear(2), grey()
    y = view(x).argmax(1)
    assert (view(attack(view, x, y).last).argmax(1) != y).any()


def library_view(classes: int) -> LibraryView:
    return LibraryView(linear(classes), torch.float32, classes, lambda: None)


def test_targets_are_at_most_all_other_classes():
    assert len(APGD(SMALL, loss="dlr-t").runs(library_view(10))) == 9
    assert len(APGD(SMALL, loss="dlr-t").runs(library_view(5))) == 4
    assert len(FAB(SMALL).runs(library_view(5))) == 4
    assert len(FAB(SMALL, targeted=False).runs(library_view(5))) == 1


def test_runs_of_the_published_versions():
    count = {
        norm: [len(part.runs(library_view(10))) for part in AutoAttack(ThreatModel(norm, 0.1)).parts()]
        for norm in ("linf", "l2", "l1")
    }
    assert count == {"linf": [1, 9, 9, 1], "l2": [1, 9, 9, 1], "l1": [5, 5, 9, 1]}
    assert [part.eot for part in AutoAttack(SMALL, eot=7).parts() if not isinstance(part, FAB)] == [7, 7, 7]
    rand = AutoAttack(SMALL, version="rand").parts()
    assert [(part.loss, part.eot, len(part.runs(library_view(10)))) for part in rand] == [("ce", 20, 1), ("dlr", 20, 1)]


def test_square_needs_five_pixels_outside_linf():
    view, x = linear(4, 4), grey(2, 4)
    y = view(x).argmax(1)
    Square(SMALL, queries=3)(view, x, y)
    with pytest.raises(ValueError, match="5x5"):
        Square(ThreatModel("l2", 0.1), queries=3)(view, x, y)


def test_a_view_without_gradient_is_refused():
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return linear()(x.detach()).detach()

    x = grey()
    with pytest.raises(RuntimeError, match="without a gradient"):
        APGD(SMALL)(Detached(), x, linear()(x).argmax(1))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_a_missing_package_is_named(attack, monkeypatch):
    for module in ("autopgd_base", "fab_pt", "square"):
        monkeypatch.setitem(sys.modules, f"pyautoattack.{module}", None)
    x = grey()
    with pytest.raises(ImportError, match="pip install pyautoattack"):
        attack(linear(), x, linear()(x).argmax(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: APGD(SMALL, loss="hinge"), "hinge"),
        (lambda: APGD(SMALL, steps=0), "steps >= 1; got 0"),
        (lambda: APGD(SMALL, large_eps=True), "l1 only"),
        (lambda: FAB(SMALL, targets=0), "targets >= 1"),
        (lambda: Square(SMALL, queries=0), "queries >= 1"),
        (lambda: Square(SMALL, seed=-1), "seed"),
        (lambda: Square(SMALL, eot=0), "eot >= 1; got 0"),
        (lambda: AutoAttack(SMALL, version="plus"), "plus"),
        (lambda: AutoAttack(SMALL, eot=0), "eot >= 1"),
        (lambda: AutoAttack(SMALL, evaluations=0), "evaluations >= 1"),
        (lambda: AutoAttack(SMALL, decision="vote"), "vote"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_attacks_are_values():
    assert AutoAttack(SMALL) == AutoAttack(SMALL) and hash(AutoAttack(SMALL)) == hash(AutoAttack(SMALL))
    assert all(isinstance(attack, SurvivorAttack) for attack in ATTACKS)
