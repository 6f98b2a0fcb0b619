"""On Gaussian images N(MEAN, STD^2 I) every sampler is known in closed form.

Each step is affine in the state, so a purified pixel is keep x + shift + sqrt(variance) z, and the three numbers follow
a recursion. With ever smaller steps they tend to what theory says: most samplers keep the distribution of the images,

    keep = w or sqrt(w) with w = STD^2 / (STD^2 + sigma^2),  shift = (1 - keep) MEAN,  variance = (1 - keep^2) STD^2
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch

import lit_pursamere.purifiers as purifiers
from lit_pursamere.diffusion import GaussianMixtureScore, NoiseSource, ReverseStep
from lit_pursamere.purifiers import (
    ADBM,
    ADP,
    COUP,
    DP_DDIM,
    DP_DDPM,
    DP_EDM,
    GDMP,
    MALADE,
    DenoisedSmoothing,
    DiffPure,
    DiffPureLD,
    ExtraCorrector,
    Identity,
    Langevin,
    LikelihoodMaximisation,
    Purifier,
    PurSAMERE,
)

MEAN, STD = 0.45, 0.05  # narrow, so that no clamp ever bites
M, T = 2 * MEAN - 1, 2 * STD  # centred
PIXELS = (0.4, 0.5)  # in turns, column by column: as far from the mean as pixels of these images typically are
SHAPE = (20, 1, 32, 32)


class OwnNoise(NoiseSource):
    """Independent draws for every image at every call, from a generator of its own."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, stream, k, count, like):
        return torch.randn((count, *like.shape), generator=self.generator, dtype=like.dtype)


class Law(NamedTuple):
    """Of a state given the input x: keep x + shift + sqrt(variance) z."""

    keep: float = 1.0
    shift: float = 0.0
    variance: float = 0.0

    def then(self, keep: float, shift: float = 0.0, variance: float = 0.0) -> Law:
        return Law(keep * self.keep, keep * self.shift + shift, keep**2 * self.variance + variance)

    def mean(self, x: float) -> float:
        return self.keep * x + self.shift


CENTRED = Law(2.0, -1.0)


def pixels(law: Law) -> Law:
    return law.then(0.5, 0.5)


# --- recursions: one affine map a step


def spread(power: float) -> float:
    """Variance of VP states."""
    return power * T**2 + 1 - power


def diffused(law: Law, power: float) -> Law:
    return law.then(power**0.5, 0.0, 1 - power)


def reverse(law: Law, steps: Iterable[ReverseStep], sde: bool = True) -> Law:
    for _, dt, beta, power in steps:
        pull = beta * dt * (1 if sde else 0.5) / spread(power)
        law = law.then(1 + beta * dt / 2 - pull, pull * power**0.5 * M, beta * dt * sde)
    return law


def ancestral(law: Law, powers: Iterable[float], large: bool = True) -> Law:
    for power, lower in pairwise((*powers, 1.0)):
        alpha, weight = power / lower, power**0.5 * T**2 / spread(power)  # clean image: M + weight (u - sqrt(power) M)
        clean, state = lower**0.5 * (1 - alpha) / (1 - power), alpha**0.5 * (1 - lower) / (1 - power)
        variance = (1 - alpha) * (1 if large else (1 - lower) / (1 - power)) * (lower < 1)
        law = law.then(clean * weight + state, clean * (1 - weight * power**0.5) * M, variance)
    return law


def implicit(law: Law, powers: Iterable[float], told: Iterable[float] | None = None) -> Law:
    powers = tuple(powers)
    for (power, lower), asked in zip(pairwise((*powers, 1.0)), told or powers, strict=True):
        noise = (1 - asked) ** 0.5 / spread(asked)  # xi_hat = noise (u - sqrt(asked) M)
        ratio = (lower / power) ** 0.5
        back = (1 - lower) ** 0.5 - ratio * (1 - power) ** 0.5
        law = law.then(ratio + back * noise, -back * noise * asked**0.5 * M)
    return law


def edm(purifier: DP_EDM) -> Law:
    def slope(sigma: float) -> float:
        return sigma / (STD**2 + sigma**2)

    law = Law().then(1.0, -MEAN, purifier.sigma_max**2)
    for (sigma, lower), gamma in zip(pairwise(purifier.sigmas), purifier.gammas, strict=True):
        raised = (1 + gamma) * sigma
        euler = 1 + (lower - raised) * slope(raised)
        heun = 1 + (lower - raised) * (slope(raised) + slope(lower) * euler) / 2
        law = law.then(1.0, 0.0, (raised**2 - sigma**2) * purifier.s_noise**2).then(heun if lower else euler)
    return law.then(1.0, MEAN)


def gdmp(purifier: GDMP) -> Law:
    law = CENTRED
    for _ in range(purifier.rounds):
        law = ancestral(diffused(law, purifier.alpha_bars[-1]), purifier.alpha_bars[-2::-1])
    return pixels(law)


def corrector(purifier: ExtraCorrector) -> Law:
    """Norms of noise and score are those of infinitely many pixels."""
    law = diffused(CENTRED, purifier.alpha_bar)
    for step in purifier.steps:
        root, v = step.alpha_bar**0.5, spread(step.alpha_bar)
        square = sum((law.mean(x) - root * M) ** 2 + law.variance for x in PIXELS) / len(PIXELS) / v**2
        eps = 2 * (1 - (0.1 + 19.9 * int(999 * step.t) / 999) / 1000) * purifier.snr**2 / square
        law = law.then(1 - eps / v, eps * root * M / v, 2 * eps)
        last = step is purifier.steps[-1]
        law = reverse(law, [step])._replace(variance=reverse(law, [step]).variance - step.beta * step.dt * last)
    return pixels(law)


def langevin(purifier: Langevin) -> Law:
    law = Law().then(1.0, -MEAN)
    for sigma in purifier.sigmas:
        step = purifier.step_size * (sigma / purifier.sigmas[-1]) ** 2
        for _ in range(purifier.steps_per_level):
            law = law.then(1 - step / (STD**2 + sigma**2), 0.0, 2 * step)
    last = purifier.sigmas[-1]
    return law.then(STD**2 / (STD**2 + last**2) if purifier.denoise else 1.0).then(1.0, MEAN)


def one_step(purifier: DenoisedSmoothing) -> Law:
    """The conditional mean of the clean image; what theory says of it is the same."""
    keep = STD**2 / (STD**2 + purifier.sigma**2)
    return Law().then(1.0, 0.0, purifier.sigma**2).then(keep, (1 - keep) * MEAN)


def malade(purifier: MALADE) -> Law:
    law = Law().then(1.0, -MEAN)
    for _ in range(purifier.steps):
        law = law.then(1 - purifier.alpha / (STD**2 + purifier.sigma2), 0.0, purifier.delta**2)
    return law.then(1.0, MEAN)


def diffpure_ld(purifier: DiffPureLD) -> Law:
    """The pull to x makes its steps affine in x as well: keep is that of state and input together."""
    rate, power = purifier.lam * purifier.dt / 2, purifier.alpha_bar
    keep = 1 - rate * (1 / spread(power) + 1 / purifier.sigma2)
    law = CENTRED
    for _ in range(purifier.steps):
        shift = rate * power**0.5 * M / spread(power)
        law = law.then(keep, shift, purifier.eta**2 * 2 * rate)
        law = Law(law.keep + rate / purifier.sigma2 * 2, law.shift - rate / purifier.sigma2, law.variance)
    return pixels(law)


# --- limits: what the sampler stands for


def memory(power: float) -> float:
    """w, by how much the clean image given a diffused one follows what was diffused."""
    return power * T**2 / spread(power)


def kept(keep: float) -> Law:
    """Remembers `keep` of the input's deviation and keeps the distribution of the images."""
    return Law(keep, (1 - keep) * MEAN, (1 - keep**2) * STD**2)


def churned(purifier: DP_EDM) -> Law:
    """The flow forgets nothing but the noise; every rise of the level forgets a little."""
    keep = STD / math.sqrt(STD**2 + purifier.sigma_max**2)
    for sigma, gamma in zip(purifier.sigmas, purifier.gammas, strict=False):
        keep *= math.sqrt((STD**2 + sigma**2) / (STD**2 + ((1 + gamma) * sigma) ** 2))
    return kept(keep)


def from_the_image(purifier: COUP) -> Law:
    """The clean image given a state that is the image itself."""
    power = math.exp(-19.9 / 2 * purifier.t_star**2 - 0.1 * purifier.t_star)
    w = memory(power)
    return pixels(CENTRED.then(w / power**0.5, (1 - w) * M, (1 - w) * T**2))


def tied(purifier: DiffPureLD) -> Law:
    """Product of the nearly clean images' density and a Gaussian around x, heated by eta^2."""
    precision = 1 / spread(purifier.alpha_bar) + 1 / purifier.sigma2
    pull = purifier.alpha_bar**0.5 * M / spread(purifier.alpha_bar)
    return pixels(CENTRED.then(1 / (purifier.sigma2 * precision), pull / precision, purifier.eta**2 / precision))


# --- the samplers


class Case(NamedTuple):
    build: Callable[[GaussianMixtureScore], Purifier]
    recursion: Callable[[Purifier], Law]
    limit: Callable[[Purifier], Law]
    tolerance: float  # of the limit: in keep, in the mean over PIXELS in units of STD, and relative in the variance


CASES = {
    "DiffPure SDE": Case(
        lambda model: DiffPure(model, start="continuous", t_end=0),
        lambda p: pixels(reverse(diffused(CENTRED, p.alpha_bar), p.steps)),
        lambda p: kept(memory(p.alpha_bar)),
        0.03,
    ),
    "DiffPure ODE": Case(
        lambda model: DiffPure(model, sampler="ode", start="continuous", t_end=0),
        lambda p: pixels(reverse(diffused(CENTRED, p.alpha_bar), p.steps, sde=False)),
        lambda p: kept(memory(p.alpha_bar) ** 0.5),
        0.03,
    ),
    "DP_DDPM": Case(
        DP_DDPM,
        lambda p: pixels(ancestral(diffused(CENTRED, p.alpha_bars[0]), p.alpha_bars)),
        lambda p: kept(memory(p.alpha_bars[0])),
        0.03,
    ),
    "DP_DDPM, small variance": Case(
        lambda model: DP_DDPM(model, variance="fixed_small"),
        lambda p: pixels(ancestral(diffused(CENTRED, p.alpha_bars[0]), p.alpha_bars, large=False)),
        lambda p: kept(memory(p.alpha_bars[0])),
        0.1,
    ),
    "DP_DDIM": Case(
        lambda model: DP_DDIM(model, steps=1000),
        lambda p: pixels(implicit(diffused(CENTRED, p.alpha_bars[0]), p.alpha_bars)),
        lambda p: kept(memory(p.alpha_bars[0]) ** 0.5),
        0.05,
    ),
    "DP_EDM SDE": Case(lambda model: DP_EDM(model, s_noise=1.0), edm, churned, 0.03),
    "DP_EDM ODE": Case(lambda model: DP_EDM(model, s_churn=0), edm, churned, 0.03),
    "GDMP": Case(lambda model: GDMP(model, "none"), gdmp, lambda p: kept(memory(p.alpha_bars[-1]) ** p.rounds), 0.03),
    "COUP": Case(
        lambda model: COUP(model, torch.nn.Identity(), lam=0),
        lambda p: pixels(reverse(CENTRED, p.steps)),
        from_the_image,
        0.03,
    ),
    "COUP, DDPM": Case(
        lambda model: COUP(model, torch.nn.Identity(), lam=0, sampler="ddpm"),
        lambda p: pixels(ancestral(CENTRED, [power for power, _ in p.steps])),
        from_the_image,
        0.03,
    ),
    "ADBM": Case(
        ADBM,
        lambda p: pixels(implicit(diffused(CENTRED, p.start), p.alpha_bars, p.told)),
        lambda p: kept(memory(p.start) ** 0.5),
        0.4,  # five steps of two schedules
    ),
    "ADBM, one schedule": Case(
        lambda model: ADBM(model, schedule="consistent", steps=100),
        lambda p: pixels(implicit(diffused(CENTRED, p.start), p.alpha_bars)),
        lambda p: kept(memory(p.start) ** 0.5),
        0.05,
    ),
    "ExtraCorrector": Case(
        lambda model: ExtraCorrector(model, start="continuous"), corrector, lambda p: kept(0.0), 0.1
    ),
    "ExtraCorrector, short": Case(  # some memory is left
        lambda model: ExtraCorrector(model, t_star=0.01, start="continuous"),
        corrector,
        lambda p: kept(memory(p.alpha_bar) * (1 - 2 * p.snr**2) ** len(p.steps)),
        0.05,
    ),
    "ExtraCorrector, off": Case(
        lambda model: ExtraCorrector(model, snr=0.0, start="continuous"),
        corrector,
        lambda p: kept(memory(p.alpha_bar)),
        0.1,
    ),
    "Langevin": Case(
        lambda model: Langevin(model, [0.1, 0.05, 0.02], 2e-4, 60),
        langevin,
        lambda p: Law(0.0, MEAN, STD**4 / (STD**2 + 0.02**2)),
        0.1,
    ),
    "MALADE": Case(
        lambda model: MALADE(model, 0.005, 1e-3, math.sqrt(2e-3), 60),
        malade,
        lambda p: Law(0.0, MEAN, STD**2 + p.sigma2),
        0.1,
    ),
    "MALADE without noise": Case(
        lambda model: MALADE(model, 0.005, 1e-3, 0.0, 60), malade, lambda p: Law(0.0, MEAN, 0.0), 0.03
    ),
    "DenoisedSmoothing": Case(lambda model: DenoisedSmoothing(model, 0.08), one_step, one_step, 1e-12),
    "DiffPureLD": Case(lambda model: DiffPureLD(model, eta=1.0, horizon=3.0), diffpure_ld, tied, 0.06),
}
NO_SAMPLERS = {Identity, ADP, PurSAMERE, LikelihoodMaximisation}  # the last one is below


@pytest.fixture
def gaussian() -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.full((1, *SHAPE[1:]), MEAN, dtype=torch.float64), std=STD)


@pytest.fixture
def copies() -> torch.Tensor:
    return torch.tensor(PIXELS, dtype=torch.float64).repeat(SHAPE[-1] // 2).expand(SHAPE)


def test_no_sampler_is_missing(gaussian):
    exported = {getattr(purifiers, name) for name in purifiers.__all__}
    concrete = {c for c in exported if inspect.isclass(c) and issubclass(c, Purifier) and not inspect.isabstract(c)}
    assert concrete - NO_SAMPLERS == {type(case.build(gaussian)) for case in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_purified_copies_have_the_moments_of_the_recursion(name, gaussian, copies):
    build, recursion, _, _ = CASES[name]
    purifier = build(gaussian)
    with torch.no_grad():
        purified = purifier(copies, OwnNoise(1))
    assert purified.min() > 0 and purified.max() < 1  # no clamp
    law, slack = recursion(purifier), 0.0
    if isinstance(purifier, ExtraCorrector) and purifier.snr > 0:
        slack = 0.01  # relative; its recursion is that of infinitely many pixels
    for column, x in enumerate(PIXELS):
        outcome = purified[..., column::2]
        error = math.sqrt(law.variance / outcome.numel())
        assert outcome.mean().item() == pytest.approx(law.mean(x), abs=5 * error + slack * STD + 1e-9)
        assert outcome.var().item() == pytest.approx(
            law.variance, rel=5 * math.sqrt(2 / outcome.numel()) + slack, abs=1e-12
        )


@pytest.mark.parametrize("name", CASES)
def test_the_recursion_is_near_what_theory_says(name, gaussian):
    build, recursion, limit, tolerance = CASES[name]
    purifier = build(gaussian)
    law, exact = recursion(purifier), limit(purifier)
    assert law.keep == pytest.approx(exact.keep, abs=tolerance)
    for x in PIXELS:
        assert law.mean(x) == pytest.approx(exact.mean(x), abs=tolerance * STD)
    assert law.variance == pytest.approx(exact.variance, rel=tolerance, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.02, 0.05])
def test_likelihood_maximisation_steps_toward_the_mean_with_known_probability(gaussian, copies, sigma):
    """A draw's gradient is a multiple of x - MEAN - STD^2 xi / sigma, and Adam's first step is its sign."""
    purifier = LikelihoodMaximisation(gaussian, steps=1, sigma_min=sigma, sigma_max=sigma)
    purified = purifier(copies, OwnNoise(1))
    for column, x in enumerate(PIXELS):
        outcome = purified[..., column::2]
        down = torch.special.ndtr(torch.tensor(sigma * (x - MEAN) / STD**2)).item()
        assert (outcome - x).abs().median().item() == pytest.approx(purifier.lr, rel=1e-2)
        assert 0.1 < down < 0.98
        error = math.sqrt(down * (1 - down) / outcome.numel())
        assert (outcome < x).double().mean().item() == pytest.approx(down, abs=5 * error)


def test_likelihood_maximisation_leads_to_the_mean_and_forgets_the_distribution(gaussian, copies):
    purified = LikelihoodMaximisation(gaussian, steps=200, lr=0.002)(copies, OwnNoise(1))
    for column in range(len(PIXELS)):
        outcome = purified[..., column::2]
        assert outcome.mean().item() == pytest.approx(MEAN, abs=0.02 * STD)
        assert outcome.std().item() < 0.1 * STD
