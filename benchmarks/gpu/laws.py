"""The laws of purifiers, views and attacks on a device, over the very lists that the test suite goes through.

    float32  without TF32, by deterministic kernels: runs there, in the box, the same twice, image alone = image in a
             batch, random generators untouched, purified images, logits, gradients and attacks as on the CPU
    tf32     with TF32, kernels as torch chooses them: still in the box; how far from float32?
    bf16     under autocast, as `--trainer.precision bf16-mixed` runs: still in the box, gradients finite; how far?

Differences are relative: of two purified or attacked images to the way from the image there, of gradients to their
length. A new purifier or attack is checked as soon as the test suite lists it.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import torch
import torch.nn.functional as F
from checks import Check, Notes
from session import ROOT
from torch import Tensor, nn

from lit_pursamere.attacks import Attack
from lit_pursamere.attacks.survivors import SurvivorAttack
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import GaussianMixtureScore, ScoreModel
from lit_pursamere.purifiers import Identity, Purifier, PurSAMERE
from lit_pursamere.threat import ThreatModel

__all__ = ["PRECISIONS", "attack_checks", "purifier_checks", "recomputation_check"]

PRECISIONS = ("float32", "tf32", "bf16")
IMAGES = 4
CLASSES = 3  # of the classifier behind a purifier
# What rounding may make of purified or attacked images, and of the gradients of steps that are like signs.
SAME, SAME_GRADIENT = 2e-2, 0.1
World = tuple[str, str]  # name of the class, and of what it runs on


@cache
def listed(path: str) -> ModuleType:
    """A module of the test suite, which is no package."""
    name, threads = "laws_" + path.replace("/", "_").removesuffix(".py"), torch.get_num_threads()
    spec = spec_from_file_location(name, ROOT / path)
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(threads)  # the suite takes one
    return module


def worlds() -> dict[World, Callable[[ScoreModel], Purifier]]:
    """The purifiers of the test suite, those of this project first."""
    found = listed("tests/purifiers/test_laws.py").WORLDS
    return dict(sorted(found.items(), key=lambda entry: (entry[0][0] != "PurSAMERE", "network" not in entry[0][1])))


def attacks() -> dict[str, Callable[[ThreatModel], Attack]]:
    """The attacks of the test suite."""
    return listed("tests/attacks/test_laws.py").ATTACKS


def purifier_checks(device: torch.device, precision: str, toy: bool) -> Iterator[Check]:
    """A check for each purifier on each of its worlds; `toy`: on the first that is quick."""
    chosen = list(worlds())
    networks = {name for name, on in chosen if "network" in on}
    if toy:
        chosen = one_each(sorted(chosen, key=lambda world: "network" in world[1]), lambda world: world[0])
    elif precision != "float32":  # the others concern products, of which mixtures have none
        chosen = [(name, on) for name, on in chosen if "network" in on or name not in networks]
    laws = strict_laws if precision == "float32" else partial(loose_laws, precision=precision)
    for world in chosen:
        yield Check(f"{' on '.join(world)}, {precision}", partial(laws, world=world, device=device))


def attack_checks(device: torch.device, precision: str, toy: bool) -> Iterator[Check]:
    """A check for each entry of the attacks, in float32 under every norm; `toy`: for the first of each class, linf."""
    kinds = {name: type(make(ThreatModel("linf", 0.1))).__name__ for name, make in attacks().items()}
    radii = listed("tests/attacks/test_laws.py").NORMS
    norms = ("linf",) if toy or precision != "float32" else tuple(radii)
    for name in one_each(kinds, kinds.get) if toy else kinds:
        threats = [ThreatModel(norm, radii[norm]) for norm in norms]
        work = partial(attack_laws, entry=name, threats=threats, device=device, precision=precision)
        yield Check(f"{kinds[name]} ({name}), {precision}", work)


def one_each(names: Iterable, kind: Callable) -> list:
    """The first name of every kind."""
    firsts: dict = {}
    for name in names:
        firsts.setdefault(kind(name), name)
    return list(firsts.values())


# --- worlds


def mixture() -> tuple[ScoreModel, tuple[int, int, int]]:
    """A mixture of two Gaussians, and the shape of its images."""
    draws = torch.Generator().manual_seed(5)
    means = torch.tensor([0.3, 0.7]).reshape(2, 1, 1, 1) + 0.1 * torch.rand((2, 2, 2, 2), generator=draws) - 0.05
    return GaussianMixtureScore(means, [0.1, 0.15], [0.6, 0.4]), (2, 2, 2)


def tiny_score(family: str) -> tuple[ScoreModel, tuple[int, int, int]]:
    """A small network of a family with seeded weights, and the shape of its images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        model = listed("tests/conftest.py").TINY_SCORES[family]()
        if family != "NCSNv2":  # U-Nets begin with last layers near 0
            for parameter in model.parameters():
                parameter.data.add_(0.1 * torch.randn(parameter.shape))
    return model, (1, 8, 8)


def build(world: World, device: torch.device) -> tuple[Defense, Tensor]:
    """The purifier of a world before a small classifier, and images for it, in float32; the same on every device."""
    family, _, kind = world[1].partition(" ")
    model, shape = tiny_score(family) if kind == "network" else mixture()
    classifier = listed("tests/purifiers/test_laws.py").classifier(torch.Size(shape).numel())
    x = 0.15 + 0.7 * torch.rand((IMAGES, *shape), generator=torch.Generator().manual_seed(9))
    x[0] = x[0].round()  # one that touches the walls of the box
    defense = Defense(worlds()[world](model), classifier, surrogate=Identity())
    return defense.float().to(device), x.to(device)


def curved_classifier() -> nn.Module:
    """A small network with running statistics for the images of the attacks, float32."""
    module = listed("tests/attacks/test_laws.py")
    channels, size, _ = module.SHAPE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(),
            nn.Linear(4 * size**2, module.CLASSES),
        )  # fmt: skip
    return network.eval()


# --- arithmetic


@contextmanager
def arithmetic(notes: Notes, device: torch.device, precision: str) -> Iterator[None]:
    """Compute in a precision; in float32 also by deterministic kernels, and where there is none a law is broken."""
    strict, matmul, convolution = precision == "float32", torch.get_float32_matmul_precision(), torch.backends.cudnn
    before = convolution.allow_tf32, convolution.deterministic
    torch.set_float32_matmul_precision("highest" if strict else "high")
    convolution.allow_tf32, convolution.deterministic = not strict, strict
    torch.use_deterministic_algorithms(strict, warn_only=True)
    cast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    try:
        with warnings.catch_warnings(record=True) as caught, cast:
            warnings.simplefilter("always")
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        convolution.allow_tf32, convolution.deterministic = before
        torch.set_float32_matmul_precision(matmul)
    lacking = {str(warning.message).split(" does not have")[0] for warning in caught
               if "deterministic implementation" in str(warning.message)}  # fmt: skip
    notes.require(f"deterministic: {', '.join(sorted(lacking))}", not lacking)


def generators(device: torch.device) -> list[Tensor]:
    """States of the global random generators."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


@contextmanager
def untouched(notes: Notes, device: torch.device) -> Iterator[None]:
    """Demand that the global random generators are left alone."""
    before = generators(device)
    yield
    notes.require("the global generators untouched", all(map(torch.equal, before, generators(device))))


def apart(one: Tensor, other: Tensor, start: Tensor | float = 0.0) -> float:
    """Length of one - other, relative to that of other - start if that is any."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    way = (other - (start.double().cpu() if isinstance(start, Tensor) else start)).norm()
    return float((one - other).norm() / (way if way > 0 else 1))


def input_gradient(view: nn.Module, x: Tensor) -> Tensor:
    """Gradient of the loss with respect to images, (B, C, H, W)."""
    x = x.clone().requires_grad_()
    logits = view(x).float()
    y = torch.arange(len(x), device=x.device) % logits.shape[1]
    return torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)[0]


# --- laws


def sound(notes: Notes, result: Tensor, x: Tensor, what: str) -> None:
    """Images are where and of what kind they should be, finite, and in the box."""
    notes.require(f"{what} of the images' shape", result.shape == x.shape)
    notes.require(f"{what} on {x.device.type} ({result.device})", result.device == x.device)
    notes.require(f"{what} of {x.dtype} ({result.dtype})", result.dtype == x.dtype)
    low, high = (float(value) for value in torch.aminmax(result))
    notes.require(f"{what} finite and in the box (from {low:g} to {high:g})", 0 <= low <= high <= 1)


@cache
def in_float32(world: World, device: torch.device) -> tuple[Tensor, Tensor]:
    """Purified images and the exact gradient of a world in float32."""
    defense, x = build(world, device)
    with arithmetic(Notes(), device, "float32"):
        return defense.purifier(x), input_gradient(defense.view("exact"), x)


def strict_laws(notes: Notes, world: World, device: torch.device) -> None:
    """Every law of a purifier in float32, and of the views of its defence."""
    (defense, x), (twin, x_cpu) = build(world, device), build(world, torch.device("cpu"))
    purifier, ends = defense.purifier, [0, IMAGES - 1]
    with arithmetic(notes, device, "float32"), untouched(notes, device):
        purified, alone = purifier(x), torch.cat([purifier(x[[i]]) for i in ends])
    sound(notes, purified, x, "purified images")
    again, gradient_again = in_float32(world, device)
    notes.require("the same twice", torch.equal(purified, again))
    if isinstance(purifier, PurSAMERE):
        moved = (purified - x).flatten(1).norm(dim=1).max()
        notes.bound("distance over rho_pur", float(moved) / purifier.rho_pur, 1 + 1e-5)
    notes.bound("alone from batch", apart(alone, purified[ends], x[ends]), SAME)
    notes.bound("from the CPU", apart(purified, twin.purifier(x_cpu), x_cpu), SAME)
    gradients = view_laws(notes, defense, x, twin, x_cpu)
    notes.require("the same exact gradient twice", torch.equal(gradients["exact"], gradient_again))


def view_laws(notes: Notes, defense: Defense, x: Tensor, twin: Defense, x_cpu: Tensor) -> dict[str, Tensor]:
    """Compare values and gradients of every view of a defence with its twin's on the CPU; returns the gradients."""
    with arithmetic(notes, x.device, "float32"), untouched(notes, x.device):
        logits, gradients = defense(x), {name: input_gradient(defense.view(name), x) for name in defense.views}
    notes.bound("logits from the CPU", apart(logits, twin(x_cpu)), SAME)
    for name, gradient in gradients.items():
        expected = input_gradient(twin.view(name), x_cpu)
        notes.require(f"a nonzero {name} gradient", bool(gradient.any()) or not expected.any())
        notes.bound(f"{name} gradient from the CPU", apart(gradient, expected), SAME_GRADIENT)
    return gradients


def loose_laws(notes: Notes, world: World, device: torch.device, precision: str) -> None:
    """What must hold of a purifier and its exact gradient in another precision, and how far it is from float32."""
    (defense, x), (expected, expected_gradient) = build(world, device), in_float32(world, device)
    with arithmetic(notes, device, precision):
        purified, again = defense.purifier(x), defense.purifier(x)
    sound(notes, purified, x, "purified images")
    notes.note("the same twice", torch.equal(purified, again))
    notes.note("from float32", apart(purified, expected, x))
    with arithmetic(notes, device, precision):
        gradient = input_gradient(defense.view("exact"), x)
    notes.require("a finite exact gradient", bool(gradient.isfinite().all()))
    cosine = F.cosine_similarity(gradient.flatten(), expected_gradient.flatten(), dim=0)
    notes.note("cosine of the exact gradients", float(cosine))


def attack_laws(notes: Notes, entry: str, threats: Sequence[ThreatModel], device: torch.device, precision: str) -> None:
    """Budget, box, repetition and company of an attack under each threat, and how far it is from the CPU's."""
    view, x, y = curved_classifier(), images_of_attacks(), torch.arange(IMAGES) % 2
    for threat in threats:
        attack, twin, norm = single(attacks()[entry](threat)), single(attacks()[entry](threat)), threat.norm
        here = view.to(device), x.to(device), y.to(device)
        with arithmetic(notes, device, precision), untouched(notes, device):
            outcome, again = attack(*here), attack(*here)
            alone = attack(here[0], *(part[:1] for part in here[1:]))
        for what, result in zip(("last iterate", "any"), outcome[:2], strict=True):
            sound(notes, result, here[1], f"{what} ({norm})")
            distance = threat.distance(result.double(), here[1].double()).max()
            notes.bound(f"distance over eps, {norm}, {what}", float(distance / threat.eps), 1 + 1e-4)
        strict, library = precision == "float32", isinstance(attack, SurvivorAttack)
        notes.require(f"the same twice ({norm})", not strict or torch.equal(outcome.last, again.last))
        company = SAME if strict and (not library or attack.one_by_one) else math.inf  # libraries draw for a batch,
        elsewhere = SAME if strict and not library else math.inf  # and on the device
        notes.bound(f"alone from batch, {norm}", apart(alone.last, outcome.last[:1], here[1][:1]), company)
        notes.bound(f"from the CPU, {norm}", apart(outcome.last, twin(view.cpu(), x, y).last, x), elsewhere)


def images_of_attacks() -> Tensor:
    """Images that touch both walls of the box, float32."""
    shape = listed("tests/attacks/test_laws.py").SHAPE
    return (1.4 * torch.rand((IMAGES, *shape), generator=torch.Generator().manual_seed(1)) - 0.2).clamp(0, 1)


def single(attack: Attack) -> Attack:
    """The attack with its own networks, if it has any, in float32; the test suite's are of float64."""
    for part in vars(attack).values():
        if isinstance(part, nn.Module):
            part.float()
    return attack


# --- what is computed a second time


class Watched(Purifier):
    """Notes in which precision its only step is computed, on the way there and on the way back."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.seen: list[tuple[bool, torch.dtype]] = []

    def purify(self, x: Tensor, noise: object) -> Tensor:
        return self.checkpointed(self._step, x)[0]

    def _step(self, x: Tensor) -> tuple[Tensor]:
        self.seen.append((torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)))
        return (x.square(),)


def recomputation_check(device: torch.device) -> Check:
    """Whether a step is computed a second time in the precision of the first: on a GPU autograd has its own threads."""

    def work(notes: Notes) -> None:
        purifier, x = Watched(), torch.full((1, 1, 2, 2), 0.5, device=device)
        with arithmetic(notes, device, "bf16"):
            input_gradient(nn.Sequential(purifier, nn.Flatten()), x)
        notes.note("there and back", [f"{'autocast' if on else 'plain'} {dtype}" for on, dtype in purifier.seen])
        notes.require("computed again in the same precision", len(set(purifier.seen)) == 1)

    return Check("steps that are computed again, bf16", work)
