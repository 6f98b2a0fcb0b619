"""A defence: attacked object == judged object, exact gradients agree with finite differences."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks import PGD, SPSA
from lit_pursamere.defense import Defense
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.diffusion import GaussianMixtureScore, NoiseSource, ScoreModel, SeededNoise
from lit_pursamere.purifiers import COUP, DiffPure, Identity, Purifier, PurSAMERE
from lit_pursamere.threat import ThreatModel

VIEWS = ("gray", "bpda", "first_order", "exact")  # those that PurSAMERE has
SIGMAS = [0.5, 0.3, 0.2, 0.1, 0.05]
RADII = {"free": 3.0, "bound": 0.1}  # the ball never binds, or ends up binding every image


class Sharpened(Purifier):
    """A purifier with a weight of its own, which knows its derivative: x -> strength * x."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength, dtype=torch.float64))

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        return self.strength * x


@pytest.fixture
def curved() -> nn.Module:
    """Classifier with dropout and running statistics, so that its mode matters, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)
        )
    return network.double().train()


@pytest.fixture
def defense(mixture, curved) -> Defense:
    return Defense(PurSAMERE(mixture, rho_pur=0.4, rho_sam=0.2, draws=2, sigmas=SIGMAS), curved)


def loss_gradient(view: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(view(x), y, reduction="sum"), x)[0]


def finite_differences(view: nn.Module, x: Tensor, y: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of the per-image cross-entropy, one pixel at a time."""
    gradient = torch.zeros_like(x)
    for index in range(x[0].numel()):
        shift = torch.zeros(x[0].numel(), dtype=x.dtype)
        shift[index] = step
        up, down = (F.cross_entropy(view(x + s * shift.reshape(x.shape[1:])), y, reduction="none") for s in (1, -1))
        gradient.flatten(1)[:, index] = (up - down) / (2 * step)
    return gradient


# --- values


def test_views_have_the_values_of_the_defence(defense, images):
    expected = defense(images)
    assert expected.shape == (8, 3)
    assert torch.equal(expected, defense.classifier(defense.purifier(images)))
    for gradient in ("bpda", "exact"):
        view = defense.view(gradient)
        assert torch.equal(view(images), expected)
        assert torch.equal(view(images.clone().requires_grad_()), expected)
        with torch.no_grad():
            assert torch.equal(view(images), expected)


def test_the_gray_view_is_the_classifier(defense, images):
    assert torch.equal(defense.view("gray")(images), defense.classifier(images))
    assert not torch.allclose(defense.view("gray")(images), defense(images), atol=1e-3)


@pytest.mark.parametrize("gradient", VIEWS)
def test_images_are_independent(defense, images, gradient):
    view, y = defense.view(gradient), torch.arange(8) % 3
    together = loss_gradient(view, images, y)
    for i in range(len(images)):
        assert torch.allclose(view(images[i : i + 1])[0], view(images)[i], rtol=0, atol=1e-10)
        assert torch.allclose(loss_gradient(view, images[i : i + 1], y[i : i + 1])[0], together[i], atol=1e-10)


def test_noise_can_be_replaced(defense, images):
    class Silence(NoiseSource):
        def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
            return torch.zeros((count, 1, *like.shape[1:]), dtype=like.dtype)

    expected = defense.classifier(defense.purifier(images, Silence()))
    assert torch.equal(defense(images, Silence()), expected)
    assert not torch.equal(defense(images), expected)


# --- gradients


def test_bpda_is_the_gradient_of_the_classifier_at_the_purified_image(defense, images):
    y = torch.arange(8) % 3
    expected = loss_gradient(defense.classifier, defense.purifier(images), y)
    assert torch.allclose(loss_gradient(defense.view("bpda"), images, y), expected, rtol=0, atol=1e-14)
    assert not torch.allclose(loss_gradient(defense.view("exact"), images, y), expected, atol=1e-3)


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("projection", ["ball_then_clamp", "exact"])
@pytest.mark.parametrize("rho_sam", [0.2, 0.0], ids=["sam", "nosam"])
def test_exact_gradient_agrees_with_finite_differences(mixture, linear_classifier, images, rho_sam, projection, radius):
    rho_pur, y = RADII[radius], torch.arange(8) % 3
    purifier = PurSAMERE(mixture, rho_pur, rho_sam, draws=2, sigmas=SIGMAS, projection=projection)
    at_the_wall = (purifier(images) - images).flatten(1).norm(dim=1) > rho_pur - 1e-6
    assert at_the_wall.all() if radius == "bound" else not at_the_wall.any()
    defense = Defense(purifier, linear_classifier)
    exact = loss_gradient(defense.view("exact"), images, y)
    assert torch.allclose(exact, finite_differences(defense, images, y), rtol=1e-4, atol=1e-6)
    assert exact.abs().max() > 1e-2


def test_exact_and_bpda_differ_by_the_derivative_of_the_purifier(linear_classifier, images):
    defense, y = Defense(Sharpened(0.5), linear_classifier), torch.arange(8) % 3
    exact, bpda = (loss_gradient(defense.view(gradient), images, y) for gradient in ("exact", "bpda"))
    assert torch.allclose(exact, 0.5 * bpda, rtol=1e-12)


def test_without_a_purifier_all_views_agree(linear_classifier, images):
    defense, y = Defense(Identity(), linear_classifier), torch.arange(8) % 3
    expected = loss_gradient(linear_classifier, images, y)
    for gradient in defense.views:
        assert torch.equal(defense.view(gradient)(images), linear_classifier(images))
        assert torch.equal(loss_gradient(defense.view(gradient), images, y), expected)


@pytest.mark.parametrize("gradient", ["white", "", None])
def test_an_unknown_view_is_an_error(defense, gradient):
    with pytest.raises(ValueError, match=f"bpda.*{gradient!r}"):
        defense.view(gradient)


# --- state


def test_a_defence_is_frozen_and_in_evaluation_mode_for_good(defense, images):
    expected = defense(images)
    for module in (defense, defense.train(), defense.train(True), nn.Sequential(defense).train()[0]):
        assert not any(m.training for m in module.modules())
        assert not any(p.requires_grad for p in module.parameters())
        assert torch.equal(module(images), expected)
    assert len(list(defense.parameters())) > 0


def test_the_weights_of_the_purifier_are_frozen_too(linear_classifier):
    defense = Defense(Sharpened(0.5), linear_classifier)
    assert not any(parameter.requires_grad for parameter in defense.parameters())


@pytest.mark.parametrize("gradient", VIEWS)
def test_an_attack_touches_nothing(defense, images, gradient):
    state = {name: value.clone() for name, value in defense.state_dict().items()}
    generator = torch.get_rng_state()
    loss_gradient(defense.view(gradient), images, torch.arange(8) % 3)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in defense.state_dict().items())
    assert all(parameter.grad is None for parameter in defense.parameters())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("gradient", ["bpda", "exact"])
def test_pgd_raises_the_loss_of_the_defence_within_the_budget(mixture, linear_classifier, images, gradient, norm):
    purifier = PurSAMERE(mixture, rho_pur=0.4, rho_sam=0.2, draws=2, sigmas=SIGMAS)
    defense, threat = Defense(purifier, linear_classifier), ThreatModel(norm, {"linf": 0.1, "l2": 0.2, "l1": 0.4}[norm])
    y = defense(images).argmax(1)
    outcome = PGD(threat, gradient, steps=5)(defense.view(gradient), images, y)
    assert threat.distance(outcome.last, images).max() <= threat.eps * (1 + 1e-9)
    assert outcome.last.min() >= 0 and outcome.last.max() <= 1
    loss = F.cross_entropy(defense(outcome.last), y, reduction="none")
    assert loss.sum() > F.cross_entropy(defense(images), y, reduction="none").sum() + 0.1
    assert torch.equal(defense.view(gradient)(outcome.last), defense(outcome.last))


# --- recomputation


@pytest.mark.parametrize("gradient", ["first_order", "exact"])
@pytest.mark.parametrize("rho_sam", [0.2, 0.0], ids=["sam", "nosam"])
def test_recomputed_gradients_equal_those_of_a_kept_graph(mixture, linear_classifier, images, gradient, rho_sam):
    defense = Defense(PurSAMERE(mixture, 0.4, rho_sam, draws=2, sigmas=SIGMAS), linear_classifier)
    y = torch.arange(8) % 3
    recomputed = loss_gradient(defense.view(gradient), images, y)
    defense.purifier.recompute = False
    assert torch.allclose(loss_gradient(defense.view(gradient), images, y), recomputed, rtol=1e-10, atol=1e-14)
    assert recomputed.abs().max() > 1e-2


def test_network_gradients_are_recomputed_exactly_too(tiny_scores, images):
    for family in ("NCSNv2", "DDPM++"):
        classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
        purifier = PurSAMERE(tiny_scores(family).double(), 0.5, 0.3, draws=2, sigmas=SIGMAS)
        defense, x, y = Defense(purifier, classifier), images[:2, :1].repeat(1, 1, 4, 4), torch.tensor([0, 1])
        recomputed = loss_gradient(defense.view("exact"), x, y)
        purifier.recompute = False
        assert torch.allclose(loss_gradient(defense.view("exact"), x, y), recomputed, rtol=1e-6, atol=1e-10)


class Kept:
    """A tensor that autograd keeps for the way back."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_bytes(defense: Defense, x: Tensor) -> int:
    """Bytes that autograd holds between the forward and the way back, each memory once."""
    alive: weakref.WeakSet[Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> Kept:
        kept = Kept(tensor.detach())
        alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        logits = defense(x.clone().requires_grad_())
    gc.collect()
    assert logits.requires_grad
    return sum({kept.tensor.data_ptr(): kept.tensor.nbytes for kept in alive}.values())


def test_a_level_keeps_its_state_and_no_more(mixture, linear_classifier, images):
    kept = {}
    for recompute in (True, False):
        for levels in (4, 16):
            sigmas = [0.5 * 0.8**k for k in range(levels)]
            defense = Defense(PurSAMERE(mixture, 0.4, 0.2, draws=2, sigmas=sigmas), linear_classifier)
            defense.purifier.recompute = recompute
            kept[recompute, levels] = kept_bytes(defense, images)
    per_level = {recompute: (kept[recompute, 16] - kept[recompute, 4]) / 12 for recompute in (True, False)}
    assert per_level[True] == 3 * images.nbytes  # the image and two moments
    assert per_level[False] > 15 * per_level[True]


def test_a_step_that_changes_when_computed_again_is_an_error(mixture, linear_classifier, images):
    class Restless(PurSAMERE):
        """Draws noise inside a step."""

        def _error_and_gradient(self, x, sigma, xi):
            return super()._error_and_gradient(x, sigma, torch.randn_like(xi))

    defense = Defense(Restless(mixture, 0.4, 0.2, draws=2, sigmas=SIGMAS), linear_classifier)
    with torch.random.fork_rng(devices=[]), pytest.raises(RuntimeError, match="Restless gave another state"):
        loss_gradient(defense.view("exact"), images, torch.zeros(8).long())


class Cut(torch.autograd.Function):
    """Halves; its derivative comes back without a graph, as that of a compiled network may."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        return y / 2

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return (gradient / 2).detach()


class Dropping(ScoreModel):
    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        return Cut.apply(y)


def test_a_dropped_graph_is_an_error_for_the_exact_view_alone(linear_classifier, images):
    defense = Defense(PurSAMERE(Dropping(), 0.4, 0.2, draws=2, sigmas=SIGMAS), linear_classifier)
    y = torch.zeros(8).long()
    with pytest.raises(RuntimeError, match="without a graph"):
        loss_gradient(defense.view("exact"), images, y)
    for gradient in ("bpda", "first_order"):
        assert loss_gradient(defense.view(gradient), images, y).abs().max() > 0


# --- first order


@pytest.mark.parametrize("radius", RADII)
def test_first_order_is_bpda_where_no_wall_is_touched(mixture, linear_classifier, images, radius):
    defense, y = (
        Defense(PurSAMERE(mixture, RADII[radius], 0.2, draws=2, sigmas=SIGMAS), linear_classifier),
        torch.arange(8) % 3,
    )
    first, bpda, exact = (loss_gradient(defense.view(g), images, y) for g in ("first_order", "bpda", "exact"))
    assert torch.allclose(first, bpda, rtol=1e-10)
    assert not torch.allclose(first, exact, rtol=1e-2)
    assert defense.purifier.first_order is False, "the view must not change the defence"


def test_first_order_sees_that_clamped_pixels_do_not_move(linear_classifier):
    far = GaussianMixtureScore(torch.full((1, 2, 2, 2), 1.5, dtype=torch.float64), std=0.1)  # beyond the box
    defense = Defense(PurSAMERE(far, 3.0, 0.0, draws=2, sigmas=SIGMAS), linear_classifier)
    x = torch.full((1, 2, 2, 2), 0.98, dtype=torch.float64)
    assert (defense.purifier(x) == 1).all()
    assert (loss_gradient(defense.view("first_order"), x, torch.tensor([0])) == 0).all()
    assert loss_gradient(defense.view("bpda"), x, torch.tensor([0])).abs().max() > 0


# --- parts that are broken


class Spoiled(Identity):
    """Applies a function to the images."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spoil = spoil

    def forward(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.spoil(x)


class Answering(nn.Module):
    """A classifier that applies a function to linear logits."""

    def __init__(self, spoil: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.spoil = spoil

    def forward(self, x: Tensor) -> object:
        first = x.flatten(1)[:, 0]
        return self.spoil(torch.stack([first, 1 - 2 * first, first * 0], 1))


def nan_in_one_pixel(x: Tensor) -> Tensor:
    return torch.where(torch.arange(x[0].numel()).reshape(x.shape[1:]) == 3, torch.nan, x)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[:, :1], r"purifier Spoiled turned images of shape \(8, 2, 2, 2\) into \(8, 1, 2, 2\)"),
        (lambda x: x[:4], r"into \(4, 2, 2, 2\)"),
        (lambda x: 2 * x - 1, r"purifier Spoiled must return images in \[0, 1\]; they range from -0\."),
        (lambda x: 1.001 + 0 * x, "range from 1.001 to 1.001"),
        (nan_in_one_pixel, "range from nan to nan.*NaN comes from"),
    ],
)
@pytest.mark.parametrize("gradient", ["bpda", "first_order", "exact"])
def test_a_purifier_that_breaks_its_word_is_named(linear_classifier, images, spoil, message, gradient):
    with pytest.raises(ValueError, match=message):
        Defense(Spoiled(spoil), linear_classifier).view(gradient)(images)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda z: z[:, 0], r"classifier Answering must return logits \(B, K\).*got \(8,\) for 8 images"),
        (lambda z: z[:, :1], r"at least two classes; got \(8, 1\)"),
        (lambda z: z[:3], r"got \(3, 3\) for 8 images"),
        (lambda z: z[:, :, None, None], r"got \(8, 3, 1, 1\)"),
        (lambda z: (z, z), "got tuple for 8 images"),
        (lambda z: z / 0, "logits from .*inf.*must be finite|logits from nan"),
        (lambda z: torch.where(z > 0.9, torch.nan, z), "logits from nan to nan; they must be finite"),
    ],
)
@pytest.mark.parametrize("gradient", VIEWS)
def test_a_classifier_that_returns_no_logits_is_named(images, spoil, message, gradient):
    images[:, 0, 0, 0] = torch.linspace(0.01, 0.99, 8)
    with pytest.raises(ValueError, match=message):
        Defense(Identity(), Answering(spoil)).view(gradient)(images)


@pytest.mark.parametrize("gradient", VIEWS)
@pytest.mark.parametrize(
    "spoil",
    [lambda x: 255 * x, lambda x: 4 * x - 2, lambda x: x / 0.2 - 2.5, nan_in_one_pixel],
    ids=["0..255", "-2..2", "normalised", "nan"],
)
def test_images_in_other_units_are_refused(defense, images, spoil, gradient):
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]; they range from .*divide 0..255 by 255"):
        defense.view(gradient)(spoil(images))


def test_queries_just_outside_the_box_pass(linear_classifier, images):
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    queried = 1.02 * images - 0.01  # random search and finite differences step over its walls
    defense = Defense(Identity(), linear_classifier)
    assert torch.equal(defense(queried), linear_classifier(queried))


@pytest.mark.parametrize("gradient", VIEWS)
def test_a_classifier_put_back_in_training_mode_is_refused(defense, images, gradient):
    view = defense.view(gradient)
    expected = view(images)
    defense.classifier.train()
    with pytest.raises(ValueError, match=r"classifier of a defence was put in training mode.*call .eval\(\)"):
        view(images)
    defense.classifier.eval()
    assert torch.equal(view(images), expected)
    defense.classifier[4].train()  # a single layer is enough
    with pytest.raises(ValueError, match=r"training mode \(module '4'\)"):
        view(images)
    defense.train()  # evaluation mode, as always
    assert torch.equal(view(images), expected)


def test_a_score_model_put_back_in_training_mode_is_refused(defense, images):
    defense.purifier.score_model.train()
    with pytest.raises(ValueError, match=r"purifier of a defence was put in training mode.*'score_model'"):
        defense(images)


def test_probabilities_are_warned_of_once(images):
    defense = Defense(Identity(), Answering(lambda logits: logits.softmax(1)))
    with pytest.warns(UserWarning, match="Answering seems to return probabilities instead of logits"):
        defense(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        defense(images)
        defense.view("bpda")(images)
        Defense(Identity(), Answering(lambda logits: logits.abs()))(images)  # positive, but no probabilities
        Defense(Identity(), Answering(lambda logits: logits.log_softmax(1)))(images)


def test_an_empty_batch_and_one_without_data_pass(linear_classifier, images):
    defense = Defense(Identity(), linear_classifier)
    assert defense(images[:0]).shape == (0, 3)
    assert Defense(Identity(), copy.deepcopy(linear_classifier).to("meta"))(images.to("meta")).shape == (8, 3)


def test_checks_do_not_stop_a_second_derivative(linear_classifier, images):
    defense = Defense(Spoiled(lambda x: x.square()), linear_classifier)
    x = images.clone().requires_grad_()
    (first,) = torch.autograd.grad(defense(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.isfinite().all() and second.abs().max() > 0


def test_a_view_without_gradient_is_refused_by_attacks_that_need_one(linear_classifier, images):
    defense, y = Defense(Spoiled(lambda x: x.detach().clone()), linear_classifier), torch.zeros(8).long()
    threat = ThreatModel("linf", 0.1)
    with pytest.raises(RuntimeError, match=r"logits without a gradient.*detaches its input"):
        PGD(threat, "exact", steps=2)(defense.view("exact"), images, y)
    PGD(threat, "bpda", steps=2)(defense.view("bpda"), images, y)
    SPSA(threat, "exact", steps=2, pairs=2)(defense.view("exact"), images, y)


# --- ensembles, and the views of an SDE and of a surrogate


@pytest.fixture
def noisy(mixture) -> DiffPure:
    return DiffPure(mixture, t_star=0.2, dt=0.05, seed=3).under("fixed")


@pytest.mark.parametrize("average", ["logits", "softmax", "votes"])
def test_an_ensemble_averages_the_answers_to_its_copies(noisy, curved, images, average):
    ensemble = Defense(noisy, curved, Ensemble(3, average))
    logits = torch.stack([curved(noisy(images, noisy.noise.copy(j))) for j in range(3)])
    expected = {
        "logits": logits.mean(0),
        "softmax": logits.softmax(2).mean(0).log(),
        "votes": F.one_hot(logits.argmax(2), 3).double().mean(0),
    }[average]
    assert torch.allclose(ensemble(images), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)
    y = torch.arange(8) % 3
    slope = loss_gradient(ensemble, images, y)
    if average != "votes":
        assert torch.allclose(slope, finite_differences(ensemble, images, y), rtol=0, atol=1e-6)
    assert slope.abs().flatten(1).amax(1).min() > 0
    assert loss_gradient(ensemble.view("bpda"), images, y).abs().flatten(1).amax(1).min() > 0


def test_fresh_copies_differ_and_a_known_source_is_used_for_all(mixture, linear_classifier, images):
    ensemble = Defense(DiffPure(mixture, t_star=0.2, dt=0.05), linear_classifier, Ensemble(2))
    first, second = ensemble.purifications(images)
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.equal(ensemble(images, SeededNoise(1)), ensemble(images, SeededNoise(1)))
    assert "logits of 2 copies" in ensemble.description
    for wrong in ({"copies": 0}, {"average": "median"}, {"copies": 2, "attacked": 3}):
        with pytest.raises(ValueError, match=f"got .*{list(wrong.values())[-1]}"):
            Ensemble(**wrong)


@pytest.mark.parametrize("gradient", ["bpda", "first_order", "adjoint", "exact"])
def test_attackers_may_see_fewer_copies_than_decide(noisy, linear_classifier, images, gradient):
    defense = Defense(noisy, linear_classifier, Ensemble(3, attacked=1))
    expected = linear_classifier(noisy(images))
    assert torch.equal(defense.view(gradient)(images), expected)
    assert not torch.allclose(defense(images), expected, atol=1e-3)


@pytest.mark.parametrize("build", [DiffPure, partial(DiffPure, sampler="ode"), COUP], ids=["sde", "ode", "coup"])
def test_the_adjoint_gradient_comes_close_to_the_exact_one_as_steps_get_smaller(build, mixture, curved, images):
    y, errors = torch.arange(8) % 3, []
    for dt in (0.004, 0.002, 0.001):
        guide = {"classifier": curved.eval()} if build is COUP else {}
        defense = Defense(build(mixture, t_star=0.1, dt=dt, **guide).under("fixed"), curved)
        view = defense.view("adjoint")
        assert torch.equal(view(images), defense(images))
        exact, adjoint = (loss_gradient(defense.view(name), images, y).flatten(1) for name in ("exact", "adjoint"))
        errors.append(((adjoint - exact).norm(dim=1) / exact.norm(dim=1)).median().item())
    assert F.cosine_similarity(exact, adjoint).min() > 0.99  # at the authors' dt
    assert errors[0] > 1.4 * errors[1] > 1.4**2 * errors[2] > 0, f"the error must fall like dt: {errors}"


def test_the_adjoint_view_stores_no_steps(mixture, linear_classifier, images):
    view = Defense(DiffPure(mixture, seed=1).under("fixed"), linear_classifier).view("adjoint")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        view(images.clone().requires_grad_())
    assert len(kept) < 10


def test_the_surrogate_is_attacked_instead(mixture, linear_classifier, images):
    full, short = DiffPure(mixture, seed=1).under("fixed"), DiffPure(mixture, dt=0.02, seed=1).under("fixed")
    defense = Defense(full, linear_classifier, surrogate=short)
    assert torch.equal(defense.view("surrogate")(images), linear_classifier(short(images)))
    assert torch.equal(defense(images), linear_classifier(full(images)))
    assert defense.views == ("gray", "bpda", "first_order", "adjoint", "surrogate", "exact")


def test_views_that_a_defence_lacks_are_named_with_the_mend(defense):
    assert defense.views == VIEWS
    with pytest.raises(ValueError, match=r"PurSAMERE integrates no SDE.*exact"):
        defense.view("adjoint")
    with pytest.raises(ValueError, match="name it with `model"):
        defense.view("surrogate")
