"""Certified accuracy over the radius, and what attacks on the same smoothed classifier came to at these budgets.

Reference: Cohen, Rosenfeld, Kolter (2019), section 4: the share of images that CERTIFY gives their true class with a
radius of at least r, its "approximate certified accuracy".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_pursamere.report.report import make_report
from lit_pursamere.report.runs import Run, labels_of
from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.report.verdicts import CLEAN
from lit_pursamere.store.certificates import read_certificates
from lit_pursamere.store.durable import Row

__all__ = ["Attacked", "Certified", "attacked_of", "radii_of", "read_certified"]

STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0)  # between radii of a table
COLUMNS = 8  # radii of a table, about


@dataclass(frozen=True)
class Certified:
    """A certification as the report sees it.

    Args:
        folder: Where it lives.
        manifest: What was certified.
        rows: Its certificates.
        label: Its name beside others.
    """

    folder: Path
    manifest: dict = field(repr=False)
    rows: list[Row] = field(repr=False)
    label: str = ""

    @property
    def sigmas(self) -> list[float]:
        """The noise levels of which there are certificates, in the order of the manifest."""
        known = {row["sigma"] for row in self.rows}
        return [sigma for sigma in self.settings["sigmas"] if sigma in known]

    @property
    def settings(self) -> dict:
        """Noise levels, numbers of draws and alpha."""
        return self.manifest["certification"]

    @property
    def images(self) -> int:
        """How many images the certification is about."""
        return self.manifest["images"]["count"]

    def of(self, sigma: float) -> list[Row]:
        """The certificates at a noise level."""
        return [row for row in self.rows if row["sigma"] == sigma]

    def accuracy(self, sigma: float, radius: float) -> Accuracy:
        """Images whose true class is certified with a radius of at least this one."""
        rows = self.of(sigma)
        return Accuracy(sum(radius_of(row) >= radius for row in rows), len(rows))

    def clean(self, sigma: float) -> Accuracy:
        """Images that the smoothed classifier gets right, by PREDICT; one that abstains does not."""
        rows = self.of(sigma)
        return Accuracy(sum(row["prediction"] == row["label"] for row in rows), len(rows))

    def abstained(self, sigma: float) -> int:
        """Images of which nothing is certified."""
        return sum(row["radius"] is None for row in self.of(sigma))

    def mean_radius(self, sigma: float) -> float:
        """Mean certified radius, 0 where the class is wrong or nothing is certified."""
        rows = self.of(sigma)
        return sum(max(radius_of(row), 0.0) for row in rows) / len(rows)

    @property
    def headline(self) -> str:
        """Clean and certified accuracy in a line."""
        parts = [
            f"{'' if len(self.sigmas) == 1 else f'sigma {sigma:g}: '}clean {self.clean(sigma)} %, certified "
            f"{self.accuracy(sigma, 0.0)} %, mean radius {self.mean_radius(sigma):.3f}"
            for sigma in self.sigmas
        ]
        return f"{'; '.join(parts)} of {len(self.of(self.sigmas[0]))} images"


@dataclass(frozen=True)
class Attacked:
    """What attacks in l2 on one system left of it.

    Args:
        run: The test.
        system: Name of the system in it.
        sigma: Noise level, if its purifier begins with noise.
        points: Accuracy under the strongest attack of each budget, by budget; 0: clean.
    """

    run: Run
    system: str
    sigma: float | None
    points: dict[float, Accuracy]


def radius_of(row: Row) -> float:
    """The radius with which the true class of an image is certified; below 0: it is not."""
    return row["radius"] if row["selected"] == row["label"] and row["radius"] is not None else -1.0


def read_certified(folder: Path, label: str = "") -> Certified:
    """Read the folder of a certification.

    Raises:
        FileNotFoundError: If it holds no certificates.
        ValueError: If its manifest or its certificates are damaged, or do not belong together.
    """
    return Certified(folder, *read_certificates(folder), label or labels_of([folder])[0])


def attacked_of(folders: Sequence[Path]) -> list[Attacked]:
    """What attacks in l2 left, system by system, in the folders of tests.

    Raises:
        FileNotFoundError: If a folder holds no records.
        ValueError: If a folder is damaged, or none of its attacks has an l2 budget.
    """
    found: list[Attacked] = []
    report = make_report(folders, mix=True) if folders else None
    for run in report.runs if report else ():
        inside = {name: info.eps for name, info in run.attacks.items() if info.norm == "l2" and info.eps is not None}
        if not inside:
            raise ValueError(f"{run.folder} has no attack in l2, which alone is beside these certificates")
        for system in run.systems:
            points: dict[float, Accuracy] = {}
            for line in report.lines if report else ():
                eps = 0.0 if line.attack == CLEAN else inside.get(line.attack)
                if line.run is run and line.system == system and eps is not None:
                    points[eps] = min(points.get(eps, line.headline), line.headline, key=lambda one: one.value)
            settings = run.purifier(system)
            smooth = settings.get("class") in ("DenoisedSmoothing", "SmoothedPurifier")
            found.append(Attacked(run, system, float(settings["sigma"]) if smooth else None, points))
    return found


def radii_of(runs: Sequence[Certified], attacked: Sequence[Attacked]) -> list[float]:
    """Radii for a table, in pixel units: even steps up to the largest certificate, and the budgets of attacks."""
    largest = max((radius_of(row) for run in runs for row in run.rows), default=0.0)
    step = next((step for step in STEPS if step * COLUMNS >= largest), STEPS[-1])
    even = [step * k for k in range(int(largest / step + 1e-9) + 1)]
    return sorted({round(radius, 6) for radius in (*even, *(eps for one in attacked for eps in one.points))})
