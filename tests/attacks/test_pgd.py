"""PGD: recorded parity, known optima on linear classifiers, its step rules, what `any` and `last` mean, EoT."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks import MIM, PGD
from lit_pursamere.attacks.gradients import adversarial_loss
from lit_pursamere.defense import Defense
from lit_pursamere.purifiers import PurSAMERE
from lit_pursamere.threat import ThreatModel

RECORDED = {"eps8": (8 / 255, 2 / 255), "big": (14 / 255, 3.5 / 255)}  # eps, step size
NORMS = {"linf": 0.1, "l2": 0.2, "l1": 0.3}


class SmallCNN(nn.Module):
    """The recorded network: three convolutions of width 6, 12, 24 and a linear layer."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 3, padding=1)
        self.c2 = nn.Conv2d(6, 12, 3, stride=2, padding=1)
        self.c3 = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.fc = nn.Linear(24 * 16, 10)
        self.load_state_dict(weights)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.c1, self.c2, self.c3):
            x = F.relu(layer(x))
        return self.fc(x.flatten(1))


class Spy(nn.Module):
    """Passes everything on and remembers the images it saw."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.inner(x)


class Scripted(nn.Module):
    """Two classes; wrong about class 0 at the listed evaluations only, with a gradient that always points down."""

    def __init__(self, wrong_at: set[int]) -> None:
        super().__init__()
        self.wrong_at, self.seen = wrong_at, []

    def forward(self, x: Tensor) -> Tensor:
        margin = -1.0 if len(self.seen) in self.wrong_at else 1.0
        self.seen.append(x.detach().clone())
        total = x.flatten(1).sum(1)
        return torch.stack([margin + total - total.detach(), torch.zeros_like(total)], 1)


class Noisy(nn.Module):
    """A curved classifier of x plus draws from a table: evaluation i of a run sees draws[i], batched or not."""

    def __init__(self, inner: nn.Module, draws: Tensor) -> None:
        super().__init__()
        self.inner, self.draws = inner, draws

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x.unflatten(0, (len(self.draws), -1)) + self.draws).flatten(0, 1).square())


class Confused(nn.Module):
    """Right about class 0 in the first repetition of a batch of `size` images, wrong in all others."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        wrong = (torch.arange(len(x)) >= self.size).to(x)
        return torch.stack([-wrong, wrong - 0.5], 1) + 0 * x.flatten(1).sum(1, keepdim=True)


@pytest.fixture
def recorded(golden_tensors):
    data = golden_tensors("attacks/autoattack_small_cnn")
    weights = {name.removeprefix("weights."): value for name, value in data.items() if name.startswith("weights.")}
    return SmallCNN(weights).requires_grad_(False), data


@pytest.fixture
def labels(linear_classifier, images) -> Tensor:
    """The classes that the linear classifier gives the images: every image starts correct."""
    return linear_classifier(images).argmax(1)


def two_classes(pixels: int, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A linear classifier of two classes, and the direction that takes class 0 to class 1."""
    linear = nn.Linear(pixels, 2, dtype=torch.float64)
    with torch.no_grad():
        weight = torch.randn((2, pixels), generator=torch.Generator().manual_seed(seed)).double()
        linear.weight.copy_(weight / pixels**0.5)  # logits of order 1: no probability rounds to 0 or 1
        linear.bias.zero_()
    return nn.Sequential(nn.Flatten(), linear), (linear.weight[1] - linear.weight[0]).detach()


def cross_entropy_gradient(view: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(view(x), y, reduction="sum"), x)[0]


def grey(*shape: int) -> Tensor:
    return torch.full(shape, 0.5, dtype=torch.float64)


# --- recorded runs


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_run(recorded, name):
    network, data = recorded
    (eps, step), x, y = RECORDED[name], data["x"], data["y"]
    outcome = PGD(ThreatModel("linf", eps), steps=20, step_size=step)(network, x, y)
    expected = data[f"pgd20.{name}.x_adv"]
    # A coordinate whose gradient vanishes up to rounding may step either way; there are hardly any.
    assert ((outcome.last - expected).abs() > 1e-6).float().mean() < 1e-3
    assert torch.equal(network(outcome.last).argmax(1) == y, data[f"pgd20.{name}.correct"])


def test_recorded_first_step(recorded):
    network, data = recorded
    x, y = data["x"], data["y"]
    eps, step = RECORDED["eps8"]
    outcome = PGD(ThreatModel("linf", eps), steps=1, step_size=step)(network, x, y)
    gradient = cross_entropy_gradient(network, x, y).abs()
    clear = gradient > 1e-5 * gradient.flatten(1).max(1).values[:, None, None, None]
    assert clear.float().mean() > 0.9
    assert (outcome.last - data["pgd20.eps8.x_adv_after_1"])[clear].abs().max() < 1e-7


def test_recorded_run_in_float64(recorded):
    network, data = recorded
    eps, step = RECORDED["eps8"]
    attack = PGD(ThreatModel("linf", eps), steps=20, step_size=step)
    outcome = attack(network.double(), data["x"].double(), data["y"])
    assert torch.allclose(outcome.last, data["pgd20.eps8.x_adv_f64"], rtol=0, atol=1e-12)


# --- optima and step rules


def test_one_step_is_fgsm(recorded):
    network, data = recorded
    x, y = data["x"], data["y"]
    eps = 8 / 255
    outcome = PGD(ThreatModel("linf", eps), steps=1, step_size=eps)(network, x, y)
    fgsm = (x + eps * cross_entropy_gradient(network, x, y).sign()).clamp(0, 1)
    assert torch.allclose(outcome.last, fgsm, rtol=0, atol=1e-7)
    assert torch.equal(outcome.last, PGD(ThreatModel("linf", eps), steps=1)(network, x, y).last)


@pytest.mark.parametrize("norm", NORMS)
def test_optimum_on_a_linear_classifier(norm):
    view, w = two_classes(12)
    eps, x = NORMS[norm], grey(3, 3, 2, 2)
    best = {"linf": w.sign(), "l2": w / w.norm(), "l1": w.sign() * (w.abs() == w.abs().max())}[norm]
    direction = "top1" if norm == "l1" else "steepest"
    attack = PGD(ThreatModel(norm, eps), steps=7, direction=direction)
    outcome = attack(view, x, torch.zeros(3, dtype=torch.long))
    assert torch.allclose(outcome.last, x + eps * best.reshape(3, 2, 2), rtol=0, atol=1e-12)


def test_optimum_at_the_walls_of_the_box():
    view, w = two_classes(12)
    x = torch.rand((3, 3, 2, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    outcome = PGD(ThreatModel("linf", 0.4), steps=7)(view, x, torch.zeros(3, dtype=torch.long))
    best = (x + 0.4 * w.sign().reshape(3, 2, 2)).clamp(0, 1)
    assert ((best == 0) | (best == 1)).any()
    assert torch.allclose(outcome.last, best, rtol=0, atol=1e-12)


def test_targets_of_each_image_are_its_own(linear_classifier, images, labels):
    eps = 0.05
    outcome = PGD(ThreatModel("linf", eps), steps=1, step_size=eps)(linear_classifier, images, labels)
    loss = F.cross_entropy(linear_classifier(images), labels, reduction="none")
    assert (F.cross_entropy(linear_classifier(outcome.last), labels, reduction="none") > loss).all()


def test_l1_step_moves_a_twentieth_of_the_coordinates():
    view, w = two_classes(3072)
    x = grey(2, 3, 32, 32)
    delta = (PGD(ThreatModel("l1", 12), steps=1, step_size=1.0)(view, x, torch.zeros(2, dtype=torch.long)).last - x)[0]
    moved = delta.flatten() != 0
    assert moved.sum() == 154
    assert delta.abs().sum().item() == pytest.approx(1, abs=1e-12)
    assert delta.abs().max().item() == pytest.approx(1 / 154, abs=1e-12)
    assert w.abs()[moved].min() >= w.abs()[~moved].max()


def test_l2_step_is_normalised_and_sign_step_is_per_pixel():
    view, _ = two_classes(3072)
    x, y = grey(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
    threat = ThreatModel("l2", 1)
    normalised = PGD(threat, steps=1, step_size=0.1)(view, x, y).last
    assert torch.allclose(threat.distance(normalised, x), torch.full((2,), 0.1).double(), rtol=1e-12)
    signed = PGD(threat, steps=1, step_size=0.005, direction="sign")(view, x, y).last
    assert threat.distance(signed, x).tolist() == pytest.approx([0.005 * math.sqrt(3072)] * 2, rel=1e-12)
    assert 0.005 * math.sqrt(3072) == pytest.approx(0.277, abs=5e-4)
    assert (
        threat.distance(PGD(threat, steps=10, step_size=0.005, direction="sign")(view, x, y).last, x).max() < 1 + 1e-9
    )


@pytest.mark.parametrize("norm", NORMS)
def test_default_step_is_two_and_a_half_radii_in_all(norm, images):
    eps, view = NORMS[norm], Spy(two_classes(8)[0])
    threat = ThreatModel(norm, eps)
    PGD(threat, steps=10)(view, images, torch.zeros(8, dtype=torch.long))
    assert len(view.seen) == 10
    assert threat.distance(view.seen[1], view.seen[0]).max().item() == pytest.approx(0.25 * eps, rel=1e-9)


# --- what is returned


def test_any_is_the_first_iterate_that_fooled_and_last_the_final_one():
    view, x, y = Scripted({2, 4}), grey(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    outcome = PGD(ThreatModel("linf", 0.2), steps=5, step_size=0.03)(view, x, y)
    assert torch.equal(outcome.any, view.seen[2])
    assert torch.allclose(outcome.any, x - 0.06, rtol=0, atol=1e-12)
    assert torch.allclose(outcome.last, x - 0.15, rtol=0, atol=1e-12)


def test_any_is_the_last_iterate_if_none_fooled():
    x, y = grey(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    outcome = PGD(ThreatModel("linf", 0.2), steps=5, step_size=0.03)(Scripted(set()), x, y)
    assert torch.equal(outcome.any, outcome.last)
    assert torch.allclose(outcome.last, x - 0.15, rtol=0, atol=1e-12)


def test_an_image_that_is_wrong_from_the_start_counts_as_fooled():
    x, y = grey(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    attack = PGD(ThreatModel("linf", 0.2), steps=5, step_size=0.03)
    assert torch.equal(attack(Scripted({0}), x, y).any, x)


def test_stop_on_success_ends_at_the_first_success():
    view, x, y = Scripted({2, 4}), grey(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    attack = PGD(ThreatModel("linf", 0.2), steps=5, step_size=0.03, stop_on_success=True)
    outcome = attack(view, x, y)
    assert len(view.seen) == 3
    assert torch.equal(outcome.last, view.seen[2]) and torch.equal(outcome.any, view.seen[2])


@pytest.fixture
def weak(images):
    """A linear classifier whose border runs through the images, and an attack that breaks some at various steps."""
    view, w = two_classes(8)
    with torch.no_grad():
        view[1].bias[0] = (images.flatten(1) @ w).mean()
    labels = view(images).argmax(1)
    attack = PGD(ThreatModel("linf", 0.06), steps=10, step_size=0.01)
    full = attack(view, images, labels)
    broken = view(full.any).argmax(1) != labels
    steps_to_success = full.any[broken].sub(images[broken]).flatten(1).abs().amax(1).div(0.01).round()
    assert 0 < broken.sum() < len(images) and len(steps_to_success.unique()) > 1
    return view, labels, replace(attack, stop_on_success=True), full, broken


def test_stop_on_success_breaks_the_same_images(weak, images):
    view, labels, attack, full, broken = weak
    spy = Spy(view)
    stopped = attack(spy, images, labels)
    assert torch.equal(view(stopped.last).argmax(1) != labels, broken)
    assert torch.allclose(stopped.last[broken], full.any[broken], rtol=0, atol=1e-12)
    assert torch.allclose(stopped.last[~broken], full.last[~broken], rtol=0, atol=1e-12)
    assert torch.equal(stopped.last, stopped.any)
    sizes = [len(seen) for seen in spy.seen]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 2
    assert sizes[0] == len(images) and sizes[-1] == (~broken).sum()


def test_stop_on_success_gives_an_image_the_same_result_alone(weak, images):
    view, labels, attack, _, broken = weak
    together = attack(view, images, labels)
    for i in range(len(images)):
        alone = attack(view, images[i : i + 1], labels[i : i + 1])
        assert torch.allclose(alone.last[0], together.last[i], rtol=0, atol=1e-12)
        assert (view(alone.last).argmax(1) != labels[i]).item() == broken[i].item()


def test_progress_counts_the_steps():
    x, y = grey(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    calls = []
    attack = PGD(ThreatModel("linf", 0.1), steps=3)
    attack(Scripted(set()), x, y, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


# --- expectation over transformation


@pytest.mark.parametrize("norm", NORMS)
def test_eot_changes_nothing_on_a_deterministic_defence(norm, mixture, linear_classifier, images, labels):
    purifier = PurSAMERE(mixture, rho_pur=0.4, rho_sam=0.2, draws=2, sigmas=[0.3, 0.1])
    view = Defense(purifier, linear_classifier).view("exact")
    one, four = (PGD(ThreatModel(norm, 0.1), "exact", steps=2, eot=eot)(view, images, labels) for eot in (1, 4))
    assert torch.allclose(one.last, four.last, rtol=0, atol=1e-10)
    assert torch.allclose(one.any, four.any, rtol=0, atol=1e-10)


def test_eot_averages_gradients(linear_classifier, images, labels):
    draws = torch.randn((3, *images.shape), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    attack = PGD(ThreatModel("l2", 0.3), steps=1, step_size=0.3, eot=3)
    outcome = attack(Noisy(linear_classifier, draws), images, labels)
    each = [cross_entropy_gradient(Noisy(linear_classifier, d[None]), images, labels) for d in draws]
    mean = torch.stack(each).mean(0)
    expected = images + 0.3 * mean / mean.flatten(1).norm(dim=1)[:, None, None, None]
    inside = ((expected > 0) & (expected < 1)).flatten(1).all(1)
    assert inside.sum() >= 3
    assert torch.allclose(outcome.last[inside], expected[inside], rtol=0, atol=1e-12)
    first = images + 0.3 * each[0] / each[0].flatten(1).norm(dim=1)[:, None, None, None]
    assert not torch.allclose(outcome.last[inside], first[inside], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("eot", "stays"), [(2, True), (3, False)])
def test_eot_needs_a_majority_to_call_an_image_fooled(eot, stays):
    x, y = grey(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    calls = []
    attack = PGD(ThreatModel("linf", 0.1), steps=3, eot=eot, stop_on_success=True)
    attack(Confused(len(x)), x, y, lambda done, total: calls.append(done))
    assert (len(calls) == 3) == stays


# --- random start


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_depends_on_the_seed_alone(norm, linear_classifier, images, labels):
    def start(x: Tensor, y: Tensor, seed: int) -> Tensor:
        view = Spy(linear_classifier)
        PGD(ThreatModel(norm, NORMS[norm]), steps=1, start="ball", seed=seed)(view, x, y)
        return view.seen[0]

    together = start(images, labels, 3)
    distance = ThreatModel(norm, NORMS[norm]).distance(together, images)
    assert distance.min() > 0 and distance.max() <= NORMS[norm] * (1 + 1e-9)
    torch.randn(5)
    assert torch.equal(start(images, labels, 3), together)
    assert torch.allclose(start(images[5:6], labels[5:6], 3), together[5:6], rtol=0, atol=1e-14)
    assert not torch.allclose(start(images, labels, 4), together, atol=1e-3)


def first_seen(attack: PGD, x: Tensor, view: nn.Module) -> Tensor:
    spy = Spy(view)
    attack(spy, x, torch.zeros(len(x), dtype=torch.long))
    return spy.seen[0]


@pytest.mark.parametrize("norm", NORMS)
def test_box_noise_is_uniform_per_pixel_in_any_norm(norm):
    view, x, eps = two_classes(3072)[0], grey(2, 3, 32, 32), 0.2
    attack = PGD(ThreatModel(norm, eps), steps=1, start="box-noise", seed=2)
    delta = first_seen(attack, x, view) - x
    assert delta.abs().max() <= eps and torch.equal(delta[0], delta[1])
    assert delta.mean().item() == pytest.approx(0, abs=0.01)
    assert delta.square().mean().item() == pytest.approx(eps**2 / 3, rel=0.05)
    assert (attack.threat.distance(x + delta, x) > eps).all() == (norm != "linf")
    far = first_seen(PGD(ThreatModel(norm, 1.0 if norm == "linf" else 3.0), steps=1, start="box-noise"), x, view)
    assert far.min() == 0 and far.max() == 1
    assert attack.threat.distance(attack(view, x, torch.zeros(2).long()).last, x).max() <= eps * (1 + 1e-9)


@pytest.mark.parametrize("kind", [PGD, MIM])
def test_a_start_outside_the_ball_is_no_success(kind):
    x, y = grey(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)
    view = Scripted({0})
    attack = kind(ThreatModel("l2", 0.2), steps=3, step_size=0.01, start="box-noise", stop_on_success=True)
    outcome = attack(view, x, y)
    assert len(view.seen) == 3 and torch.equal(outcome.any, outcome.last)
    inside = Scripted({0})
    assert torch.equal(replace(attack, threat=ThreatModel("linf", 0.2))(inside, x, y).any, inside.seen[0])
    assert len(inside.seen) == 1


@pytest.mark.parametrize("eps", [1e-6, 1e-4, 0.01])
def test_rounding_does_not_hide_a_success(eps):
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    view, y = Scripted({1}), torch.zeros(2, dtype=torch.long)
    attack = PGD(ThreatModel("linf", eps), steps=4, start="box-noise", stop_on_success=True)
    attack(view, x, y)
    assert len(view.seen) == 2


def test_laplace_start_is_that_of_the_l1_ball_with_a_uniform_length():
    view, x = two_classes(48)[0], grey(1, 3, 4, 4)
    seeds = range(150)
    starts = [first_seen(PGD(ThreatModel("l1", 4), steps=1, start="laplace", seed=seed), x, view) for seed in seeds]
    lengths = torch.stack([(start - x).abs().sum() for start in starts])
    assert lengths.max() <= 4 and lengths.mean().item() == pytest.approx(2, rel=0.15)
    assert lengths.std().item() == pytest.approx(4 / 12**0.5, rel=0.15)
    direction = torch.cat([(start - x).flatten() / length for start, length in zip(starts, lengths, strict=True)])
    ratio = direction.square().mean() / direction.abs().mean() ** 2  # 2 for Laplace, pi / 2 for Gaussian
    assert ratio.item() == pytest.approx(2, abs=0.2)
    ball = first_seen(PGD(ThreatModel("l1", 4), steps=1, start="ball", seed=3), x, view)
    assert torch.equal(ball, starts[3])


@pytest.mark.parametrize("start", ["box-noise", "laplace"])
@pytest.mark.parametrize("norm", NORMS)
def test_starts_do_not_depend_on_the_batch(norm, start, linear_classifier, images):
    attack = PGD(ThreatModel(norm, NORMS[norm]), steps=1, start=start)
    together = first_seen(attack, images, linear_classifier)
    assert torch.allclose(first_seen(attack, images[5:6], linear_classifier), together[5:6], rtol=0, atol=1e-14)
    assert not torch.equal(first_seen(replace(attack, seed=1), images, linear_classifier), together)


# --- losses


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_every_loss_is_followed(loss, linear_classifier, images, labels):
    outcome = PGD(ThreatModel("linf", 0.01), steps=1, step_size=0.01, loss=loss)(linear_classifier, images, labels)
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(adversarial_loss(linear_classifier(x), labels, loss).sum(), x)
    assert torch.allclose(outcome.last, images + 0.01 * gradient.sign(), rtol=0, atol=1e-12)


def test_the_margin_finds_the_best_class_of_a_linear_classifier(linear_classifier):
    """The nearest other class stays the same on the way, so that its direction is the optimal one."""
    eps, x, linear = 0.01, grey(1, 2, 2, 2), linear_classifier[1]
    y = linear_classifier(x).argmax(1)
    outcome = PGD(ThreatModel("linf", eps), steps=5, loss="margin")(linear_classifier, x, y)
    directions = (linear.weight - linear.weight[y]).detach()
    best = (directions @ x.flatten() + eps * directions.abs().sum(1))[torch.arange(3) != y].max()
    assert adversarial_loss(linear_classifier(outcome.last), y, "margin").item() == pytest.approx(best.item())


# --- mistakes


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"eot": 0},
        {"step_size": -0.1},
        {"step_size": 2},
        {"step_size": math.nan},
        {"step_size": math.inf},
        {"direction": "down"},
        {"start": "corner"},
        {"loss": "hinge"},
        {"eot_mode": "median"},
        {"eot_chunk": 0},
        {"view": "white"},
    ],
    ids=str,
)
def test_bad_settings_name_the_value(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        PGD(ThreatModel("linf", 0.1), **wrong)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_view_without_gradient_is_an_error(frozen, linear_classifier, images, labels):
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return linear_classifier(x.detach())

    linear_classifier.requires_grad_(not frozen)
    with pytest.raises(RuntimeError, match="gradient" if frozen else None):
        PGD(ThreatModel("linf", 0.1))(Detached(), images, labels)


def test_an_attack_is_a_value():
    one, same = (PGD(ThreatModel("linf", 8 / 255), steps=7, seed=3) for _ in range(2))
    assert one == same and hash(one) == hash(same) and one != PGD(ThreatModel("linf", 8 / 255), steps=8, seed=3)
    assert "steps=7" in repr(one) and "seed=3" in repr(one)
