"""What a purifier is: a function of an image and of named noise, nothing else."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from pydoc import locate
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lit_pursamere.diffusion.noise import FreshNoise, NoiseSource, NoiseTables, PartlySeededNoise, SeededNoise
from lit_pursamere.diffusion.score_model import ScoreModel
from lit_pursamere.host import docket
from lit_pursamere.store.manifest import setting_of

__all__ = ["STEP", "Identity", "Knowledge", "Purifier", "Recipe", "complete", "equipped"]

Knowledge = Literal["fresh", "fixed", "forward"] | int

# By how much a recomputed state may differ, relative, in l2: kernels that will be differentiated once more round
# differently (group norm), and a sign-like step amplifies that.
SAME = {torch.float64: 1e-8, torch.float32: 2e-2}


class Recomputed(torch.autograd.Function):
    """A step of which only the input and the output are kept; its derivative computes it a second time.

    Unlike torch.utils.checkpoint it also saves memory where the step takes gradients itself. Weights get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, step: Callable, name: str, *state: Tensor) -> tuple[Tensor, ...]:
        result = tuple(step(*state))
        ctx.set_materialize_grads(False)
        ctx.step, ctx.name, ctx.inputs = step, name, len(state)
        ctx.autocast = autocast_of(state[0])
        ctx.docket = docket()  # on the way back autograd may be in a thread that does not know it
        ctx.save_for_backward(*state, *result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        state, first = ctx.saved_tensors[: ctx.inputs], ctx.saved_tensors[ctx.inputs :]
        needed = ctx.needs_input_grad[2:]
        state = [tensor.detach().requires_grad_(need) for tensor, need in zip(state, needed, strict=True)]
        with torch.enable_grad(), ctx.autocast():
            again = ctx.step(*state)
        excess = [
            ((after.detach() - before).norm() - SAME.get(before.dtype, 2e-2) * before.norm()).to(first[0].dtype)
            for before, after in zip(first, again, strict=True)
        ]
        ctx.docket.note(partial(refuse_another_state, ctx.name), torch.stack(excess).amax())
        given = [(a, g) for a, g in zip(again, gradients, strict=True) if g is not None and a.requires_grad]
        wanted = [tensor for tensor in state if tensor.requires_grad]
        outputs, weights = zip(*given, strict=True) if given else ((), ())
        found = iter(
            torch.autograd.grad(outputs, wanted, weights, allow_unused=True) if given else [None] * len(wanted)
        )
        return None, None, *(next(found) if need else None for need in needed)


class Step(nn.Module):
    """A step of a purification, from state to state, as a module call: forward hooks see it."""

    def forward(self, run: Callable[..., tuple[Tensor, ...]], *state: Tensor) -> tuple[Tensor, ...]:
        return run(*state)


STEP = Step()  # every step of every purifier is a call of it


def autocast_of(state: Tensor) -> Callable[[], AbstractContextManager]:
    """Mixed precision as it is now, to be entered on the way back: there it may be off, or of the device's own type."""
    if state.is_meta:  # has no mixed precision
        return nullcontext
    kind = state.device.type
    return partial(torch.autocast, kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


def refuse_another_state(name: str, excess: float) -> None:
    """Raise if a recomputed state of a purifier of this name differs by more than it may: an excess above 0, or NaN."""
    if not excess <= 0:
        raise RuntimeError(
            f"a step of {name} gave another state when it was computed again, so its gradient would be wrong; look "
            "for noise that is drawn inside a step, for NaN, or switch on torch.use_deterministic_algorithms(True). "
            "Steps that are like signs amplify the rounding of mixed precision: attack such a purifier in float32"
        )


class Adjoint(torch.autograd.Function):
    """Steps of an SDE of which only the last state is kept; its derivative walks back with the same noise.

    Reference: Li, Wong, Chen, Duvenaud (2020), "Scalable Gradients for Stochastic Differential Equations", for additive
    noise. With u' = u + f(u) dt + noise, every step is undone and differentiated where it arrived, u' instead of u:

        a = a + dt (df/du)(u')^T a           u = u' - f(u') dt - noise          (an error of order dt)
    """

    @staticmethod
    def forward(ctx: Any, steps: Sequence[Callable[[Tensor], tuple[Tensor]]], u: Tensor) -> Tensor:
        for step in steps:
            (u,) = step(u)
        ctx.steps, ctx.autocast = steps, autocast_of(u)
        ctx.save_for_backward(u)
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, a: Tensor) -> tuple[None, Tensor]:
        (u,) = ctx.saved_tensors
        for step in reversed(ctx.steps):
            with torch.enable_grad(), ctx.autocast():
                u = u.detach().requires_grad_()
                (onward,) = step(u)
            (a,) = torch.autograd.grad(onward, u, a)
            u = 2 * u - onward
        return None, a


def noted(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor of a purifier, after which its arguments are noted and its networks are frozen.

    Of constructors that call each other the outermost ends last, so what is noted are the arguments of the class.
    """
    signature = inspect.signature(init)

    @wraps(init)
    def construct(self: Purifier, *args: object, **kwargs: object) -> None:
        init(self, *args, **kwargs)
        if "_modules" not in vars(self):
            raise ValueError(f"{type(self).__name__}.__init__ must begin with super().__init__(score_model, seed)")
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        _, *arguments = bound.arguments.items()
        self._arguments = {name: setting_of(value) for name, value in arguments}
        self._networks = {name for name, value in arguments if isinstance(value, nn.Module)}
        self.requires_grad_(False).eval()

    return construct


class Purifier(nn.Module, ABC):
    """Maps images (B, C, H, W) in [0, 1] to images of the same shape in [0, 1]; subclasses implement `purify`.

    A purifier has no state that a forward pass changes: it does no I/O, leaves weights, modes, `.grad` and, when its
    noise is seeded, the global generators alone, and treats every image on its own. It always stays in evaluation
    mode, and its networks are frozen. If gradients are enabled and x requires one, the output is differentiable with
    respect to x.

    Args:
        score_model: Estimates the noise in noisy images.
        seed: Seed of draws that an attacker knows, see `under`; of fresh ones nothing is known. Each purifier says
            which streams it draws from.

    `recompute`: whether a differentiated purification keeps only the state between its steps and computes each step a
    second time on the way back, so that memory does not grow with the number of steps.
    `first_order`: whether derivatives leave out how gradients that the purifier itself takes change with x.
    `adjoint`: whether derivatives come from walking its SDE backward; None: it integrates none.
    `streams`: the streams of noise that it draws from, under some of its settings.
    `knowledge`: what attackers know of its noise in its paper, see `under`.
    `centred`: whether the states between its steps are centred pixels, 2 x - 1 for an image x.
    """

    recompute = True
    first_order = False
    adjoint: bool | None = None
    streams: tuple[str, ...] = ("forward", "reverse")
    knowledge: Knowledge | NoiseSource = "fresh"
    centred = False
    _arguments: dict[str, object]
    _networks: set[str]

    @noted
    def __init__(self, score_model: ScoreModel | None = None, seed: int = 0) -> None:
        super().__init__()
        self.seed, self.noise = seed, self._source(self.knowledge, seed)
        if score_model is not None:
            self.score_model = score_model

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = noted(cls.__init__)  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        if name == "score_model" and name not in self._modules:
            raise ValueError(
                f"{type(self).__name__} has no score model: its constructor must take `score_model: ScoreModel`, so "
                "typed and without a default, and hand it to super().__init__"
            )
        return super().__getattr__(name)

    @property
    def settings(self) -> dict[str, object]:
        """What it was built with, as JSON values: its class, every argument of its constructor by name, its noise."""
        return {"class": type(self).__name__, **self._arguments, "noise": setting_of(self.knowledge)}

    def forward(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """Purify x.

        Args:
            x: Images (B, C, H, W) in [0, 1].
            noise: Source of the draws; None: the purifier's own.

        Returns:
            Purified images (B, C, H, W), clamped to [0, 1]; x itself if `purify` hands it back.
        """
        purified = self.purify(x, (noise or self.noise).once(x))
        return x if purified is x else purified.clamp(0, 1)

    @abstractmethod
    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        """Purified images (B, C, H, W), which may leave the box, of images x in [0, 1]; `noise` is one purification's.

        It must draw from `noise` alone, outside of its steps (see `checkpointed`).
        """

    def checkpointed(self, step: Callable[..., tuple[Tensor, ...]], *state: Tensor) -> tuple[Tensor, ...]:
        """Run one step of a purification, from state to state; its noise must be drawn outside, or it would be redrawn.

        Raises:
            RuntimeError: On the way back (or, within `host.deferred`, when notes are read), if the step computed a
                second time gives another state: the gradient would be that of another purification.
        """
        if self.recompute and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in state):
            return STEP(partial(Recomputed.apply, step, type(self).__name__), *state)
        return STEP(step, *state)

    def integrate(self, u: Tensor, steps: Iterable[Callable[[Tensor], tuple[Tensor]]]) -> Tensor:
        """Take the steps of an SDE with additive noise, each from a state to `(state,)`, noise drawn outside.

        What the derivative is, and what of the way is kept for it, `adjoint` decides; otherwise as in `checkpointed`.
        """
        if self.adjoint and torch.is_grad_enabled() and u.requires_grad:
            return Adjoint.apply(tuple(steps), u)
        for step in steps:
            (u,) = self.checkpointed(step, u)
        return u

    def gradient(self, function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Values (B,) of a function that treats images one by one, and its gradient for each image, (B, C, H, W).

        If somebody will differentiate the purified image, both stay part of the graph; otherwise x is cut off, so that
        no graph outlives the step.

        Raises:
            RuntimeError: If the gradient must be part of a graph but the network gives it none.
        """
        differentiable = torch.is_grad_enabled() and x.requires_grad and not self.first_order
        with torch.enable_grad():
            x = x if differentiable else x.detach().requires_grad_()
            values = function(x)
            (g,) = torch.autograd.grad(values.sum(), x, create_graph=differentiable)
        if differentiable and not g.requires_grad:
            raise RuntimeError(
                "the score model's gradient came back without a graph, so the exact gradient of "
                f"{type(self).__name__} would be wrong; do not compile the score model, and do not use fused attention "
                "in it"
            )
        return values, g

    def under(self, knowledge: Knowledge) -> Purifier:
        """The same purifier, its networks shared, with the noise of which attackers have this knowledge.

        Args:
            knowledge: `fresh`: new draws for every image at every call, of which nothing is known; `fixed`: one table
                of draws, known (a deterministic purifier); `forward`: the draws of the way forward are known, the
                others fresh; a number K: one of K known tables (Liu et al., 2025, section 4). All of its `seed`.

        Raises:
            ValueError: If it is none of these, or the purifier has no such draws.
        """
        if knowledge == "forward" and "forward" not in self.streams:
            raise ValueError(
                f"{type(self).__name__} draws nothing on a way forward (its streams: "
                f"{', '.join(self.streams) or 'none'}), so nobody can know that part alone; use noise fixed or fresh"
            )
        return self._with(knowledge, self._source(knowledge, self.seed))

    def drawing_from(self, source: NoiseSource) -> Purifier:
        """The same purifier, its networks shared, with draws of any source."""
        return self._with(source, source)

    def _with(self, knowledge: Knowledge | NoiseSource, source: NoiseSource) -> Purifier:
        other = copy.copy(self)
        other.knowledge, other.noise = knowledge, source
        return other

    @staticmethod
    def _source(knowledge: Knowledge | NoiseSource, seed: int) -> NoiseSource:
        fixed = SeededNoise(seed)  # complains of the seed
        named = {"fresh": FreshNoise(), "fixed": fixed, "forward": PartlySeededNoise(seed)}
        if isinstance(knowledge, str) and knowledge in named:
            return named[knowledge]
        if isinstance(knowledge, int) and not isinstance(knowledge, bool):
            return NoiseTables(knowledge, seed)
        raise ValueError(f"noise must be fresh, fixed, forward or a number of tables; got {knowledge!r}")

    def in_front_of(self, classifier: nn.Module) -> Purifier:
        """The purifier as part of a defence of this classifier; itself, unless it asks the defence's classifier."""
        return self

    def train(self, mode: bool = True) -> Purifier:
        return super().train(False)

    def extra_repr(self) -> str:
        """The settings in a line, without networks and what is None."""
        return assignments({name: value for name, value in self.settings.items() if name not in self._networks})

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


Recipe = Callable[[ScoreModel], Purifier]


def complete(
    purifier: Purifier | Recipe,
    score_model: ScoreModel | None = None,
    noise: Knowledge | None = None,
    classifier: nn.Module | None = None,
) -> Purifier:
    """A purifier that may lack what it is built around, completed.

    Args:
        purifier: One that has all it needs, or what makes one of a score model, such as its class.
        score_model: Given to a purifier that lacks one.
        noise: What attackers know of its noise, see `Purifier.under`. None: as in its paper.
        classifier: What guides purifiers that ask the classifier of their defence (COUP). None: a `Defense` gives it.

    Raises:
        ValueError: If there is no score model to give.
    """
    completed: Purifier = equipped(purifier, score_model)
    completed = completed if noise is None else completed.under(noise)
    return completed if classifier is None else completed.in_front_of(classifier)


def equipped(part: Any, score_model: ScoreModel | None) -> Any:
    """A module as it is; of anything else, such as a class, what it makes of the score model.

    Raises:
        ValueError: If there is no score model.
        Exception: Whatever its own score model, or its class, has to say against the settings.
    """
    if isinstance(part, nn.Module):
        return part
    own = getattr(part, "keywords", {}).get("score_model")
    if own is not None:  # the parser failed to build it, kept the error to itself, and took it for a recipe
        return part(score_model=described(own))
    if score_model is None:
        inside = (part, getattr(part, "func", None), *getattr(part, "args", ()))  # of a functools.partial
        name = next((kind.__name__ for kind in inside if isinstance(kind, type)), "this part of the defence")
        raise ValueError(f"{name} needs a score model: name one as `score_model`, in it or for all")
    return part(score_model)


def described(told: Any) -> Any:
    """What the parser read of a part, built: class_path and init_args, which may hold such parts, too."""
    if not hasattr(told, "class_path"):
        return told
    arguments = vars(told.init_args) if hasattr(told, "init_args") else {}
    kind: Any = locate(told.class_path)
    return kind(**{name: described(value) for name, value in arguments.items()})


def assignments(settings: dict[str, object]) -> str:
    """Settings as "rho_pur=3, seed=PartlySeededNoise(seed=0)"; numbers with six digits."""
    return ", ".join(
        f"{name}={in_words(value)}" for name, value in settings.items() if name != "class" and value is not None
    )


def in_words(value: object) -> str:
    """A setting as in `assignments`."""
    if isinstance(value, dict):
        return f"{value.get('class', '')}({assignments(value)})"
    if isinstance(value, list):
        return f"[{', '.join(map(in_words, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


class Identity(Purifier):
    """No purification: what an undefended classifier has. It takes score model and seed as others do, for nothing."""

    adjoint, streams, knowledge = False, (), "fixed"

    def __init__(self, score_model: ScoreModel | None = None, seed: int = 0) -> None:
        super().__init__()

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        return x
