"""The laws of every purifier: a function of the image and the noise alone, one image at a time, into the pixel box.

A new purifier that its score model suffices to build is among them by itself; others need an entry in WORLDS.
"""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Tensor, nn

import lit_pursamere.purifiers as purifiers
from lit_pursamere.diffusion import SeededNoise
from lit_pursamere.purifiers import (
    ADBM,
    ADP,
    COUP,
    DP_DDIM,
    DP_DDPM,
    DP_EDM,
    GDMP,
    MALADE,
    DiffPure,
    DiffPureLD,
    ExtraCorrector,
    Identity,
    Langevin,
    LikelihoodMaximisation,
    Purifier,
    PurSAMERE,
)
from lit_pursamere.purifiers.states import purify_watched


def classifier(pixels: int) -> nn.Module:
    """Smooth classifier with three classes and seeded weights, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 6), nn.Tanh(), nn.Linear(6, 3)).double()


# Name of the class and of the world -> purifier, from the mixture (2x2x2 images) or a tiny network (1x8x8 images).
WORLDS = {
    ("Identity", "mixture"): lambda model: Identity(),
    ("PurSAMERE", "mixture"): lambda model: PurSAMERE(model, 0.5, 0.2, sigmas=[0.4, 0.2, 0.1]),
    ("PurSAMERE", "mixture, exact"): lambda model: PurSAMERE(
        model, 0.2, 0.2, draws=2, sigmas=[0.4, 0.2], projection="exact"
    ),
    **{
        ("PurSAMERE", f"{family} network"): lambda model: PurSAMERE(model, 0.8, 0.3, draws=2, sigmas=[0.5, 0.1, 0.02])
        for family in ("NCSNv2", "DDPM", "DDPM++", "EDM", "EDM-VP", "EDM-VE")
    },
    ("DP_DDPM", "mixture"): lambda model: DP_DDPM(model, steps=50).under("fixed"),
    ("DP_DDPM", "mixture, small variance"): lambda model: DP_DDPM(model, steps=50, variance="fixed_small").under(
        "fixed"
    ),
    ("DP_DDIM", "mixture"): lambda model: DP_DDIM(model).under("fixed"),
    ("DP_EDM", "mixture"): lambda model: DP_EDM(model, steps=8).under("fixed"),
    ("DP_EDM", "mixture, ODE"): lambda model: DP_EDM(model, steps=8, s_churn=0).under("fixed"),
    **{
        ("GDMP", f"mixture, {guide}"): lambda model, guide=guide: GDMP(model, guide, rounds=2, t_star=4).under("fixed")
        for guide in ("ssim", "none", "mse")
    },
    ("Langevin", "mixture"): lambda model: Langevin(model, [0.2, 0.1], 1e-3).under("fixed"),
    ("MALADE", "mixture"): lambda model: MALADE(model, steps=5).under("fixed"),
    ("MALADE", "mixture, MagNet"): lambda model: MALADE(model, 0.01, 0.01, 0, 1).under("fixed"),
    ("MALADE", "DAE network"): lambda model: MALADE(model, steps=3).under("fixed"),
    ("LikelihoodMaximisation", "mixture"): lambda model: LikelihoodMaximisation(model, steps=3),
    ("LikelihoodMaximisation", "mixture, guided"): lambda model: LikelihoodMaximisation(
        model, steps=3, classifier=classifier(8), lam=1.0
    ),
    ("ADP", "mixture"): lambda model: ADP(model, sigma=0.1, steps=5).under("fixed"),
    ("ADP", "mixture, rescaled, frozen image by image"): lambda model: ADP(
        model, sigma=0.1, tau=0.0165, rescale=True
    ).under("fixed"),
    ("DiffPure", "mixture"): lambda model: DiffPure(model, dt=0.02).under("fixed"),
    ("DiffPure", "mixture, ODE"): lambda model: DiffPure(model, sampler="ode", dt=0.02).under("fixed"),
    ("DiffPureLD", "mixture"): lambda model: DiffPureLD(model, horizon=0.05).under("fixed"),
    ("ADBM", "mixture"): lambda model: ADBM(model).under("fixed"),
    ("ADBM", "mixture, twice, one schedule"): lambda model: ADBM(model, rounds=2, schedule="consistent").under("fixed"),
    ("COUP", "mixture"): lambda model: COUP(model, classifier(8), dt=0.02).under("fixed"),
    ("COUP", "mixture, DDPM"): lambda model: COUP(model, classifier(8), sampler="ddpm", dt=0.02).under("fixed"),
    ("ExtraCorrector", "mixture"): lambda model: ExtraCorrector(model, t_star=0.1, dt=0.02).under("fixed"),
    **{
        (name, f"{family} network"): build
        for k, (name, build) in enumerate({
            "DP_DDPM": lambda model: DP_DDPM(model, steps=20).under("fixed"),
            "DP_EDM": lambda model: DP_EDM(model, steps=3).under("fixed"),
            "GDMP": lambda model: GDMP(model, rounds=1, t_star=3).under("fixed"),
            "MALADE": lambda model: MALADE(model, steps=3).under("fixed"),
            "LikelihoodMaximisation": lambda model: LikelihoodMaximisation(model, steps=2),
            "ADP": lambda model: ADP(model, steps=3).under("fixed"),
            "DiffPure": lambda model: DiffPure(model, dt=0.03).under("fixed"),
            "DiffPureLD": lambda model: DiffPureLD(model, horizon=0.03).under("fixed"),
            "ADBM": lambda model: ADBM(model, steps=4).under("fixed"),
            "COUP": lambda model: COUP(model, classifier(64), dt=0.03).under("fixed"),
            "ExtraCorrector": lambda model: ExtraCorrector(model, t_star=0.1, dt=0.05).under("fixed"),
        }.items())
        for family in ("NCSNv2", ("DDPM", "DDPM++", "EDM")[k % 3])  # PurSAMERE meets every family
    },
}  # fmt: skip


def concrete() -> list[type[Purifier]]:
    """The purifiers that the package exports."""
    exported = [getattr(purifiers, name) for name in purifiers.__all__]
    return [c for c in exported if inspect.isclass(c) and issubclass(c, Purifier) and not inspect.isabstract(c)]


for kind in concrete():
    if kind.__name__ not in {name for name, _ in WORLDS}:
        for world in ("mixture", "NCSNv2 network"):
            WORLDS[kind.__name__, world] = lambda model, kind=kind: kind(model).under("fixed")


@pytest.fixture(params=WORLDS, ids=" on ".join)
def case(request, mixture, tiny_scores, images) -> tuple[Purifier, Tensor]:
    """A purifier and images for it, all in float64."""
    family, _, network = request.param[1].partition(" ")
    if network != "network":
        return WORLDS[request.param](mixture), images
    generator = torch.Generator().manual_seed(9)
    return WORLDS[request.param](tiny_scores(family).double()), torch.rand((4, 1, 8, 8), generator=generator).double()


def test_no_purifier_is_missing():
    assert {c.__name__ for c in concrete()} == {name for name, _ in WORLDS}


def test_it_is_a_purifier_in_evaluation_mode_of_the_images_shape_and_type(case):
    purifier, x = case
    assert isinstance(purifier, Purifier)
    purified = purifier(x)
    assert purified.shape == x.shape and purified.dtype == x.dtype
    purifier.train()
    assert not any(module.training for module in purifier.modules())


def test_a_forward_changes_nothing_and_says_nothing(case, capsys):
    purifier, x = case
    for parameter in purifier.parameters():
        parameter.grad = torch.ones_like(parameter)
    given, state = x.clone(), copy.deepcopy(purifier.state_dict())
    modes = [module.training for module in purifier.modules()]
    wants = [parameter.requires_grad for parameter in purifier.parameters()]
    random, enabled = torch.get_rng_state(), torch.is_grad_enabled()
    purifier(x)
    assert torch.equal(x, given) and x.grad is None and not x.requires_grad
    assert all(torch.equal(tensor, state[name]) for name, tensor in purifier.state_dict().items())
    assert [module.training for module in purifier.modules()] == modes
    assert [parameter.requires_grad for parameter in purifier.parameters()] == wants
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in purifier.parameters())
    assert torch.equal(torch.get_rng_state(), random) and torch.is_grad_enabled() == enabled
    assert capsys.readouterr() == ("", "")


class Listening(SeededNoise):
    """Notes the streams that are drawn from."""

    heard = set()

    def draw(self, stream, k, count, like):
        self.heard.add(stream)
        return super().draw(stream, k, count, like)


def test_it_draws_from_the_streams_that_it_states(case):
    purifier, x = case
    Listening.heard.clear()
    purifier(x[:1], Listening(0))
    assert Listening.heard <= {*purifier.streams}
    if "forward" in purifier.streams:
        assert "forward" in Listening.heard, "or else an attacker cannot know it"


def test_it_is_deterministic_with_seeded_noise_and_without_gradients(case):
    purifier, x = case
    expected = purifier(x, SeededNoise(3))
    with torch.no_grad():
        silent = purifier(x, SeededNoise(3))
    assert torch.equal(silent, expected) and not silent.requires_grad


def test_the_global_seed_does_not_matter(case):
    purifier, x = case
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = purifier(x)
        torch.manual_seed(2)
        assert torch.equal(purifier(x), first)


def test_the_composition_of_the_batch_does_not_matter(case):
    purifier, x = case
    together = purifier(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(4))
    alone = torch.cat([purifier(image[None]) for image in x])
    repeated = purifier(torch.cat([x[:1], x[1:2], x[:1]]))
    for other in (alone, purifier(x[order])[order.argsort()]):
        assert torch.allclose(other, together, rtol=0, atol=1e-10)
    assert torch.allclose(repeated, together[[0, 1, 0]], rtol=0, atol=1e-10)


def test_the_composition_of_the_batch_does_not_matter_in_float32(case):
    purifier, x = case[0].float(), case[1].float()
    moved = purifier(x) - x
    alone = torch.cat([purifier(image[None]) for image in x]) - x
    assert (alone - moved).norm() <= 2e-2 * moved.norm()


def test_the_last_state_is_what_it_returns_and_looking_changes_nothing(case):
    purifier, x = case
    expected, seen = purifier(x, SeededNoise(3)), {}
    purified = purify_watched(purifier, x, seen.__setitem__, SeededNoise(3))
    assert torch.equal(purified, expected) and torch.equal(seen[max(seen)], expected) and torch.equal(seen[0], x)
    assert list(seen) == list(range(len(seen))) and (len(seen) > 1 or isinstance(purifier, Identity))
    for state in seen.values():
        assert state.shape == x.shape and state.min() >= 0 and state.max() <= 1


def test_the_output_is_in_the_box(case):
    purifier, x = case
    corners = torch.cat([x, x.round(), torch.zeros_like(x[:1]), torch.ones_like(x[:1])])
    purified = purifier(corners)
    assert purified.isfinite().all()
    assert purified.min() >= 0 and purified.max() <= 1
    if isinstance(purifier, PurSAMERE):
        assert (purified - corners).flatten(1).norm(dim=1).max() <= purifier.rho_pur + 1e-9


@pytest.mark.filterwarnings("ignore:var")
def test_an_empty_batch_stays_empty(case):
    purifier, x = case
    assert purifier(x[:0]).shape == x[:0].shape
