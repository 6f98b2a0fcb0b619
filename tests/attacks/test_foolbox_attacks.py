"""Carlini-Wagner, EAD, Boundary, salt and pepper: known optima on linear classifiers, failures, what stays as is."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import EAD, Boundary, CarliniWagnerL2, SaltAndPepper
from lit_pursamere.attacks.library import LibraryView
from lit_pursamere.threat import ThreatModel

ANY = ThreatModel("linf", 1.0)
ATTACKS = [
    CarliniWagnerL2(ANY, steps=30),
    EAD(ANY, steps=20, search_steps=3),
    Boundary(ANY, steps=50),
    SaltAndPepper(ANY, tries=3),
]
by_name = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)


def linear(classes: int = 3, pixels: int = 36) -> nn.Module:
    layer = nn.Linear(pixels, classes)
    weight = torch.randn((classes, pixels), generator=torch.Generator().manual_seed(0))
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(classes)})
    return nn.Sequential(nn.Flatten(), layer)


def grey(number: int = 6) -> Tensor:
    return 0.35 + 0.3 * torch.rand((number, 1, 6, 6), generator=torch.Generator().manual_seed(1))


class Constant(nn.Module):
    """Always answers class 0, with a gradient of zero; class 1 for the black image."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        black = (total == 0).to(x)
        return torch.stack([1 - black, black, torch.full_like(total, -1)], 1) + 0 * total[:, None]


class OftenWrongOnNoise(nn.Module):
    """Answers 0, but 1 for noise in three of four calls."""

    def forward(self, x: Tensor) -> Tensor:
        noisy = (x.flatten(1).std(1) > 0.2).to(x) * (torch.rand(()) < 0.75)
        return torch.stack([0.5 + 0 * noisy, noisy, -1 + 0 * noisy], 1) + 0 * x.flatten(1).sum(1, keepdim=True)


class Spy(nn.Module):
    """Passes everything on and remembers the images it saw."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.inner(x)


def margin(view: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest l2 distance to another class of a linear classifier without a box, and the least-changed class."""
    weight, logits = view[1].weight.detach(), view(x).detach()
    gap = logits.gather(1, y[:, None]) - logits
    distance = gap / (weight[y][:, None] - weight).norm(dim=2).clamp_min(1e-9)
    return distance.scatter(1, y[:, None], torch.inf).min(1)


# --- what they find


def test_carlini_wagner_finds_the_nearest_image():
    view, x = linear(), grey()
    y = view(x).argmax(1)
    threat = ThreatModel("l2", 4.0)
    outcome = CarliniWagnerL2(threat, steps=400, step_size=0.01, constant=1.0)(view, x, y)
    assert (view(outcome.last).argmax(1) != y).all() and torch.equal(outcome.last, outcome.any)
    nearest, _ = margin(view, x, y)
    distance = threat.distance(outcome.last, x)
    assert (distance >= nearest * (1 - 1e-3)).all() and (distance <= 1.01 * nearest).all()


def test_carlini_wagner_with_few_steps_is_no_weaker_than_the_library():
    """Published for MNIST, where budgets are wide: steps of 0.1 overshoot a narrow one, and have no time to return."""
    view, x = linear(4, 768), 0.35 + 0.3 * torch.rand((20, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    y = view(x).argmax(1)
    nearest, _ = margin(view, x, y)
    threat = ThreatModel("l2", 2 * float(nearest.median()))
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(view.eval(), bounds=(0, 1), device="cpu")
    library = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=1, steps=15, initial_const=1.0)
    theirs = library.run(model, x, foolbox.Misclassification(y))
    near = (view(theirs).argmax(1) != y) & (threat.distance(theirs, x) <= threat.eps)
    broken = view(CarliniWagnerL2(threat, steps=15)(view, x, y).last).argmax(1) != y
    assert broken.sum() >= near.sum() > 0, (threat, broken.sum(), near.sum())


def test_the_defaults_are_the_published_ones():
    cw, ead, boundary, noise = CarliniWagnerL2(ANY), EAD(ANY), Boundary(ANY), SaltAndPepper(ANY)
    assert (cw.steps, cw.constant, cw.search_steps, cw.confidence) == (1000, 100, 1, 0)
    assert cw._step_within_budget(grey()) == 0.1
    assert (ead.step_size, ead.steps, ead.first_constant, ead.beta, ead.search_steps) == (0.01, 100, 0.01, 0.01, 9)
    assert (boundary.steps, boundary.spherical_step, boundary.source_step, boundary.adaptation) == (
        5000,
        0.01,
        0.01,
        1.5,
    )
    assert torch.equal(*(one_draw(noise) for noise in (replace(noise, tries=1), SaltAndPepper(ANY, rho=0.25, tries=1))))


def one_draw(attack: SaltAndPepper) -> Tensor:
    """What a first draw makes of grey images."""
    (candidate,) = attack.runs(LibraryView(linear(), torch.float32, 10, lambda: None))[0].attempt(
        grey(), torch.zeros(8)
    )
    return candidate


def test_fewer_search_steps_of_ead_begin_higher():
    firsts = [EAD(ANY, search_steps=steps).first_constant for steps in (12, 9, 6, 3, 1)]
    assert firsts == pytest.approx([0.01, 0.01, 0.1, 1.0, 1.0])
    assert EAD(ANY, search_steps=3, constant=0.5).first_constant == 0.5


def test_ead_changes_fewer_pixels_than_carlini_wagner():
    view, x = linear(), grey()
    y = view(x).argmax(1)
    sparse = EAD(ANY, beta=0.3)(view, x, y).last
    dense = CarliniWagnerL2(ANY, steps=400, step_size=0.01)(view, x, y).last
    assert (view(sparse).argmax(1) != y).all()
    changed = [((x_adv - x).abs() > 1e-3).flatten(1).sum(1) for x_adv in (sparse, dense)]
    assert (changed[0] < changed[1]).all()


def test_boundary_comes_near_from_far():
    view, x = linear(), grey()
    y = view(x).argmax(1)
    threat = ThreatModel("l2", 6.0)
    near, far = (Boundary(threat, steps=steps)(view, x, y).last for steps in (1000, 1))
    assert (view(near).argmax(1) != y).all()
    nearest, _ = margin(view, x, y)
    distances = [threat.distance(x_adv, x) for x_adv in (near, far)]
    assert (distances[0] < 0.85 * distances[1]).all() and (distances[0] >= nearest * (1 - 1e-3)).all()


def test_boundary_with_few_steps_is_no_weaker_than_the_library():
    """It starts on the boundary, not at the noise behind it."""

    class Wary(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            excess = x.flatten(1).std(1) - 0.1
            return torch.stack([-excess, excess], 1)

    x, y = torch.full((24, 1, 6, 6), 0.5), torch.zeros(24, dtype=torch.long)
    foolbox = pytest.importorskip("foolbox")
    with torch.random.fork_rng(devices=[]):
        model = foolbox.PyTorchModel(Wary().eval(), bounds=(0, 1), device="cpu")
        theirs = foolbox.attacks.BoundaryAttack(steps=3).run(model, x, foolbox.Misclassification(y))
    threat = ThreatModel("l2", 1.1 * float((theirs - x).flatten(1).norm(dim=1).median()))
    assert (Wary()(Boundary(threat, steps=3)(Wary(), x, y).last).argmax(1) == 1).all()


def test_success_counts_within_the_budget_only():
    view, x = linear(), grey()
    y = view(x).argmax(1)
    nearest, _ = margin(view, x, y)
    threat = ThreatModel("l2", float(nearest.median() * 1.05))
    for attack in (
        CarliniWagnerL2(threat, steps=400, step_size=0.01, constant=1.0),
        EAD(threat),
        Boundary(threat, steps=300),
    ):
        outcome = attack(view, x, y)
        broken = view(outcome.last).argmax(1) != y
        assert torch.equal(outcome.last[~broken], x[~broken])
        assert not broken[nearest > threat.eps].any()
        assert threat.distance(outcome.last, x).max() <= threat.eps * (1 + 1e-5)
        assert not isinstance(attack, CarliniWagnerL2) or broken.any()


# --- salt and pepper


def test_salt_and_pepper_has_the_published_size_on_images_like_mnist():
    """A fifth of MNIST's pixels is ink: the mean of l1 is rho * d / 2 = 98 for any image, that of l2 about 9.7."""
    generator = torch.Generator().manual_seed(3)
    ink = torch.rand((200, 1, 28, 28), generator=generator)
    x = torch.where(ink < 0.81, 0.0, torch.where(ink < 0.9, 1.0, 0.6))

    class Delicate(nn.Module):
        """Right on the original images only."""

        def forward(self, z: Tensor) -> Tensor:
            original = (z == x).flatten(1).all(1).float()
            return torch.stack([original, torch.full_like(original, 0.5)], 1)

    noisy = SaltAndPepper(ANY, evaluations=1)(Delicate(), x, torch.zeros(200, dtype=torch.long)).last
    changed = (noisy - x).flatten(1)
    assert abs(changed.abs().sum(1).mean() - 98) < 1 and abs(changed.norm(dim=1).mean() - 9.7) < 0.1
    moved = noisy[changed.reshape(x.shape) != 0]
    assert ((moved == 0) | (moved == 1)).all()


def test_salt_and_pepper_tries_several_draws():
    view, x = linear(), grey(40)
    y = view(x).argmax(1)
    broken = [
        (view(SaltAndPepper(ANY, rho=0.5, tries=tries, evaluations=1)(view, x, y).last).argmax(1) != y).sum()
        for tries in (1, 5, 20)
    ]
    assert broken[0] < broken[1] < broken[2]


def test_draws_of_salt_and_pepper_get_denser():
    view, x = LibraryView(linear(), torch.float32, 10, lambda: None), torch.full((3, 1, 40, 40), 0.5)
    runs = SaltAndPepper(ANY, tries=4).runs(view)
    shares = [(run.attempt(x, torch.zeros(3))[0] != x).float().mean().item() for run in runs]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.03)


def test_few_steps_reach_what_they_could_not_from_the_published_beginning():
    """A far boundary: at c = 0.01 no pixel moves, and three draws at density 0.25 are not enough."""
    view, x = Far(), torch.full((6, 1, 6, 6), 0.5)
    y = torch.zeros(6, dtype=torch.long)
    for weak, strong in (
        (EAD(ANY, steps=15, search_steps=2, constant=0.01), EAD(ANY, steps=15, search_steps=2)),
        (SaltAndPepper(ANY, rho=0.25, tries=3), SaltAndPepper(ANY, tries=3)),
    ):
        left = [(view(attack(view, x, y).last).argmax(1) == y).sum() for attack in (weak, strong)]
        assert left[0] == 6 and left[1] == 0, type(weak).__name__


class Far(nn.Module):
    """Right until pixels are brighter than grey by 0.25, or about 0.32 away from it; and on black, as failures are."""

    def forward(self, x: Tensor) -> Tensor:
        away = (x - 0.5).flatten(1)
        far = 300 * (away.square().mean(1) - 0.1) + 45 * away.mean(1) - 100 * (away.amax(1) == -0.5)
        return torch.stack([-far, far], 1)


def test_salt_and_pepper_sets_all_channels_of_a_pixel():
    view, x = linear(3, 108), torch.full((4, 3, 6, 6), 0.5)
    y = view(x).argmax(1)
    noisy = SaltAndPepper(ANY, rho=0.5, tries=30, evaluations=1)(view, x, y).last
    assert (noisy != x).any() and torch.equal(noisy, noisy[:, :1].expand_as(noisy))


# --- failures, and what is not touched


@by_name
def test_where_nothing_is_found_the_image_stays(attack):
    x, y = grey(), torch.zeros(6, dtype=torch.long)
    black = torch.zeros_like(x)  # what the package returns for a failure, and the view does take it for class 1
    assert torch.equal(replace(attack, threat=ThreatModel("linf", 0.2))(Constant(), x, y).last, x)
    outcome = attack(Constant(), x, y)
    assert torch.equal(outcome.last, x) or torch.equal(outcome.last, black)


def test_boundary_attacks_the_images_that_have_a_starting_point():
    """The view answers 0 on noise, so that images of class 0 have no starting point; the others do."""

    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            excess = x.flatten(1).mean(1) - 0.7
            return torch.stack([-excess, excess], 1)

    x = torch.cat([grey(), grey() + 0.3]).clamp(0, 1)
    y = Bright()(x).argmax(1)
    assert y.tolist() == [0] * 6 + [1] * 6
    outcome = Boundary(ANY, steps=20)(Bright(), x, y)
    assert torch.equal(outcome.last[:6], x[:6]) and (Bright()(outcome.last).argmax(1)[6:] == 0).all()


def test_boundary_bears_a_view_that_errs_now_and_then():
    x = torch.full((4, 1, 6, 6), 0.5)
    outcome = Boundary(ANY, steps=15, evaluations=8)(OftenWrongOnNoise(), x, torch.zeros(4, dtype=torch.long))
    assert (outcome.last != x).flatten(1).any(1).all()


@by_name
def test_nothing_is_touched_or_printed(attack, capfd, caplog, recwarn):
    view, x = linear(), grey()
    y = view(x).argmax(1)
    view.train()
    for parameter in view.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    before = torch.get_rng_state()
    attack(view, x, y)
    assert all((parameter.grad == 2).all() and parameter.requires_grad for parameter in view.parameters())
    assert view.training and view[1].training and torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "") and not caplog.records and not recwarn.list


@by_name
def test_images_that_are_wrong_already_are_left_alone(attack):
    view, x = linear(), grey()
    assert torch.equal(attack(view, x, (view(x).argmax(1) + 1) % 3).last, x)


@by_name
def test_one_image_in_float64(attack):
    view, x = linear().double(), grey(1).double()
    outcome = attack(view, x, view(x).argmax(1))
    assert outcome.last.dtype == torch.float64 and outcome.last.shape == x.shape


@by_name
def test_a_missing_package_is_named(attack, monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    view, x = linear(), grey()
    y = view(x).argmax(1)
    if isinstance(attack, SaltAndPepper):
        attack(view, x, y)
    else:
        with pytest.raises(ImportError, match="pip install foolbox"):
            attack(view, x, y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CarliniWagnerL2(ANY, steps=0), "steps >= 1; got 0"),
        (lambda: CarliniWagnerL2(ANY, constant=0), "constant > 0; got 0"),
        (lambda: EAD(ANY, beta=-1), "beta > 0; got -1"),
        (lambda: EAD(ANY, search_steps=0), "search_steps >= 1"),
        (lambda: Boundary(ANY, adaptation=0), "adaptation > 0"),
        (lambda: Boundary(ANY, starts=0), "starts >= 1"),
        (lambda: SaltAndPepper(ANY, rho=1.5), "got 1.5"),
        (lambda: SaltAndPepper(ANY, tries=0), "tries >= 1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("change", [{"constant": 100.0}, {"step_size": 0.1}, {"confidence": 40.0}], ids=str)
def test_ead_asks_within_the_box_only(change):
    """Its momentum points leave the box by far; a defence would take them for images in other units."""
    view, x = Spy(linear()), grey()
    y = view(x).argmax(1)
    attacked = EAD(ANY, steps=50, search_steps=3, evaluations=1, **change)(view, x, y).last
    assert all(seen.min() >= 0 and seen.max() <= 1 for seen in view.seen) and len(view.seen) > 100
    assert (view(attacked).argmax(1) != y).all()
