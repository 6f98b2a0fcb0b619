"""Cautions below a table: where a number is right, and a reader would still be misled.

judged once      a stochastic defence got one verdict per image, or was attacked draw by draw
helping attack   more images are right under an attack than without one
few images       an interval is wider than WIDEST
blind attacks    a purifier that can be differentiated was attacked through `gray` and `bpda` alone
other settings   noise levels, steps and the like are not those of the paper whose name a row bears
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from lit_pursamere.report.lines import Line
from lit_pursamere.report.published import all_published, differences, plain, plain_system, published
from lit_pursamere.report.runs import AttackInfo, Run, flat
from lit_pursamere.report.statistics import INTERVALS
from lit_pursamere.report.verdicts import CLEAN
from lit_pursamere.store.costs import read_cost

__all__ = ["WIDEST", "cautions", "images_needed"]

WIDEST = 0.2  # width of an interval, in [0, 1], from which on accuracies can hardly be compared
THROUGH = ("exact", "adjoint")  # views whose gradient goes through every step of a purification
# Attacks that search by values alone. Random points and salt are sanity checks, not searches.
SEARCHES = ("Square", "SPSA", "Boundary")
NO_SETTING = ("dataset", "budget")  # differences that are no settings of a purifier or an attack

Caution = tuple[str, str]  # about whom, and what


def cautions(
    run: Run, lines: Sequence[Line], interval: str = "wilson", named: Callable[[str], str] = str
) -> list[Caution]:
    """What a reader of a run's lines must know, as (name, text).

    Args:
        run: The run.
        lines: Its lines, see `lines_of`.
        interval: One of INTERVALS, by which few images are told.
        named: What a system is called in the table; and of the empty name, what the run is called.
    """
    found = [(named(""), text) for text in _few_images(lines, interval)]
    for system in run.systems:
        own, name = [line for line in lines if line.system == system], named(system)
        texts = [*_judged_once(run, system), *_helping(run, system, own), *_blind(run, system)]
        if plain(name).startswith(plain_system(system)):  # what is called MagNet is not set as MALADE's papers are
            texts += _unlike(run, system)
        found += [(name, text) for text in texts]
    return found


def images_needed(interval: str = "wilson") -> int:
    """How many images keep an interval narrower than WIDEST, whatever the accuracy."""
    n = 1
    while _width(n / 2, n, interval) > WIDEST:
        n += 1
    return n


def _width(correct: float, n: int, interval: str) -> float:
    low, high = INTERVALS[interval](correct, n)
    return high - low


def _few_images(lines: Sequence[Line], interval: str) -> Iterator[str]:
    wide = [line.headline for line in lines if _width(line.headline.correct, line.headline.n, interval) > WIDEST]
    if wide:
        n, points = min(cell.n for cell in wide), round(100 * WIDEST)
        yield (
            f"few images (n = {n}): intervals are wider than {points} points; with {images_needed(interval)} images "
            "none is"
        )


def _judged_once(run: Run, system: str) -> Iterator[str]:
    noise = _stochastic(run, system)
    if not noise:
        return
    if run.manifest.get("evaluations", 1) == 1:
        yield (
            f"its noise is {noise} and every image got one verdict: where it draws noise at all, other draws give "
            "other verdicts (--model.evaluations 10)"
        )
    single = [name for name, info in run.attacks.items() if info.view != "gray" and _named(info, "eot") == {"1"}]
    if single:
        yield f"its noise is {noise} and {_listed(single)} followed single draws of it, not their mean (eot 1)"


def _stochastic(run: Run, system: str) -> str:
    """The noise that makes answers of a system differ; empty where none is stated, or they were seen not to differ."""
    noise = run.purifier(system).get("noise", "fixed")
    if noise in ("fixed", 1) or not isinstance(noise, str | int):
        return ""
    with suppress(ValueError):  # a damaged file must not keep anybody from the table
        cost = read_cost(run.folder) if system == run.system else None
        if cost is not None and cost.deterministic is True:
            return ""
    return noise if isinstance(noise, str) else f"one of {noise} tables"


def _helping(run: Run, system: str, lines: Sequence[Line]) -> Iterator[str]:
    clean = next((line.headline for line in lines if line.attack == CLEAN), None)
    if clean is None:
        return
    # Of a stochastic defence a few more may be right by chance.
    bound = clean.interval[1] if _stochastic(run, system) else clean.value
    for line in lines:
        if line.attack in run.attacks and line.headline.n == clean.n and line.headline.value > bound:
            yield (
                f"more images are right under {line.attack} ({100 * line.headline.value:.1f} %) than without an attack "
                f"({100 * clean.value:.1f} %): this says nothing of robustness"
            )


def _blind(run: Run, system: str) -> Iterator[str]:
    kind = run.purifier(system).get("class")
    views = [info.view for info in run.attacks.values()]
    if kind in (None, "Identity") or None in views or not views or any(map(_sees_through, run.attacks.values())):
        return
    yield (
        f"attacked through {_listed(sorted(set(map(str, views))))} alone: no attack followed the gradient through the "
        f"purifier (view {' or '.join(THROUGH)}) or searched without one ({', '.join(SEARCHES)}), so accuracies are "
        "upper bounds that may be far off"
    )


def _sees_through(info: AttackInfo) -> bool:
    """Whether an attack, or one of several in it, differentiates the purification, or searches for what fools it."""
    kinds, views = _named(info, "class"), _named(info, "view")
    searching = kinds & {*SEARCHES} or ("AutoAttack" in kinds and "standard" in _named(info, "version"))
    return bool(views & {*THROUGH}) or (bool(searching) and views != {"gray"})


def _named(info: AttackInfo, name: str) -> set[str]:
    """The values of a setting of an attack, and of the attacks in it."""
    return {str(value) for key, value in flat(info.settings).items() if key.rpartition(".")[2] == name}


def _unlike(run: Run, system: str) -> Iterator[str]:
    """In what a purifier, and attacks that bear the names of published ones, are not set as in the nearest table."""
    ours = plain_system(system)
    if ours == plain_system("Identity") or not run.purifier(system) or not run.attacks:
        return
    for what, attack, cells in (
        ("", next(iter(run.attacks)), [cell for cell in all_published() if plain(cell.system) == ours]),
        *((f"{name} is ", name, published(system, name)) for name in run.attacks),
    ):
        tables = [(cell.source, _settings(differences(cell, run, system, attack), bool(what))) for cell in cells]
        source, found = min(tables, key=lambda table: len(table[1]), default=("", []))
        if found:
            yield f"{what}not set as in {source}: {'; '.join(found)}"


def _settings(found: dict[str, str], of_attack: bool) -> list[str]:
    """Of `differences` those in settings of the attack, or of the purifier."""
    return [text for name, text in found.items() if name not in NO_SETTING and name.startswith("attack.") == of_attack]


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
