"""Attacks in turn: who sees which images, whose outcome counts, restarts with other seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import MIM, PGD, Attack, Outcome, RandomSearch, Restarts, WorstCase
from lit_pursamere.attacks.base import Progress
from lit_pursamere.networks import WideResNet
from lit_pursamere.threat import Pixels, ThreatModel

THREAT = ThreatModel("linf", 0.2)


class Brightness(nn.Module):
    """Two classes: 1 where the mean of the image exceeds 0.55."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1) - 0.55
        return torch.stack([-mean, mean], 1)


@dataclass(frozen=True)
class Shift(Attack):
    """Brightens images; the shift of `last` and `any` is the seed's entry in a table. Remembers whom it saw."""

    last: tuple[float, ...] = (0.0,)
    any: tuple[float, ...] = (0.0,)
    seed: int = 0

    seen = []

    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        self.seen.append((self.seed, x[:, 0, 0, 0].tolist()))
        progress(1, 2)
        progress(2, 2)
        return Outcome(x + self.last[self.seed], x + self.any[self.seed])


@pytest.fixture(autouse=True)
def forget():
    Shift.seen.clear()


@pytest.fixture
def x() -> Tensor:
    """Images of brightness 0.5, 0.4, 0.3: the view calls all of them class 0."""
    return torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64).reshape(3, 1, 1, 1).expand(3, 1, 2, 2).clone()


@pytest.fixture
def y() -> Tensor:
    return torch.zeros(3, dtype=torch.long)


def shift(last: float, any_: float, gradient: str = "bpda") -> Shift:
    return Shift(THREAT, gradient, (last,), (any_,))


# --- worst case


def test_each_image_gets_the_outcome_of_the_attack_that_broke_it(x, y):
    worst = WorstCase([shift(0.02, 0.1), shift(0.03, 0.18), shift(0.04, 0.05)])
    outcome = worst(Brightness(), x, y)
    assert Shift.seen == [(0, [0.5, 0.4, 0.3]), (0, [0.4, 0.3]), (0, [0.3])]
    moved = [(outcome.last - x)[:, 0, 0, 0].tolist(), (outcome.any - x)[:, 0, 0, 0].tolist()]
    assert moved[0] == pytest.approx([0.02, 0.03, 0.04]) and moved[1] == pytest.approx([0.1, 0.18, 0.05])


class EveryThird(nn.Module):
    """Class 1 at every third evaluation, class 0 otherwise, whatever the image."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.asked = first

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return torch.tensor([[0.0, 1.0 if self.asked % 3 == 0 else -1.0]]).repeat(len(x), 1)


@pytest.mark.parametrize("first", range(3))
def test_most_evaluations_decide_whether_an_image_is_broken(first, x, y):
    attacks = [shift(0.0, 0.1), shift(0.0, 0.1)]
    WorstCase(attacks, evaluations=3)(EveryThird(first), x, y)
    assert len(Shift.seen) == 2  # one of three draws is wrong: nothing is broken
    Shift.seen.clear()
    WorstCase(attacks)(EveryThird(first), x, y)
    assert len(Shift.seen) == (1 if first == 2 else 2)  # a single draw may be that one


def test_a_worst_case_without_evaluations_is_refused():
    with pytest.raises(ValueError, match="evaluations >= 1; got 0"):
        WorstCase([shift(0.0, 0.1)], evaluations=0)


def test_nothing_runs_once_all_are_broken(x, y):
    WorstCase([shift(0.0, 0.2), shift(0.0, 0.2)])(Brightness(), x[:1], y[:1])
    assert len(Shift.seen) == 1


def test_threat_and_gradient_are_the_first_attack_s():
    worst = WorstCase([shift(0, 0, "exact"), shift(0, 0, "bpda")])
    assert worst.threat is THREAT and worst.view == "exact"
    assert worst == WorstCase([shift(0, 0, "exact"), shift(0, 0, "bpda")]) and hash(worst) == hash(replace(worst))
    assert repr(worst).count("Shift(") == 2


def test_no_attack_of_the_list_does_better(linear_classifier, images):
    with torch.no_grad():
        linear_classifier[1].bias.copy_(-linear_classifier(images).mean(0))
    y = linear_classifier(images).argmax(1)
    attacks = [RandomSearch(THREAT, draws=3), PGD(THREAT, steps=3), MIM(THREAT, steps=5, loss="margin")]
    outcome = WorstCase(attacks)(linear_classifier, images, y)
    broken = linear_classifier(outcome.any).argmax(1) != y
    each = torch.stack([linear_classifier(a(linear_classifier, images, y).any).argmax(1) != y for a in attacks])
    assert torch.equal(broken, each.any(0)) and broken.any()


def test_other_threats_are_named():
    with pytest.raises(ValueError, match=r"PGD with .*'linf', eps=0.2.* and MIM with .*'l2', eps=0.5"):
        WorstCase([PGD(THREAT), MIM(ThreatModel("l2", 0.5))])
    with pytest.raises(ValueError, match="at least one"):
        WorstCase([])


def test_progress_is_the_share_of_the_whole(x, y):
    calls = []
    WorstCase([shift(0, 0), shift(0, 0)])(Brightness(), x, y, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


# --- restarts


def test_survivors_keep_the_highest_loss_and_broken_images_their_break(x, y):
    attack = Shift(THREAT, "bpda", last=(0.03, 0.01, 0.02), any=(0.06, 0.16, 0.0))
    outcome = Restarts(attack, 3)(Brightness(), x, y)
    assert Shift.seen == [(0, [0.5, 0.4, 0.3]), (1, [0.4, 0.3]), (2, [0.3])]
    moved = [(outcome.last - x)[:, 0, 0, 0].tolist(), (outcome.any - x)[:, 0, 0, 0].tolist()]
    assert moved[0] == pytest.approx([0.03, 0.01, 0.03]) and moved[1] == pytest.approx([0.06, 0.16, 0.06])


def test_one_restart_is_the_attack(linear_classifier, images):
    y = linear_classifier(images).argmax(1)
    attack = PGD(THREAT, steps=3, start="ball", seed=5)
    once, plain = Restarts(attack, 1)(linear_classifier, images, y), attack(linear_classifier, images, y)
    assert torch.equal(once.last, plain.last) and torch.equal(once.any, plain.any)


def test_every_run_starts_elsewhere_and_none_is_better(images):
    """Two sharp peaks of the loss: which one a run climbs depends on its start."""

    class Peaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            side = (x - images[:1]).flatten(1).sum(1)
            return torch.stack([torch.full_like(side, 3.0), torch.where(side > 0, side, -3 * side)], 1)

    x, y = images[:1], torch.zeros(1, dtype=torch.long)
    attack = PGD(ThreatModel("linf", 0.05), steps=4, start="ball")

    def reached(attack: Attack) -> float:
        return Peaks()(attack(Peaks(), x, y).last)[0, 1].item()

    runs = [reached(replace(attack, seed=seed)) for seed in range(6)]
    assert max(runs) > 2 * min(runs)
    assert [reached(Restarts(attack, count)) for count in range(1, 7)] == [max(runs[:n]) for n in range(1, 7)]


def test_bad_settings_name_the_value():
    with pytest.raises(ValueError, match="count >= 1; got 0"):
        Restarts(PGD(THREAT), 0)
    with pytest.raises(ValueError, match="a seed; got WorstCase"):
        Restarts(WorstCase([PGD(THREAT)]), 2)
    assert Restarts(PGD(THREAT, "exact"), 2).view == "exact" and Restarts(PGD(THREAT), 2).threat == THREAT


# --- attacks made of attacks, as a configuration file writes them


def test_attacks_of_attacks_compose_in_a_configuration():
    from jsonargparse import ArgumentParser
    from jsonargparse.typing import register_type

    register_type(Pixels, serializer=Pixels.plain, deserializer=Pixels, fail_already_registered=False)
    threat = {"norm": "linf", "eps": "8/255"}
    pgd = {"class_path": "PGD", "init_args": {"threat": threat, "steps": 2, "start": "ball", "eot_mode": "logit_mean"}}
    network = {"class_path": "lit_pursamere.networks.WideResNet", "init_args": {"depth": 10, "width": 1}}
    transfer = {"class_path": "Transfer", "init_args": {"attack": pgd, "source": network}}
    restarts = {"class_path": "Restarts", "init_args": {"attack": pgd, "count": 2}}
    score_model = {
        "class_path": "lit_pursamere.diffusion.NCSNv2Score",
        "init_args": {"ngf": 2, "channels": 3, "image_size": 8},
    }
    levels = {"class_path": "lit_pursamere.diffusion.NoiseLevels", "init_args": {"first": 0.1, "stride": 60}}
    aware = {
        "class_path": "ReconstructionPGD",
        "init_args": {"threat": threat, "steps": 2, "draws": 1, "score_model": score_model, "sigmas": levels},
    }
    spsa = {"class_path": "SPSA", "init_args": {"threat": threat, "steps": 1, "pairs": 2, "sigma": "1/255"}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Attack, "part")
    attacks = [restarts, transfer, aware, spsa]
    worst = {"class_path": "WorstCase", "init_args": {"attacks": attacks}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parsed = parser.parse_object({"part": worst})
        attack = parser.instantiate(parsed).part
        target = WideResNet(10, 1).eval()
    assert [type(part).__name__ for part in attack.attacks] == ["Restarts", "Transfer", "ReconstructionPGD", "SPSA"]
    assert attack.threat == ThreatModel("linf", Pixels("8/255"))
    assert "8/255" in parser.dump(parsed)
    x = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    outcome = attack(target, x, target(x).argmax(1))
    assert attack.threat.distance(outcome.last, x).min() > 0
