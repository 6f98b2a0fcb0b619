"""Numbers that papers report, to stand beside ours: published.csv and its reader.

A row is one cell of a published table: a system under one attack. Empty means that the source does not say. `setting`
holds `name=value` pairs that can be compared with the description of one of our purifiers, or free text. `doubtful`
says what speaks against a number: a slip in the table, or a label that hides another protocol. The first row of
several for one question is the source's default setting.

Sources: Hoang et al. 2026 (PurSAMERE; its Table 3 quotes ADBM's paper for the rivals), Liu et al. 2025 (ADDT), Zhang et
al. 2024 (COUP), Srinivasan et al. 2021 (MALADE).
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

__all__ = ["Published", "all_published", "contradicts", "published"]

FILE = Path(__file__).with_name("published.csv")
NORMS = ("linf", "l2", "l1")


@dataclass(frozen=True)
class Published:
    """One published cell.

    Args:
        dataset: Name as of our data modules, `cifar10`.
        system: Class name of the purifier, or `undefended`.
        classifier: The classifier behind it.
        setting: What else the number depends on, `rho_pur=3` or `NFE 100`.
        attack: Name of the attack as in our configurations.
        norm: Norm of the budget; None: no budget.
        eps: Budget in pixel units; None: no budget.
        clean: Clean accuracy in %; None: not reported.
        robust: Accuracy under the attack in %.
        n: Images; None: not reported.
        source: Authors, year and table.
        doubtful: What speaks against the number; empty if nothing does.
    """

    dataset: str
    system: str
    classifier: str
    setting: str
    attack: str
    norm: str | None
    eps: float | None
    clean: float | None
    robust: float
    n: int | None
    source: str
    doubtful: str

    @property
    def steps(self) -> int | None:
        """Steps that the attack's name states, 20 in gPGD20 and in BPDA20-det; None: it states none."""
        match = re.match(r"[A-Za-z]+(\d+)", self.attack)
        return int(match[1]) if match else None

    def label(self, description: str = "") -> str:
        """Source and circumstances, without the settings that the description of a system confirms already."""
        unconfirmed = [part for part in self.setting.split() if part not in assignments(description)]
        return ", ".join(part for part in (self.source, self.classifier, " ".join(unconfirmed)) if part)


@cache
def all_published() -> tuple[Published, ...]:
    """Every row of published.csv."""
    with open(FILE, encoding="utf-8", newline="") as file:
        return tuple(_parse(row) for row in csv.DictReader(file))


def _parse(row: dict[str, str]) -> Published:
    return Published(
        **{name: row[name] for name in ("dataset", "system", "classifier", "setting", "attack", "source", "doubtful")},
        norm=row["norm"] or None,
        eps=float(Fraction(row["eps"])) if row["eps"] else None,
        clean=float(row["clean"]) if row["clean"] else None,
        robust=float(row["robust"]),
        n=int(row["n"]) if row["n"] else None,
    )


def published(
    dataset: str, system: str, attack: str | None = None, norm: str | None = None, eps: float | None = None
) -> list[Published]:
    """What papers report for a system under an attack; the source's default setting first.

    Names are compared without case and punctuation, those of attacks also without norms and numbers that stand alone,
    so that "BPDA200-det linf" is BPDA200-det; Identity is `undefended`.

    Args:
        dataset: Name of a data module, `cifar10`.
        system: Class name of the purifier, or `undefended`.
        attack: Name of the attack; None: any.
        norm: `linf`, `l2` or `l1`; None: any.
        eps: Budget in pixel units; None: any.
    """
    return [
        cell
        for cell in all_published()
        if (cell.dataset, plain(cell.system)) == (dataset, plain("undefended" if system == "Identity" else system))
        and (attack is None or plain_attack(cell.attack) == plain_attack(attack))
        and (norm is None or cell.norm in (None, norm))
        and (eps is None or cell.eps is None or math.isclose(cell.eps, eps, rel_tol=1e-4))
    ]


def contradicts(cell: Published, description: str) -> bool:
    """Whether a system's description, "PurSAMERE(rho_pur=2, ...)", gives another value to a name in `setting`."""
    ours = dict(part.split("=", 1) for part in assignments(description))
    theirs = dict(part.split("=", 1) for part in assignments(cell.setting))
    return any(name in ours and ours[name] != value for name, value in theirs.items())


def assignments(text: str) -> list[str]:
    """The `name=value` pairs of a text whose values are numbers, written alike, or words."""
    pairs = re.findall(r"(\w+)=(?:(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|([A-Za-z]\w*))(?![\w.(])", text)
    return [f"{name}={float(number):g}" if number else f"{name}={word}" for name, number, word in pairs]


def plain(name: str) -> str:
    """Letters and digits of a name, in lower case."""
    return re.sub(r"[^a-z0-9+]", "", name.casefold())


def plain_attack(name: str) -> str:
    """`plain`, without words that only repeat the budget: "BPDA200-det linf 8/255" is bpda200det."""
    words = re.split(r"[\s,()_]+", name.casefold())
    return plain("".join(word for word in words if word not in NORMS and not re.fullmatch(r"(eps=?)?[\d./]*", word)))
