"""The checks: each is a question to an examination, answered by a finding.

References: Carlini et al., "On Evaluating Adversarial Robustness" (2019); Athalye, Carlini, Wagner (2018), section 3;
Pintor et al., "Indicators of Attack Failure" (2022); the flags of AutoAttack (Croce, Hein, 2020); Zimmermann et al.
(2022).

Where another attack is compared with the one on trial, what counts is the images that only the other one breaks:
none is a pass, up to 5 % of the images (or a single one) a doubt, more a failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lit_pursamere.attacks import PGD, Attack, RandomSearch, Restarts, Square
from lit_pursamere.attacks.gradients import loss_gradient
from lit_pursamere.attacks.iterative import IterativeAttack
from lit_pursamere.audit.binarization import plant, random_points
from lit_pursamere.audit.examination import Examination, Finding, NotApplicable, Verdict, variant
from lit_pursamere.purifiers import Identity
from lit_pursamere.report import Accuracy
from lit_pursamere.threat import Pixels, ThreatModel, View

__all__ = ["CHECKS", "Check"]

Check = Callable[[Examination], Finding]

TOLERANCE = 0.05  # share of the images that another attack may gain before it is a failure
REPEATS = 5
EVERYTHING = 0.95  # success without a bound, and on planted examples, below which an attack fails


def deterministic(exam: Examination) -> Finding:
    """Does the defence give the same answer every time, and if not, is it attacked and judged by averages?"""
    with torch.no_grad():
        draws = torch.stack([exam.defense(exam.x[: exam.batch]) for _ in range(REPEATS)])
    drift = float((draws - draws[0]).abs().max())
    if drift == 0:
        return Finding("pass", f"{REPEATS} repetitions give the same logits bit for bit")
    flips = int((draws.argmax(2) != draws[0].argmax(1)).any(0).sum())
    eot = getattr(exam.attack, "eot", 1)
    found = f"logits drift by up to {drift:.1e}, {flips} of {draws.shape[1]} verdicts change in {REPEATS} repetitions"
    if eot > 1 and exam.evaluations > 1:
        return Finding("pass", f"{found}; attacked with EoT {eot}, judged {exam.evaluations} times")
    needed = " and ".join(
        text for text, value in (("eot > 1", eot), ("evaluations > 1", exam.evaluations)) if value == 1
    )
    return Finding("fail", f"{found}; a stochastic defence needs {needed}")


def gradients(exam: Examination) -> Finding:
    """Is there a gradient to follow at the images themselves?"""
    shares = {name: _without_gradient(exam, name) for name in _views(exam)}
    share = shares[exam.attack.view]
    detail = ", ".join(f"{name} {round(value * len(exam))}" for name, value in shares.items())
    verdict: Verdict = "pass" if share == 0 else "doubt" if share <= TOLERANCE else "fail"
    return Finding(verdict, f"zero, missing or not finite on so many of {len(exam)} images: {detail}")


def _without_gradient(exam: Examination, name: View) -> float:
    view, missing = exam.defense.view(name), 0
    for x, y in zip(exam.x.split(exam.batch), exam.y.split(exam.batch), strict=True):
        try:
            size = loss_gradient(view, x, y, loss=getattr(exam.attack, "loss", "ce"))[0].flatten(1).norm(dim=1)
            missing += int((~(size.isfinite() & (size > 0))).sum())
        except RuntimeError:  # the view's logits do not depend on the image differentiably
            missing += len(x)
    return missing / len(exam)


class GradientCount(TorchFunctionMode):
    """Counts the gradients that are taken inside by torch.autograd.grad, through networks or not."""

    taken = 0

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        self.taken += function is torch.autograd.grad
        return function(*args, **(kwargs or {}))


def inner_optimisation(exam: Examination) -> Finding:
    """If the forward pass takes gradients itself, does the attack differentiate through them?"""
    with GradientCount() as gradients, torch.no_grad():
        exam.defense(exam.x[:1])
    if not gradients.taken:
        return Finding("pass", "the forward pass takes no gradients")
    through = exam.attack.view == "exact"
    how = "the attack differentiates through them" if through else f"the view {exam.attack.view} does not see them"
    return Finding("pass" if through else "doubt", f"the forward pass takes {gradients.taken} gradients; {how}")


def undefended(exam: Examination) -> Finding:
    """Does the attack break the classifier without its purifier?"""
    _needs_purifier(exam)
    share = exam.broken(exam.attack, undefended=True).float().mean().item()
    if share >= EVERYTHING:
        return Finding("pass", f"breaks {_percent(share)} of the images without the purifier")
    return Finding("doubt", f"breaks {_percent(share)} of the images without the purifier; is the classifier robust?")


def single_step(exam: Examination) -> Finding:
    """Do many steps break what one step breaks?"""
    attack = _iterative(exam)
    if attack.steps == 1:
        return Finding("fail", "the attack on trial is a single step")
    changes = {"step_size": attack.budget.eps} if hasattr(attack, "step_size") else {}
    return _compare(exam, variant(attack, steps=1, **changes), "one step of size eps")


def converged(exam: Examination) -> Finding:
    """Has the attack converged: do twice as many steps break no more?"""
    attack = _iterative(exam)
    return _compare(exam, variant(attack, steps=2 * attack.steps), f"{2 * attack.steps} steps")


def restarts(exam: Examination) -> Finding:
    """Do three random starts break no more?"""
    return _compare(exam, Restarts(variant(_iterative(exam), start="ball"), 3), "three random starts")


def losses(exam: Examination) -> Finding:
    """Do the other losses break no more?"""
    attack = _iterative(exam)
    with torch.no_grad():
        classes = exam.defense(exam.x[:1]).shape[1]
    others = [loss for loss in ("ce", "margin", "dlr") if loss != getattr(attack, "loss", loss)]
    others = [loss for loss in others if loss != "dlr" or classes > 2]
    return _union(exam, {loss: variant(attack, loss=loss) for loss in others or ("margin",)})


def silent_success(exam: Examination) -> Finding:
    """Does the attack end on an image that fools, if it came past one?"""
    if exam.attack.view == "gray":
        raise NotApplicable("a gray attack does not see the defence and cannot know when it has fooled it")
    last, any_ = int(exam.broken_last(exam.attack).sum()), int(exam.broken(exam.attack).sum())
    if last == any_:
        return Finding("pass", f"last and any iterate agree: {last} of {len(exam)} broken")
    return Finding("doubt", f"{last} of {len(exam)} broken at the last iterate, {any_} at any: report `any`")


def views(exam: Examination) -> Finding:
    """Do the other views of the defence break no more?"""
    _needs_purifier(exam)
    others = [name for name in _views(exam) if name not in (exam.attack.view, "gray")]
    return _union(exam, {name: variant(exam.attack, view=name) for name in others})


def transfer(exam: Examination) -> Finding:
    """Does an attack on the classifier alone, which never sees the purifier, break no more?"""
    _needs_purifier(exam)
    if exam.attack.view == "gray":
        raise NotApplicable("the attack on trial is one")
    return _compare(exam, variant(exam.attack, view="gray"), "transferred from the undefended classifier")


def random_search(exam: Examination) -> Finding:
    """Do random points of the ball break no more?"""
    attack = RandomSearch(exam.attack.budget, exam.attack.view, draws=exam.queries // 2, seed=exam.seed)
    return _compare(exam, _seeing(attack), f"{2 * attack.draws} random points")


def black_box(exam: Examination) -> Finding:
    """Does an attack by queries alone (Square) break no more?"""
    threat, evaluations = exam.attack.budget, exam.evaluations
    attack = Square(threat, exam.attack.view, seed=exam.seed, evaluations=evaluations, queries=exam.queries)
    return _compare(exam, _seeing(attack), f"Square with {exam.queries} queries")


def radius(exam: Examination) -> Finding:
    """Does success rise with eps, and reach everything without a bound?"""
    threat = exam.attack.budget
    whole = {"linf": 1.0, "l2": math.sqrt(exam.x[0].numel()), "l1": float(exam.x[0].numel())}[threat.norm]
    sizes = [threat.eps / 2, threat.eps, 2 * threat.eps, 4 * threat.eps]
    sizes = [*(eps for eps in sizes if eps < whole), whole]
    shares = [exam.broken(_resized(exam.attack, eps)).float().mean().item() for eps in sizes]
    detail = ", ".join(f"eps {eps:.3g}: {_percent(share)}" for eps, share in zip(sizes, shares, strict=True))
    fall = max(before - after for before, after in pairwise(shares))
    if fall > TOLERANCE or shares[-1] < EVERYTHING:
        return Finding("fail", f"success by radius: {detail}; it should rise, and end near 100 %")
    return Finding("pass" if fall <= 0 and shares[-1] == 1 else "doubt", f"success by radius: {detail}")


def _resized(attack: Attack, eps: float) -> Attack:
    """The attack with another radius, its step in proportion."""
    threat = ThreatModel(attack.budget.norm, Pixels(eps))
    if eps == attack.budget.eps:
        return attack
    step_size = getattr(attack, "step_size", None)
    if step_size is None:
        return variant(attack, threat=threat)
    return variant(attack, threat=threat, step_size=step_size * eps / attack.budget.eps)


def planted(exam: Examination) -> Finding:
    """Does the attack find adversarial examples that were planted (the binarization test)?"""
    attack = exam.attack
    if isinstance(attack, PGD) and attack.loss == "dlr":
        attack = variant(attack, loss="margin")  # two classes have no third logit
    wanted = min(exam.planted, len(exam))
    results = []
    with exam.progress.inside("planted examples", "image") as images:
        for i in range(wanted):
            images(i, wanted)
            results.append(exam.remember(f"planted {attack!r} at {i}", partial(_find_planted, exam, attack, i)))
    count, found, by_chance = torch.stack(results).sum(0).tolist()
    if not count:
        raise NotApplicable(f"no linear readout tells a planted point from the others, on any of {wanted} images")
    detail = f"finds {found} of {count} planted examples; {exam.queries} random points find {by_chance}"
    if by_chance > count / 2:
        return Finding("doubt", f"{detail}: the test is too easy to say anything")
    if found / count >= EVERYTHING:
        return Finding("pass", detail)
    likely = Accuracy(found, count).interval[1] >= EVERYTHING
    return Finding("doubt" if likely else "fail", f"{detail}; {_percent(EVERYTHING)} are expected")


def _find_planted(exam: Examination, attack: Attack, i: int) -> Tensor:
    """Whether an example could be planted around an image, whether the attack finds it, and a random search, (3,)."""
    x, target = exam.x[i : i + 1], torch.zeros(1, dtype=exam.y.dtype, device=exam.y.device)
    world = plant(exam.defense, x, attack.budget, batch=exam.batch, seed=exam.seed + i)
    if world is None:
        return torch.zeros(3, dtype=torch.bool)
    defense, _ = world
    outcome = attack(defense.view(attack.view), x, target)
    tries = random_points(x, exam.queries, attack.budget, exam.seed + i)
    with torch.no_grad():
        found = bool(defense(torch.cat([outcome.last, outcome.any])).argmax(1).any())
        by_chance = any(bool(defense(points).argmax(1).any()) for points in tries.split(exam.batch))
    return torch.tensor([True, found, by_chance])


def _compare(exam: Examination, attack: Attack, name: str) -> Finding:
    """A finding on another attack: how many images only it breaks."""
    return _judge(exam, exam.gained(attack), name)


def _union(exam: Examination, attacks: dict[str, Attack]) -> Finding:
    gains = {name: exam.gained(attack) for name, attack in attacks.items()}
    if not gains:
        raise NotApplicable("there is no other")
    detail = ", ".join(f"{name} +{int(gain.sum())}" for name, gain in gains.items())
    return _judge(exam, torch.stack(list(gains.values())).any(0), f"{detail}, together")


def _judge(exam: Examination, gained: Tensor, name: str) -> Finding:
    more, base = int(gained.sum()), int((~exam.left).sum())
    verdict: Verdict = "pass" if not more else "doubt" if more <= max(1, TOLERANCE * len(exam)) else "fail"
    return Finding(verdict, f"{name}: +{more} beyond the {base} of {len(exam)}")


def _seeing(attack: Attack) -> Attack:
    """Attacks by queries see the defence itself, whatever the attack on trial sees."""
    return variant(attack, view="bpda") if attack.view == "gray" else attack


def _views(exam: Examination) -> list[View]:
    """The views that differ for this defence."""
    if isinstance(exam.defense.purifier, Identity):
        return [exam.attack.view]
    return [name for name in exam.defense.views if name != "gray" or exam.attack.view == "gray"]


def _iterative(exam: Examination) -> IterativeAttack:
    if not isinstance(exam.attack, IterativeAttack):
        raise NotApplicable(f"{type(exam.attack).__name__} is not an attack by steps")
    return exam.attack


def _needs_purifier(exam: Examination) -> None:
    if isinstance(exam.defense.purifier, Identity):
        raise NotApplicable("there is no purifier")


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        deterministic, gradients, inner_optimisation, undefended, single_step, silent_success, transfer, losses,
        converged, restarts, views, random_search, black_box, radius, planted,
    )
}  # fmt: skip
