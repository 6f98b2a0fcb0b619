"""Laws of every attack: budget and box, one image at a time, eps = 0 is the identity, nothing else is touched."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isabstract

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lit_pursamere.attacks
from lit_pursamere.attacks import (
    APGD,
    EAD,
    FAB,
    MIM,
    PGD,
    SPSA,
    Attack,
    AutoAttack,
    Boundary,
    CarliniWagnerL2,
    DetectorPGD,
    IterativeAttack,
    Outcome,
    RandomSearch,
    ReconstructionPGD,
    Restarts,
    SaltAndPepper,
    SelectivePGD,
    Square,
    Transfer,
    WorstCase,
    Wrapped,
)
from lit_pursamere.attacks.base import Progress
from lit_pursamere.attacks.survivors import SurvivorAttack
from lit_pursamere.defense.detectors import ReconstructionNorm, ScoreNorm
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.threat import ThreatModel

NORMS = {"linf": 0.1, "l2": 0.3, "l1": 0.6}
SHAPE, CLASSES = (2, 5, 5), 4  # the least that AutoAttack can work with


def source() -> nn.Module:
    """A linear classifier of the images, float64, that knows nothing of the view."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(50, CLASSES)).double()


def score_model() -> GaussianMixtureScore:
    """Two grey images, wide apart, float64."""
    means = torch.stack([torch.full(SHAPE, 0.3), torch.full(SHAPE, 0.7)])
    return GaussianMixtureScore(means, std=[0.1, 0.15], weights=[0.6, 0.4]).double()


class Ascent:
    """An attack with the interface of torchattacks, for any norm; it goes three times as far as it may."""

    def __init__(self, model: nn.Module, eps: float, norm: str, steps: int = 2) -> None:
        self.model, self.threat, self.steps = model, ThreatModel(norm.lower(), eps), steps  # type: ignore[arg-type]

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        adv = images.clone()
        for _ in range(self.steps):
            adv.requires_grad_()
            F.cross_entropy(self.model(adv), labels, reduction="sum").backward()
            adv = adv.detach() + 3 * self.threat.eps / self.steps * self.threat.ascent_direction(adv.grad)
        return adv


# An attack that its threat model suffices to build needs no entry; more entries test more of its settings.
ATTACKS: dict[str, Callable[[ThreatModel], Attack]] = {
    "pgd": lambda threat: PGD(threat, steps=6),
    "pgd-sign": lambda threat: PGD(threat, steps=6, direction="sign", step_size=threat.eps / 2),
    "pgd-top1": lambda threat: PGD(threat, steps=6, direction="top1"),
    "pgd-start": lambda threat: PGD(threat, steps=6, start="ball"),
    "pgd-stop": lambda threat: PGD(threat, steps=6, stop_on_success=True),
    "pgd-eot": lambda threat: PGD(threat, steps=6, eot=3),
    "pgd-box-noise": lambda threat: PGD(threat, steps=6, start="box-noise", loss="margin"),
    "pgd-laplace": lambda threat: PGD(threat, steps=6, start="laplace", loss="dlr"),
    "pgd-logit-mean": lambda threat: PGD(threat, steps=6, eot=3, eot_mode="logit_mean", eot_chunk=2),
    "pgd-sign-vote": lambda threat: PGD(threat, steps=6, eot=3, eot_mode="sign_vote", eot_chunk=2),
    "selective-pgd": lambda threat: SelectivePGD(threat, steps=6, eot=3, loss="margin", eot_chunk=2),
    "selective-pgd-stop": lambda threat: SelectivePGD(threat, steps=6, start="ball", stop_on_success=True),
    "mim": lambda threat: MIM(threat, steps=6),
    "mim-stop": lambda threat: MIM(threat, steps=6, start="ball", stop_on_success=True),
    "worst-case": lambda threat: WorstCase([PGD(threat, steps=2), MIM(threat, steps=4)]),
    "restarts": lambda threat: Restarts(PGD(threat, steps=4, start="ball"), 3),
    "random-search": lambda threat: RandomSearch(threat, draws=8),
    "spsa": lambda threat: SPSA(threat, steps=6, step_size=threat.eps / 3, pairs=32),
    "spsa-stop": lambda threat: SPSA(threat, steps=6, step_size=threat.eps / 3, pairs=32, stop_on_success=True),
    "transfer": lambda threat: Transfer(PGD(threat, steps=4), source()),
    "reconstruction-pgd": lambda threat: ReconstructionPGD(
        threat, steps=6, score_model=score_model(), sigmas=[0.3, 0.1]
    ),
    "detector-pgd": lambda threat: DetectorPGD(threat, steps=6, detector=ScoreNorm(score_model(), 0.1)),
    "detector-pgd-stop": lambda threat: DetectorPGD(
        threat, steps=6, stop_on_success=True, detector=ReconstructionNorm(score_model(), 1, 0.1, threshold=0.2)
    ),
    "apgd": lambda threat: APGD(threat, steps=10, evaluations=2),
    "apgd-dlr-alone": lambda threat: APGD(threat, loss="dlr", steps=10, evaluations=1, one_by_one=True),
    "apgd-margin": lambda threat: APGD(threat, loss="margin", steps=10, eot=2, evaluations=1),
    "apgd-t-original": lambda threat: APGD(threat, loss="dlr-t", steps=10, decision="original"),
    "fab-alone": lambda threat: FAB(threat, steps=10, evaluations=1, one_by_one=True),
    "fab-untargeted": lambda threat: FAB(threat, targeted=False, steps=10, restarts=2),
    "square": lambda threat: Square(threat, queries=30),
    "square-eot": lambda threat: Square(threat, queries=30, eot=3, evaluations=2),
    "square-alone": lambda threat: Square(threat, queries=30, evaluations=1, one_by_one=True),
    "autoattack": lambda threat: AutoAttack(threat, steps=6, queries=10),
    "cw": lambda threat: CarliniWagnerL2(threat, steps=20),
    "cw-alone": lambda threat: CarliniWagnerL2(threat, steps=10, evaluations=1, one_by_one=True),
    "ead-alone": lambda threat: EAD(threat, steps=10, search_steps=3, constant=1.0, evaluations=1, one_by_one=True),
    "boundary-alone": lambda threat: Boundary(threat, steps=60, evaluations=1, one_by_one=True),
    "salt-and-pepper-alone": lambda threat: SaltAndPepper(threat, rho=0.05, tries=40, evaluations=1, one_by_one=True),
    "wrapped": lambda threat: Wrapped.of(Ascent, threat, steps=4),
    "autoattack-rand": lambda threat: AutoAttack(threat, version="rand", steps=6, eot=2),
}


def concrete() -> set[type[Attack]]:
    """The attacks that the package exports."""
    exported = {getattr(lit_pursamere.attacks, name) for name in lit_pursamere.attacks.__all__}
    return {item for item in exported if issubclass(item, Attack) and not isabstract(item)}


for kind in concrete() - {type(make(ThreatModel("linf", 0.1))) for make in ATTACKS.values()}:
    ATTACKS[kind.__name__] = kind


@pytest.fixture(params=ATTACKS)
def attack_of(request) -> Callable[[ThreatModel], Attack]:
    return ATTACKS[request.param]


@pytest.fixture(params=NORMS)
def threat(request) -> ThreatModel:
    return ThreatModel(request.param, NORMS[request.param])


@pytest.fixture
def view() -> nn.Module:
    """A curved classifier with running statistics, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(100, CLASSES)
        ).double()
    return network.eval()


@pytest.fixture
def x() -> Tensor:
    """Images that touch both walls of the box."""
    generator = torch.Generator().manual_seed(1)
    return (1.4 * torch.rand((7, *SHAPE), generator=generator, dtype=torch.float64) - 0.2).clamp(0, 1)


@pytest.fixture
def y(view, x) -> Tensor:
    """Labels of which the first is wrong from the start."""
    labels = view(x).argmax(1)
    labels[0] = (labels[0] + 1) % CLASSES
    return labels


def assert_feasible(candidate: Tensor, x: Tensor, threat: ThreatModel) -> None:
    assert candidate.min() >= 0 and candidate.max() <= 1
    order = {"linf": float("inf"), "l2": 2, "l1": 1}[threat.norm]
    assert (candidate - x).flatten(1).norm(p=order, dim=1).max() <= threat.eps * (1 + 1e-9)


def test_every_exported_attack_is_under_these_laws():
    assert concrete() == {type(make(ThreatModel("linf", 0.1))) for make in ATTACKS.values()}


def test_the_budget_is_kept_and_used(attack_of, threat, view, x, y):
    outcome = attack_of(threat)(view, x, y)
    for candidate in outcome[:2]:
        assert candidate.shape == x.shape and candidate.dtype == x.dtype and not candidate.requires_grad
        assert_feasible(candidate, x, threat)
    if isinstance(attack_of(threat), SurvivorAttack):  # may look for the nearest; keeps what fools, and x otherwise
        changed = (outcome.last != x).flatten(1).any(1)
        assert (view(outcome.last).argmax(1) != y)[changed].all()
    else:
        assert threat.distance(outcome.last, x).max() > 0.5 * threat.eps


@pytest.mark.parametrize(
    "small",
    [("linf", 1 / 255), ("linf", 0.5 / 255), ("linf", 1e-4), ("l2", 1e-3), ("l1", 1e-2)],
    ids=lambda small: f"{small[0]}-{small[1]:.2g}",
)
def test_a_small_budget_survives_rounding_in_float32(small):
    generator = torch.Generator().manual_seed(2)
    x = torch.rand((16, 3, 32, 32), generator=generator)
    linear = nn.Linear(3072, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.randn((2, 3072), generator=generator))
    threat = ThreatModel(*small)
    outcome = PGD(threat, steps=5)(nn.Sequential(nn.Flatten(), linear), x, torch.arange(16) % 2)
    rounding = threat.distance(torch.full((1, 3072), 2**-24), torch.zeros(1, 3072)).item()
    assert threat.distance(outcome.last.double(), x.double()).max() <= threat.eps * (1 + 1e-4) + rounding


# Every attack in one norm, and every norm for a third of the attacks; the others take their time.
PAIRS = [
    pytest.param(name, norm, marks=() if i % 3 == j else pytest.mark.slow)
    for i, name in enumerate(ATTACKS)
    for j, norm in enumerate(NORMS)
]


@pytest.mark.parametrize(("attack_of", "threat"), PAIRS, indirect=True)
def test_other_images_do_not_matter(attack_of, threat, view, x, y):
    attack = attack_of(threat)
    if isinstance(attack, SurvivorAttack) and not attack.one_by_one:
        pytest.skip("the library draws per batch and computes in float32; one_by_one is the setting that holds this")
    together = attack(view, x, y)
    shuffled = attack(view, x.flip(0), y.flip(0))
    for i in (0, len(x) - 1):  # one that is wrong from the start, and another
        alone = attack(view, x[i : i + 1], y[i : i + 1])
        for kind in range(2):
            assert torch.allclose(alone[kind][0], together[kind][i], rtol=0, atol=1e-10)
            assert torch.allclose(shuffled[kind][-1 - i], together[kind][i], rtol=0, atol=1e-10)


BY_STEPS = [name for name, make in ATTACKS.items() if isinstance(make(ThreatModel("linf", 0.1)), IterativeAttack)]


@pytest.mark.parametrize("threat", ["linf"], indirect=True)
@pytest.mark.parametrize("attack_of", BY_STEPS, indirect=True)
def test_the_way_of_an_attack_ends_where_the_attack_does(attack_of, threat, view, x, y):
    attack = attack_of(threat)
    outcome, generators = attack.perturb(view, x, y, lambda done, total: None), torch.get_rng_state()
    path = attack.iterates(view, x, y)
    assert path.shape == (attack.steps + 1, *x.shape) and not path.requires_grad and not view._forward_hooks
    assert torch.equal(torch.get_rng_state(), generators)
    exact = 1e-12 if attack.stop_on_success else 0  # images that leave make the batch smaller
    assert torch.allclose(path[-1], outcome.last, rtol=0, atol=exact)
    fooled = outcome.first_success >= 0
    first = path[outcome.first_success[fooled], fooled.nonzero().flatten()]
    assert torch.allclose(first, outcome.any[fooled], rtol=0, atol=exact)


def test_without_a_budget_nothing_changes(attack_of, threat, view, x, y):
    for candidate in attack_of(ThreatModel(threat.norm, 0))(view, x, y)[:2]:
        assert torch.equal(candidate, x)


@pytest.mark.parametrize("threat", ["linf"], indirect=True)
def test_gradients_need_not_be_enabled(attack_of, threat, view, x, y):
    attack = attack_of(threat)
    expected = attack(view, x, y)
    with torch.no_grad():
        outcome = attack(view, x, y)
        assert not torch.is_grad_enabled()
    assert torch.equal(outcome.last, expected.last) and torch.equal(outcome.any, expected.any)


@pytest.mark.parametrize("threat", ["linf"], indirect=True)
def test_nothing_else_is_touched(attack_of, threat, view, x, y):
    for parameter in view.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    view[2].train()  # one module in another mode than the rest
    modes = [module.training for module in view.modules()]
    state = {name: value.clone() for name, value in view.state_dict().items()}
    before, labels, generators = x.clone(), y.clone(), (torch.get_rng_state(), random.getstate())
    attack_of(threat)(view, x, y)
    assert torch.equal(torch.get_rng_state(), generators[0]) and random.getstate() == generators[1]
    assert torch.equal(x, before) and torch.equal(y, labels) and x.grad is None and not x.requires_grad
    assert [module.training for module in view.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in view.state_dict().items())
    assert all((p.grad == 3).all() and p.requires_grad for p in view.parameters())
    assert not view._forward_hooks


def test_images_outside_the_box_are_refused(attack_of, view, x, y):
    for value in (1.01, -0.01, float("nan"), float("inf")):
        x[3, 1, 2, 2] = value
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            attack_of(ThreatModel("linf", 0.1))(view, x, y)


def test_labels_that_are_no_class_are_refused(attack_of, view, x, y):
    for label in (CLASSES, -1, -100):
        y[3] = label
        with pytest.raises(ValueError, match=rf"class numbers.*{label}"):
            attack_of(ThreatModel("linf", 0.1))(view, x, y)


def test_what_is_no_label_per_image_is_refused(attack_of, view, x, y):
    for spoilt in (y[:-1], y.double(), y[:, None]):
        with pytest.raises(ValueError, match="labels must be one class number per image"):
            attack_of(ThreatModel("linf", 0.1))(view, x, spoilt)


# --- attacks that think of no check


def loss_slope(view: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the cross-entropy at x, which ignores class -100 and indexes out of bounds with others."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(view(x), y, reduction="sum"), x)[0]


@dataclass(frozen=True)
class Simple(Attack):
    """One step of ascent, by hand."""

    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        x_adv = x + self.threat.eps * self.threat.ascent_direction(loss_slope(view, x, y))
        return Outcome(x_adv, x_adv)


@dataclass(frozen=True)
class SimpleSteps(IterativeAttack):
    """Several of them."""

    def init(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"x_adv": x.clone()}

    def step(self, view: nn.Module, x: Tensor, y: Tensor, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        slope = loss_slope(view, state["x_adv"], y)
        return {"x_adv": state["x_adv"] + 0.01 * slope.sign()}, torch.zeros_like(y, dtype=torch.bool)


SIMPLE = {
    "at once": lambda *given: Simple(ThreatModel("linf", 0.1))(*given),
    "by steps": lambda *given: SimpleSteps(ThreatModel("linf", 0.1))(*given),
    "in slots": lambda *given: list(SimpleSteps(ThreatModel("linf", 0.1)).in_slots(*given, 2)),
}


@pytest.mark.parametrize("label", [CLASSES, -1, -100])
@pytest.mark.parametrize("how", SIMPLE)
def test_the_base_refuses_labels_at_the_first_logits(how, label, view, x, y):
    calls, labels = [], y.clone()
    view.register_forward_hook(lambda *_: calls.append(1))
    SIMPLE[how](view, x, labels)
    assert len(view._forward_hooks) == 1
    calls.clear()
    labels[3] = label
    with pytest.raises(ValueError, match=rf"class numbers from 0 to 3, as the view has 4 logits.*{label}"):
        SIMPLE[how](view, x, labels)
    assert len(calls) <= 2 and len(view._forward_hooks) == 1


# --- an attack that misbehaves


@dataclass(frozen=True)
class Fixed(Attack):
    """Shifts the images by constants, whatever the budget says; gives its gradient away undetached."""

    last: float = 0.0
    any: float = 0.0

    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        assert torch.is_grad_enabled()
        x = x.clone().requires_grad_()
        return Outcome(x + self.last, x + self.any)


@dataclass(frozen=True)
class Lenient(ThreatModel):
    """Forgets to project."""

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        return x_adv


def test_what_leaves_the_budget_is_projected(threat, view, x, y):
    outcome = Fixed(threat, last=5.0, any=-0.5)(view, x, y)
    assert_feasible(outcome.last, x, threat)
    assert_feasible(outcome.any, x, threat)
    assert (outcome.last >= x).all() and (outcome.any <= x).all()
    assert not outcome.last.requires_grad and not outcome.any.requires_grad


def test_what_is_feasible_comes_back_bit_for_bit(threat, view, x, y):
    x = x.clamp(0.2, 0.8)
    outcome = Fixed(threat, last=1e-3, any=-1e-3)(view, x, y)
    assert torch.equal(outcome.last, x + 1e-3) and torch.equal(outcome.any, x - 1e-3)


@pytest.mark.parametrize("which", ["last", "any"])
def test_nan_is_caught(which, threat, view, x, y):
    with pytest.raises(RuntimeError, match="NaN"):
        Fixed(threat, **{which: float("nan")})(view, x, y)


@pytest.mark.parametrize("which", ["last", "any"])
def test_a_projection_that_fails_is_caught(which, threat, view, x, y):
    x = x.clamp(0.2, 0.8)
    lenient = Lenient(threat.norm, threat.eps)
    with pytest.raises(RuntimeError, match="left its budget"):
        Fixed(lenient, **{which: 0.15})(view, x, y)
    with pytest.raises(RuntimeError, match="left its budget"):  # within eps, but outside the box
        Fixed(Lenient(threat.norm, 1 if threat.norm == "linf" else 100), **{which: 0.9})(view, x, y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_images_that_rounding_takes_out_of_the_budget_are_refused(dtype, threat, view, x, y):
    view = view.to(dtype)
    with pytest.raises(ValueError, match=rf"must be float32 or float64.*got {dtype}.*autocast"):
        PGD(threat, steps=1)(view, x.to(dtype), y)
    with pytest.raises(ValueError, match="must be float32 or float64"):
        next(PGD(threat, steps=1).in_slots(view, x.to(dtype), y, slots=4))


@pytest.mark.parametrize("eps", [8 / 255, 2 / 255])
def test_the_budget_holds_to_rounding_of_float32_whatever_the_network_runs_in(eps, threat, view, x, y):
    budget, x = ThreatModel(threat.norm, eps), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        outcome = PGD(budget, steps=5)(view.float(), x, y)
    for images in outcome[:2]:
        assert images.dtype == torch.float32
        assert budget.distance(images.double(), x.double()).max() <= eps * (1 + 1e-6) + 1e-7
