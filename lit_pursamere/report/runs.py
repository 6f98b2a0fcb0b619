"""Runs: a folder of records with its manifest, whether it is complete, and whether runs can stand in one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lit_pursamere.report.verdicts import CLEAN, SEMANTICS
from lit_pursamere.store.manifest import differing, read_manifest, require_stated
from lit_pursamere.store.records import Row, read_rows

__all__ = [
    "FREE",
    "AttackInfo",
    "Run",
    "check_comparable",
    "differences",
    "flat",
    "labels_of",
    "read_runs",
    "run_of",
    "told",
]

FREE = ("systems", "defenses", "weights", "attacks", "output")  # what runs of one table may differ in


@dataclass(frozen=True)
class AttackInfo:
    """What a manifest says of an attack; empty where no manifest describes it.

    Args:
        settings: `Attack.settings`.
    """

    settings: dict = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Class of the attack; empty: not stated."""
        return self.settings.get("class", "")

    @property
    def view(self) -> str | None:
        """The view that it differentiates; None: not stated."""
        return self.settings.get("view")

    @property
    def norm(self) -> str | None:
        """Norm of its budget; None: not stated."""
        return self.settings.get("threat", {}).get("norm")

    @property
    def eps(self) -> float | None:
        """Its budget in pixel units; None: not stated."""
        return self.settings.get("threat", {}).get("eps")

    @property
    def steps(self) -> int | None:
        """Its steps; None: it has none of its own."""
        return self.settings.get("steps")

    @property
    def budget(self) -> str:
        """The budget as one writes it, "linf 8/255"; empty where it is not stated."""
        return budget_text(self.norm, self.eps)


def budget_text(norm: str | None, eps: float | None) -> str:
    """A budget as one writes it, "linf 8/255"; empty where it is not stated."""
    return "" if norm is None or eps is None else f"{norm} {eps_text(eps)}"


def eps_text(eps: float) -> str:
    """A budget as one writes it: 8/255 where it is a whole number of grey levels below a tenth, else a decimal."""
    levels = eps * 255
    whole = 0.5 < levels < 26 and math.isclose(levels, round(levels), rel_tol=1e-6)
    return f"{round(levels)}/255" if whole else f"{eps:.4g}"


@dataclass(frozen=True)
class Run:
    """An evaluation as the report sees it.

    Args:
        folder: Where it lives.
        manifest: What was evaluated, see `checked`.
        rows: Its records.
        label: Its name beside other runs.
    """

    folder: Path
    manifest: dict = field(repr=False)
    rows: list[Row] = field(repr=False)
    label: str = ""

    @property
    def success(self) -> str:
        """The headline semantics, one of SEMANTICS."""
        success = self.manifest.get("success", "any")
        if success not in SEMANTICS:
            raise ValueError(f"success in the manifest of {self.folder} must be one of {', '.join(SEMANTICS)}; "
                             f"got {success!r}")  # fmt: skip
        return success

    @property
    def data(self) -> str:
        """Which images, "digits, test images"; empty if the manifest does not say."""
        return str(self.manifest.get("data", ""))

    @property
    def dataset(self) -> str:
        """Name of the data module, "digits"."""
        return self.data.split(",")[0]

    @property
    def images(self) -> int:
        """How many images the evaluation is about."""
        return self.manifest["images"]["count"]

    @property
    def evaluations(self) -> int:
        """How many verdicts an image got, at most."""
        return max((int(row["evaluations"]) for row in self.rows), default=1)

    @cached_property
    def missing(self) -> dict[tuple[str, str], int]:
        """How many images each (system, attack) still lacks; empty if it is complete."""
        counts = {(system, attack): 0 for system in self.systems for attack in (CLEAN, *self.attacks)}
        for row in self.rows:
            counts[str(row["system"]), str(row["attack"])] += 1
        return {key: self.images - count for key, count in counts.items() if count < self.images}

    def description(self, system: str) -> str:
        """What the manifest says of a system, "PurSAMERE(rho_pur=3, ...)"; empty if nothing."""
        return str(self.manifest.get("systems", {}).get(system, ""))

    @property
    def system(self) -> str:
        """The system that the manifest names first, the class of the purifier; empty if it names none."""
        return next(iter(self.manifest.get("systems", {})), "")

    def purifier(self, system: str) -> dict:
        """Settings of the purifier of a system; empty where none are stated."""
        return self.manifest.get("defenses", {}).get(system, {}).get("purifier", {})

    def settings(self, system: str, attack: str) -> dict[str, object]:
        """What a number depends on, by dotted name: settings of the purifier, and those of the attack, `attack.eot`."""
        return flat({**self.purifier(system), "attack": self.attacks[attack].settings})

    @cached_property
    def attacks(self) -> dict[str, AttackInfo]:
        """Attacks in the order of the manifest; without `clean`."""
        return {name: AttackInfo(entry) for name, entry in self.manifest["attacks"].items()}

    @cached_property
    def systems(self) -> list[str]:
        """Systems, the undefended one first, then by name."""
        return sorted(self.manifest["systems"], key=lambda name: (name != "undefended", name))


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read the folders of evaluations; each is labelled by as much of the end of its path as makes it unique.

    Raises:
        FileNotFoundError: If a folder holds no records.
        ValueError: If a folder is given twice, or its manifest or its records are damaged.
    """
    paths = [Path(folder) for folder in folders]
    whole = [path.resolve() for path in paths]
    for path, place in zip(paths, whole, strict=True):
        if whole.count(place) > 1:
            raise ValueError(f"{path} is given twice; name every run once")
    return [read_run(path, label) for path, label in zip(paths, labels_of(whole), strict=True)]


def labels_of(folders: Sequence[Path]) -> list[str]:
    """As much of the end of the path of each folder as tells it from the others, which are other ones."""
    whole, depth = [folder.resolve() for folder in folders], 1
    while len({place.parts[-depth:] for place in whole}) < len(whole):
        depth += 1
    return ["/".join(place.parts[-depth:]) for place in whole]


def read_run(path: Path, label: str) -> Run:
    """Read the folder of an evaluation.

    Raises:
        FileNotFoundError: If it holds no records.
        ValueError: If its manifest or its records are damaged, or do not belong together.
    """
    manifest = read_manifest(path)
    if manifest is not None:
        require_described(path, manifest)  # what it lacks, rather than that its rows are of another run
    rows = read_rows(path)
    if manifest is None:
        raise ValueError(f"{path} has records, but no manifest.json that says of what; restore that file")
    return checked(Run(path, manifest, rows, label))


def run_of(folder: Path, label: str, manifest: dict) -> Run:
    """The run in a folder, with or without records; errors as `read_run` raises them."""
    try:
        rows = read_rows(folder)
    except FileNotFoundError:
        rows = []
    return checked(Run(folder, manifest, rows, label))


def checked(run: Run) -> Run:
    """The run, if its manifest says what was evaluated, and its rows are of that."""
    folder, manifest = run.folder, run.manifest
    require_described(folder, manifest)
    for row in run.rows:
        for kind, known in (("system", manifest["systems"]), ("attack", (CLEAN, *manifest["attacks"]))):
            if row[kind] not in known:
                raise ValueError(f"{folder} has a row of the {kind} {row[kind]!r}, which its manifest does not state")
    return run


def require_described(folder: Path, manifest: dict) -> None:
    """Raise ValueError unless a manifest says what was evaluated."""
    require_stated(folder, manifest, "data", "images.count", "systems", "attacks")
    require_stated(folder, manifest, *(f"weights.{name}" for name in manifest["systems"]))


def differences(runs: Sequence[Run], free: Sequence[str] = FREE) -> list[str]:
    """What keeps runs from standing in one table, "seed: 0 in a, 1 in b"; the entries `free` may differ."""
    found = differing(*({key: value for key, value in run.manifest.items() if key not in free} for run in runs))
    return [told(key, values, runs) for key, values in found.items()]


def told(what: str, values: Sequence[object], runs: Sequence[Run]) -> str:
    """The value of each run, "seed: 0 in a, 1 in b"."""
    return f"{what}: " + ", ".join(f"{value!r} in {run.label}" for value, run in zip(values, runs, strict=True))


def flat(settings: dict, prefix: str = "") -> dict[str, object]:
    """The values of nested dictionaries, and of lists of them, by dotted names: "images.count", "attacks.0.eot"."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs whose numbers do not compare.

    Raises:
        ValueError: If manifests differ in anything but systems and attacks; the message names the differences.
    """
    if found := differences(runs):
        raise ValueError(
            f"these runs do not compare: {'; '.join(found)}. Report them one by one, or say --mix to see them in one "
            "table, labelled by run"
        )
