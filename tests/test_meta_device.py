"""Faults of a GPU, found without one: tensors of mixed devices, and hosts that wait for the device in a loop.

Torch's meta device computes shapes only, so whatever asks for a value on it fails. `GPU` adds what it lets pass though
CUDA does not: arguments on the CPU beside arguments on the device. And it notes what makes a host wait for a GPU
without asking for a value: copies to the device that block. The lists of purifiers and attacks are those of their laws,
so a new one is held to this as well. Convolutions are slow there, so purifiers are asked about score models in closed
form, and networks by themselves.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lit_pursamere.attacks import PGD, SPSA, Attack, Restarts, Transfer, WorstCase
from lit_pursamere.attacks.gradients import loss_gradient
from lit_pursamere.attacks.iterative import IterativeAttack
from lit_pursamere.attacks.survivors import SurvivorAttack
from lit_pursamere.defense import Defense
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.diffusion import FreshNoise, NoiseTables, PartlySeededNoise
from lit_pursamere.diffusion.image_noise import follow, image_keys
from lit_pursamere.host import deferred
from lit_pursamere.purifiers import DiffPure, Identity, Purifier, PurSAMERE
from lit_pursamere.threat import VIEWS, ThreatModel

ATEN = torch.ops.aten


def module_of(path: str) -> ModuleType:
    """A module of the tests, for its lists and its fixtures."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_of_"), Path(__file__).parent / f"{path}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


PURIFIERS, ATTACKS = module_of("purifiers/test_laws"), module_of("attacks/test_laws")
FAMILIES = module_of("conftest").TINY_SCORES
case, threat = PURIFIERS.case, ATTACKS.threat  # fixtures


def quick(world: str) -> bool:
    """Whether a purifier's world has no network in it, or but a small one."""
    return not world.endswith(" network") or world.startswith("DAE")


QUICK = {key: " on ".join(key) for key in PURIFIERS.WORLDS if quick(key[1])}
every_purifier = pytest.mark.parametrize("case", QUICK, ids=QUICK.values(), indirect=True)
FIRST = {name: key for key in reversed(QUICK) for name in key[:1]}  # of each purifier; all views take their time
first_of_each = pytest.mark.parametrize(
    "case",
    [key if key == FIRST[key[0]] else pytest.param(key, marks=pytest.mark.slow) for key in QUICK],
    ids=QUICK.values(),
    indirect=True,
)

# What no test here covers, and why.
EXEMPT_ATTACKS = {
    **dict.fromkeys(("APGD", "FAB", "Square", "AutoAttack"), "the library looks at data; survivors go on to each run"),
    **dict.fromkeys(("CarliniWagnerL2", "EAD", "Boundary", "Wrapped"), "the library looks at data"),
    "SaltAndPepper": "survivors go on to each run, whose noise follows the pixels",
}
LEAVING = (WorstCase, Restarts)  # broken images leave between attacks: read once per attack, so not on the meta device


# --- what a GPU refuses, and what it makes wait


class MixedDevices(Exception):
    """An operation got arguments on the device and on the CPU."""


class GPU(TorchDispatchMode):
    """Holds operations on the meta device to CUDA's rules; `waits` lists the copies to the device that block."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [*_tensors_in((args, *kwargs.values()))]
        on_cpu = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        if func is ATEN._to_copy.default:
            if on_cpu and kwargs.get("device") == torch.device("meta") and not kwargs.get("non_blocking"):
                self.waits.append(f"a blocking copy of {tuple(args[0].shape)}")
        elif len(tensors) > len(on_cpu) and any(tensor.ndim for tensor in on_cpu):
            raise MixedDevices(f"{func} got {[(tensor.device.type, tuple(tensor.shape)) for tensor in tensors]}")
        return func(*args, **kwargs)


def _tensors_in(values: Sequence[object]) -> Iterator[Tensor]:
    """The tensors among the arguments of an operation, and in its lists of tensors."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)


@pytest.fixture
def gpu(monkeypatch) -> Callable[[], GPU]:
    """Within `with gpu() as seen`, the meta device is as strict as CUDA."""

    @contextmanager
    def entered() -> Iterator[GPU]:
        mode = GPU()
        with monkeypatch.context() as patch, mode:
            for name in ("tensor", "as_tensor"):  # make a CPU tensor of a number and copy it, below any dispatch
                patch.setattr(torch, name, partial(_noted, mode, getattr(torch, name)))
            yield mode

    return entered


def _noted(mode: GPU, create: Callable[..., Tensor], data: object, **options: object) -> Tensor:
    made = create(data, **options)
    if made.is_meta and not isinstance(data, Tensor):
        mode.waits.append(f"{create.__name__}({data!r})")
    return made


class Broken(torch.autograd.Function):
    """Its derivative mixes devices."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.add_(torch.rand(gradient.shape))


MIXED = {
    "sum": lambda x: x + torch.rand(4),
    "list": lambda x: torch.cat([x, torch.rand(2, 4)]),
    "in place": lambda x: x.clone().add_(torch.rand(4)),
    "linear": lambda x: nn.functional.linear(x, torch.rand(3, 4)),
    "convolution": lambda x: nn.functional.conv1d(x[:, None], torch.rand(2, 1, 3)),
    "gather": lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.long)),
    "index": lambda x: x[torch.tensor([1, 0])],
    "buffer": lambda x: nn.functional.batch_norm(x, torch.zeros(4), torch.ones(4)),
    "on the way back": lambda x: torch.autograd.grad(Broken.apply(x.requires_grad_()).sum(), x),
}
READS = {
    "item": lambda x: x.sum().item(),
    "truth": lambda x: bool(x.any()),
    "list": lambda x: x.tolist(),
    "mask": lambda x: x[x > 0],
    "copy": lambda x: x.cpu(),
    "unique": lambda x: x.unique(),
}
WAITS = {
    "copy": lambda x: torch.rand(4).to(x),
    "number": lambda x: torch.as_tensor(0.5, device=x.device),
    "list": lambda x: torch.tensor([0, 1], device=x.device),
}


@pytest.mark.parametrize("fault", MIXED)
def test_mixed_devices_are_found(gpu, fault):
    with gpu(), pytest.raises((MixedDevices, RuntimeError)):
        MIXED[fault](torch.rand(2, 4, device="meta"))


@pytest.mark.parametrize("fault", READS)
def test_reads_are_found(gpu, fault):
    with gpu(), pytest.raises((RuntimeError, NotImplementedError)):
        READS[fault](torch.rand(2, 4, device="meta"))


@pytest.mark.parametrize("fault", WAITS)
def test_waits_are_found(gpu, fault):
    with gpu() as seen:
        WAITS[fault](torch.rand(2, 4, device="meta"))
    assert len(seen.waits) == 1


def test_what_is_right_passes(gpu):
    x = torch.rand(2, 4, device="meta")
    with gpu() as seen:
        total = x + torch.rand(()) + 0.5 + torch.rand(4).to("meta", non_blocking=True)
        assert torch.where(total > 0, total, x.new_full((), 2.0)).is_meta
        assert not torch.rand(3)[torch.tensor([0, 1])].is_meta
    assert not seen.waits


# --- purifiers and views


def around(purifier: Purifier, x: Tensor) -> Defense:
    """The purifier before a smooth classifier of images like x; the surrogate is the identity."""
    return Defense(purifier, PURIFIERS.classifier(x[0].numel()), surrogate=Identity()).to(x.dtype)


def test_every_purifier_is_among_the_quick_ones():
    assert {name for name, _ in QUICK} == {name for name, _ in PURIFIERS.WORLDS}


@every_purifier
def test_a_purifier_runs_on_one_device(case, gpu):
    purifier, x = case[0].to("meta"), case[1].to("meta")
    with gpu() as seen, torch.no_grad():
        purified = purifier(x)
    assert purified.is_meta and purified.shape == x.shape
    assert not seen.waits


@first_of_each
def test_all_its_views_run_on_one_device(case, gpu):
    defense, x = around(*case).to("meta"), case[1].to("meta")
    y = torch.zeros(len(x), dtype=torch.long, device="meta")
    for gradient in defense.views:
        with gpu() as seen:
            slope, wrong = loss_gradient(defense.view(gradient), x, y)
        assert slope.is_meta and slope.shape == x.shape and wrong.is_meta, gradient
        assert not seen.waits, gradient


TWINS = ("EDM-VP", "EDM-VE")  # the network of EDM with other factors around it


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow) if name in TWINS else name for name in FAMILIES]
)
def test_a_network_and_its_second_derivative_run_on_one_device(tiny_scores, family, gpu):
    model, x = tiny_scores(family).to("meta"), torch.rand((2, 1, 8, 8), device="meta", requires_grad=True)
    sigma = getattr(model, "sigma2", 0.25) ** 0.5
    with gpu() as seen:
        (slope,) = torch.autograd.grad(model.predict_noise(x, sigma).square().sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    assert curvature.is_meta and curvature.shape == x.shape
    assert not seen.waits


@pytest.mark.parametrize("source", [FreshNoise(), NoiseTables(3), PartlySeededNoise(1)], ids=lambda s: type(s).__name__)
def test_so_it_does_with_noise_that_follows_the_images(mixture, images, gpu, source):
    x, model = images.to("meta"), mixture.to("meta")
    with gpu() as seen, follow(image_keys(torch.arange(len(x)), "a test")):
        for build in (partial(PurSAMERE, sigmas=[0.4, 0.2]), partial(DiffPure, dt=0.05)):
            assert build(model)(x, source).is_meta
    assert not seen.waits


@pytest.mark.parametrize("average", ["logits", "softmax", "votes"])
def test_an_ensemble_runs_on_one_device(mixture, images, gpu, average):
    ensemble = Ensemble(3, average, attacked=2)
    defense = Defense(DiffPure(mixture, dt=0.05).under("fixed"), PURIFIERS.classifier(8), ensemble).to("meta")
    x = images.to("meta")
    with gpu() as seen:
        assert defense(x).is_meta and defense.view("adjoint")(x).is_meta
    assert not seen.waits


# --- attacks


def attack_names(*kinds: type[Attack], but: tuple[type[Attack], ...] = ()) -> list[str]:
    made = {name: make(ThreatModel("linf", 0.1)) for name, make in ATTACKS.ATTACKS.items()}
    return [name for name, attack in made.items() if isinstance(attack, kinds) and not isinstance(attack, but)]


STEPPING = attack_names(IterativeAttack)
COVERED = attack_names(Attack, but=(SurvivorAttack,))
ALONE = attack_names(Attack, but=(SurvivorAttack, IterativeAttack, *LEAVING))


def test_every_attack_is_covered_or_exempt():
    assert all(callable(getattr(ATTACKS, name)) for name in EXEMPT_ATTACKS)
    covered = {type(ATTACKS.ATTACKS[name](ThreatModel("linf", 0.1))).__name__ for name in COVERED}
    known = {type(make(ThreatModel("linf", 0.1))).__name__ for make in ATTACKS.ATTACKS.values()}
    assert covered.isdisjoint(EXEMPT_ATTACKS) and covered | set(EXEMPT_ATTACKS) == known
    assert set(STEPPING) <= set(COVERED), "no attack by steps is exempt"


def curved_classifier() -> nn.Module:
    """A convolution with running statistics and a readout, float64, for the images of the attacks' laws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(100, ATTACKS.CLASSES)).double().eval()


def some_images(device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Six images in the box and classes, for the attacks' laws."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand((6, *ATTACKS.SHAPE), generator=generator, dtype=torch.float64)
    return x.to(device), (torch.arange(6) % ATTACKS.CLASSES).to(device)


def moved(attack: Attack) -> Attack:
    """The attack with all that it carries on the meta device, where it moves it by itself at its first call."""
    for module in (value for value in vars(attack).values() if isinstance(value, nn.Module)):
        module.to("meta")
    return attack


@pytest.mark.parametrize("name", STEPPING)
def test_a_step_runs_on_one_device_and_waits_for_nothing(name, threat, gpu):
    attack, view, (x, y) = moved(ATTACKS.ATTACKS[name](threat)), curved_classifier().to("meta"), some_images("meta")
    with gpu():
        state = attack.init(x, y)
    with gpu() as seen:
        for _ in range(2):
            state, wrong = attack.step(view, x, y, state)
    assert state["x_adv"].is_meta and state["x_adv"].shape == x.shape and wrong.is_meta and wrong.shape == (6,)
    assert not seen.waits


@pytest.mark.parametrize("name", [name for name in STEPPING if not name.endswith("stop")])
def test_a_whole_attack_waits_as_often_however_many_steps(name, gpu):
    view, (x, y), waits = Defense(Identity(), curved_classifier()).to("meta"), some_images("meta"), []
    for steps in (1, 3):
        attack = moved(replace(ATTACKS.ATTACKS[name](ThreatModel("l2", 0.3)), steps=steps))
        with gpu() as seen:
            assert all(part.is_meta for part in attack(view, x, y))
            list(attack.in_slots(view, x, y, 6, keys=image_keys(torch.arange(6), "a test")))
        waits.append(len(seen.waits))
    assert waits[0] == waits[1] <= 2, "each start may wait, for it is drawn on the CPU"


@pytest.mark.parametrize("name", ALONE)
def test_other_attacks_run_on_one_device(name, threat, gpu):
    with gpu():
        outcome = moved(ATTACKS.ATTACKS[name](threat))(curved_classifier().to("meta"), *some_images("meta"))
    assert outcome.last.is_meta and outcome.any.is_meta


# --- how often the host reads: counted on the CPU, where the checks have something to read


ASKING = (ATEN._local_scalar_dense, ATEN.nonzero, ATEN.equal, ATEN._unique2, ATEN.masked_select)
INDEXING = (ATEN.index, ATEN.index_put_, ATEN.index_put, ATEN._index_put_impl_)


class Reads(TorchDispatchMode):
    """Counts what would make a host wait for the values of a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = func.overloadpacket in INDEXING and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += masked or func.overloadpacket in ASKING
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch) -> Callable[[Callable[[], object]], int]:
    """How often a function reads tensors; on the CPU lists and arrays are made below any dispatch."""

    def counted(function: Callable[[], object]) -> int:
        mode = Reads()

        def noted(plain: Callable, tensor: Tensor, *args: object) -> object:
            mode.count += 1
            return plain(tensor, *args)

        with monkeypatch.context() as patch, mode:
            for name in ("tolist", "numpy", "cpu"):
                plain = getattr(Tensor, name)
                patch.setattr(Tensor, name, lambda tensor, *args, plain=plain: noted(plain, tensor, *args))
            function()
        return mode.count

    return counted


@pytest.mark.parametrize("read", READS)
def test_reads_are_counted(reads, read):
    x = torch.rand(2, 4)
    assert reads(lambda: READS[read](x)) == 1
    assert reads(lambda: (x[torch.tensor([0, 1])], torch.where(x > 0, x, 0), x.sum())) == 0


@every_purifier
def test_an_evaluation_within_an_attack_reads_nothing(case, reads):
    defense, x = around(*case), case[1]
    y = torch.zeros(len(x), dtype=torch.long)
    # On the CPU, where it costs nothing, ADP looks whether an image moves still; on other devices it does not.
    views = ("gray", "surrogate") if isinstance(case[0], PURIFIERS.ADP) else defense.views
    with deferred():
        assert {gradient: reads(lambda g=gradient: loss_gradient(defense.view(g), x, y)) for gradient in views} == (
            dict.fromkeys(views, 0)
        )


def test_a_purification_reads_as_often_however_many_levels(mixture, images, reads):
    counts = []
    for levels in (3, 30):
        sigmas = [0.5 * 0.9**k for k in range(levels)]
        defense = Defense(PurSAMERE(mixture, 0.5, 0.2, 2, sigmas), PURIFIERS.classifier(8))
        defense(images)  # looks for probabilities the first time
        counts.append((reads(lambda d=defense: d.purifier(images)), reads(lambda d=defense: d(images))))
    assert counts == [(0, 3), (0, 3)], "images, purified images and logits of a defence are looked at"


@pytest.mark.parametrize("gradient", VIEWS)
def test_twenty_steps_read_as_often_as_two_on_every_view(mixture, images, reads, gradient):
    purifier = PurSAMERE(mixture, 0.5, 0.2, 2, [0.4, 0.2])
    if gradient == "adjoint":
        purifier = DiffPure(mixture, dt=0.05).under("fixed")
    view = Defense(purifier, PURIFIERS.classifier(8), surrogate=purifier).view(gradient)
    y, counts = torch.arange(8) % 3, []
    for steps in (2, 20):
        attack = PGD(ThreatModel("linf", 0.05), gradient, steps)
        counts.append(reads(lambda attack=attack: attack(view, images, y)))
    assert counts[0] == counts[1] <= 6, "the box, the notes twice by type, the budget"


def lengthened(attack: Attack, by: int) -> Attack:
    """The attack with so many times the steps, or draws."""
    if isinstance(attack, WorstCase):
        return replace(attack, attacks=[lengthened(inner, by) for inner in attack.attacks])
    if isinstance(attack, Restarts | Transfer):
        return replace(attack, attack=lengthened(attack.attack, by))
    lengths = {name: by * getattr(attack, name) for name in ("steps", "draws", "tries") if hasattr(attack, name)}
    return replace(attack, **lengths)


@pytest.mark.parametrize("name", [name for name in COVERED if name not in attack_names(SPSA)])
def test_reads_do_not_grow_with_the_steps_of_an_attack(name, reads):
    """Where an image's success ends its attack, by one a step. SPSA's step numbers are on the CPU, and read there."""
    defense, (x, _) = Defense(Identity(), curved_classifier()), some_images()
    y, attack = defense(x).argmax(1), ATTACKS.ATTACKS[name](ThreatModel("linf", 1e-9))  # so small that none leaves
    once, thrice = (reads(partial(lengthened(attack, by), defense, x, y)) for by in (1, 3))
    stopping = getattr(attack, "stop_on_success", False)
    assert thrice - once == (2 * attack.steps if stopping else 0)
    if isinstance(attack, IterativeAttack):
        assert once - stopping * attack.steps <= 7, "box, budget, a start drawn on the CPU, and notes twice by type"


def test_in_slots_reads_grow_with_the_deliveries_alone(reads):
    defense, (x, _) = Defense(Identity(), curved_classifier()), some_images()
    y, keys = defense(x).argmax(1), image_keys(torch.arange(6), "a test")
    counts = {
        (steps, slots): reads(
            lambda steps=steps, slots=slots: list(
                PGD(ThreatModel("linf", 1e-9), "exact", steps).in_slots(defense, x, y, slots, keys=keys)
            )
        )
        for steps in (3, 12)
        for slots in (2, 6)
    }
    assert counts[3, 2] == counts[12, 2] and counts[3, 6] == counts[12, 6]
    assert counts[3, 2] - counts[3, 6] <= 2 * 3, "three deliveries instead of one; two types of numbers"
