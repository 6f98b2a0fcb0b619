"""The runs below folders: what each is about, how it ended, and in what several differ.

Nothing that is found is built or imported: manifests, records and starts are data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lit_pursamere.report.attached import starts
from lit_pursamere.report.certified import Certified, read_certified
from lit_pursamere.report.lines import lines_of
from lit_pursamere.report.runs import Run, run_of
from lit_pursamere.store.certificates import Certificates
from lit_pursamere.store.manifest import NAME, differing, read_manifest
from lit_pursamere.store.records import Records

__all__ = ["HEAD", "Found", "differing_settings", "find_runs"]

HEAD = ("run", "data", "purifier", "attacks", "n", "worst case", "complete", "date")
WIDEST = 24  # letters of a value in a table of settings


@dataclass(frozen=True)
class Found:
    """A folder with the manifest of a test or a certification.

    Args:
        row: A text for each of HEAD.
        run: The run; None: it cannot be read, or is a certification.
        problem: Why not.
    """

    row: tuple[str, ...]
    run: Run | None = None
    problem: str = ""


def find_runs(folder: Path) -> Iterator[Found]:
    """Tests and certifications in a folder and those below it, by name; hidden folders and links are not followed.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; name one that holds runs of `lit-pursamere test`")
    for place, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if NAME in files:
            yield from _found(Path(place))


def _found(folder: Path) -> Iterator[Found]:
    try:
        manifest = read_manifest(folder) or {}
        if {"systems", "attacks"} <= manifest.keys():  # of a test, not of images or an audit
            run = run_of(folder, str(folder), manifest)
            yield Found(_row(run), run)
        elif "certification" in manifest and Certificates.has_rows(folder):
            yield Found(_certified_row(read_certified(folder, str(folder))))
    except (OSError, ValueError) as error:
        if Records.has_rows(folder) or Certificates.has_rows(folder):  # others call files so, too
            yield Found((str(folder), *[""] * (len(HEAD) - 3), "unreadable", ""), problem=str(error))


def _row(run: Run) -> tuple[str, ...]:
    own = [line for line in lines_of(run) if line.system == run.system]
    worst = own[-1].headline.text() if own else ""
    if own and not run.attacks:
        worst = f"{worst} (clean)"
    attacks = ", ".join(run.attacks)
    return (run.label, run.data, run.system, attacks, str(run.images), worst, _completeness(run), _date(run))


def _certified_row(run: Certified) -> tuple[str, ...]:
    """What no attack can undo: the share that is certified at all, at the first noise level."""
    system, sigma = next(iter(run.manifest.get("systems", {}).values()), ""), run.sigmas[0]
    missing = run.images * len(run.settings["sigmas"]) - len(run.rows)
    return (
        run.label, str(run.manifest["data"]), system.partition("(")[0],
        "certify, sigma " + ", ".join(f"{s:g}" for s in run.sigmas),
        str(run.images), f"{run.accuracy(sigma, 0.0).text()} (certified)",
        f"{missing} certificates missing" if missing else "yes", _written(Certificates.files(run.folder)),
    )  # fmt: skip


def _completeness(run: Run) -> str:
    if not run.rows:
        return "no records yet"
    missing = sum(run.missing.values())
    return f"{missing} verdicts missing" if missing else "yes"


def _date(run: Run) -> str:
    """When a run was started last, or else when its records were written."""
    told = [start["time"] for start in starts(run) if "time" in start]
    if told:
        return told[-1][:16].replace("T", " ")
    return _written(Records.files(run.folder))


def _written(files: Iterable[Path]) -> str:
    """When files were written last."""
    times = [file.stat().st_mtime for file in files]
    return datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d %H:%M") if times else ""


def differing_settings(runs: Iterable[Run]) -> list[tuple[str, ...]]:
    """What manifests state otherwise: the dotted name of a setting, and its value in every run, "-" where it has none.

    Descriptions of systems, which repeat their settings, are left out.
    """
    found = differing(*({k: v for k, v in run.manifest.items() if k != "systems"} for run in runs))
    return [(name, *map(_value, values)) for name, values in found.items()]


def _value(value: object) -> str:
    """A value in a table of many: of a group of settings its class, of a digest the beginning."""
    if isinstance(value, dict):
        return str(value.get("class", "given"))
    text = "-" if value is None else str(value)
    return text if len(text) <= WIDEST else f"{text[:WIDEST]}..."
