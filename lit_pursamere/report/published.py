"""Numbers that papers report, to stand beside ours: published.csv and its reader.

A row is one cell of a published table: a system under one attack. Empty means that the source does not say. `doubtful`
says what speaks against a number: a slip in the table, or a label that hides another protocol. The first row of
several for one question is the source's default setting.

`setting` holds what else the source states, `name=value` pairs by the names of our constructors: of the purifier, and
with `attack.` before them of the attack; dotted names lead into nested settings (`sigmas.count`). `noise` is what
attackers know of it. `training` names what a score model has only if its weights say so: fine-tuning by ADDT, ADBM's
bridge, MALADE's supervised autoencoder; `process` what none of our purifiers has. An NFE of n in the tables of Liu et
al. is steps = 10 n at t_star 100; where they label a row by steps that its clean accuracy contradicts, the clean
accuracy decides.

A row whose attack is FID holds that distance of samples in the place of an accuracy; its system is no purifier, so it
stands beside no run.

Sources: Hoang et al. 2026 (PurSAMERE; its rivals in Table 2 are of the ICLR paper of Liu et al. 2025, those in Table 3
of ADBM's, Li et al. 2025, both at second hand), Liu et al. 2025 (ADDT) in the anonymous version, whose tables may
differ from the conference's, Zhang et al. 2024 (COUP), Srinivasan et al. 2021 (MALADE).
"""

from __future__ import annotations

import csv
import math
import os
import re
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cache
from pathlib import Path

from lit_pursamere.report.runs import Run, budget_text

__all__ = ["Published", "all_published", "differences", "published", "same_classifier"]

FILE = Path(__file__).with_name("published.csv")
NORMS = ("linf", "l2", "l1")
UNSTATED = "not stated"


@dataclass(frozen=True)
class Published:
    """One published cell.

    Args:
        dataset: Name as of our data modules, `cifar10`.
        system: Class name of the purifier, or `undefended`.
        classifier: The classifier behind it.
        setting: What else the source states, "steps=1000 attack.eot=10".
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
    def settings(self) -> dict[str, str]:
        """`setting` by name."""
        return dict(pair.split("=") for pair in self.setting.split())

    @property
    def budget(self) -> str:
        """The budget as one writes it, "linf 8/255"; empty if there is none."""
        return budget_text(self.norm, self.eps)

    @property
    def label(self) -> str:
        """Source and classifier."""
        return ", ".join(part for part in (self.source, self.classifier) if part)


@cache
def all_published() -> tuple[Published, ...]:
    """Every row of published.csv, and of the file that the environment variable LIT_PURSAMERE_PUBLISHED names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has other columns, or a row of it is wrong.
    """
    own = os.environ.get("LIT_PURSAMERE_PUBLISHED")
    return tuple(cell for file in (FILE, *([Path(own)] if own else [])) for cell in _read(file))


def _read(file: Path) -> list[Published]:
    with open(file, encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        if sorted(rows.fieldnames or ()) != sorted(field.name for field in fields(Published)):
            raise ValueError(f"{file} needs the columns {', '.join(field.name for field in fields(Published))}")
        try:
            return [_parse(row) for row in rows]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}, line {rows.line_num}: {error}") from error


def _parse(row: dict[str, str]) -> Published:
    return Published(
        **{name: row[name] for name in ("dataset", "system", "classifier", "setting", "attack", "source", "doubtful")},
        norm=row["norm"] or None,
        eps=float(Fraction(row["eps"])) if row["eps"] else None,
        clean=float(row["clean"]) if row["clean"] else None,
        robust=float(row["robust"]),
        n=int(row["n"]) if row["n"] else None,
    )


def published(system: str, attack: str) -> list[Published]:
    """What papers report for a system under an attack, by their names; the source's default setting first.

    Names are compared without case and punctuation, those of attacks also without norms and numbers that stand alone,
    so that "BPDA200-det linf" is BPDA200-det; Identity is `undefended`.

    Args:
        system: Class name of the purifier, or `undefended`.
        attack: Name of the attack.
    """
    return [
        cell
        for cell in all_published()
        if plain(cell.system) == plain_system(system) and plain_attack(cell.attack) == plain_attack(attack)
    ]


def differences(cell: Published, run: Run, system: str, attack: str) -> dict[str, str]:
    """In what a published number answers another question than a run: whatever its source states otherwise.

    Args:
        cell: The published number.
        run: The run.
        system: Name of its system.
        attack: Name of its attack.

    Returns:
        By name (`dataset`, `budget`, and settings as in `setting`) both values, "steps=1000 there, 100 here"; empty if
        all that the source states holds for the run.
    """
    ours, info = run.settings(system, attack), run.attacks[attack]
    found = {}
    if cell.dataset != run.dataset:
        found["dataset"] = f"{cell.dataset} there, {run.dataset or UNSTATED} here"
    if cell.budget and not (cell.norm == info.norm and math.isclose(cell.eps or 0, info.eps or 0, rel_tol=1e-4)):
        found["budget"] = f"{cell.budget} there, {info.budget or UNSTATED} here"
    for name, theirs in cell.settings.items():
        value = ours.get(name, ours.get(f"{name}.class", ours.get(f"score_model.{name}", UNSTATED)))
        if not agree(theirs, value):
            found[name] = f"{name}={theirs} there, {written(value)} here"
    return found


def same_classifier(cell: Published, run: Run) -> bool:
    """Whether the label of a run names the classifier of a published number, as "MALADE CNN" names CNN."""
    return plain(cell.classifier) in map(plain, re.findall(r"[^\s+()/]+", run.label))


def agree(theirs: str, ours: object) -> bool:
    """Whether a value of `setting` is the value of a setting of ours; `none` is also what we do not state."""
    if isinstance(ours, int | float) and not isinstance(ours, bool):
        return is_number(theirs) and math.isclose(float(theirs), ours, rel_tol=1e-6)
    return theirs.casefold() == written(ours).casefold() or (theirs == "none" and ours == UNSTATED)


def written(value: object) -> str:
    """A value of a setting of ours as `setting` writes it."""
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def is_number(text: str) -> bool:
    """Whether a text is a decimal number."""
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text) is not None


def plain(name: str) -> str:
    """Letters and digits of a name, in lower case."""
    return re.sub(r"[^a-z0-9+]", "", name.casefold())


def plain_system(name: str) -> str:
    """`plain`; Identity is `undefended`."""
    return "undefended" if name == "Identity" else plain(name)


def plain_attack(name: str) -> str:
    """`plain`, without words that only repeat the budget: "BPDA200-det linf 8/255" is bpda200det."""
    words = re.split(r"[\s,()_]+", name.casefold())
    return plain("".join(word for word in words if word not in NORMS and not re.fullmatch(r"(eps=?)?[\d./]*", word)))
