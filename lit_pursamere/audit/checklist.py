"""Could the attack have broken the defence? Run the checks, and write down what they found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lit_pursamere.audit.base import Audit, Trial
from lit_pursamere.audit.checks import CHECKS
from lit_pursamere.audit.examination import Examination, Finding, NotApplicable
from lit_pursamere.markdown import markdown_table
from lit_pursamere.progress import Progress
from lit_pursamere.report import Accuracy
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.store import ResultsFolder
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.weights import tensors_digest

__all__ = ["Checklist"]


@dataclass(frozen=True)
class Checklist(Audit):
    """Which checks to make, and how much they may cost.

    Args:
        attack: Name of the attack on trial among the configured ones (None: the last one that sees the purifier).
        images: Images to examine; those that the defence gets wrong anyway are left out.
        queries: Evaluations per image that attacks without gradients may spend.
        planted: Images of the binarization test.
        checks: Names of the checks (None: all).
        output: Folder of audit.md and of the verdicts, from which an audit that was stopped goes on.

    Raises:
        ValueError: If a number is too small or a check unknown.
    """

    queries: int = 200
    planted: int = 16
    checks: list[str] | None = None

    least = {"images": 1, "queries": 2, "planted": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := sorted(set(self.checks or ()) - CHECKS.keys()):
            raise ValueError(f"there is no check {', '.join(unknown)}; known: {', '.join(CHECKS)}")

    def run(self, trial: Trial) -> str:
        """Make the checks, and write audit.md.

        Raises:
            ValueError: If the folder holds another audit, or the defence gets no image right.
            OSError: If another run is writing there.
        """
        with ResultsFolder(self.output, self.manifest(trial)) as opened:
            checks, findings = self.checks or list(CHECKS), {}
            with Progress("audit", "check", len(checks), trial.hidden) as progress:
                exam = Examination(trial, self.queries, self.planted, opened.folder / "verdicts.json", progress)
                for check in checks:
                    findings[check] = examine(exam, check)
                    progress.advance(1)
            text = as_markdown(exam, findings)
            write_whole(opened.folder / "audit.md", text.encode())
            return text

    def manifest(self, trial: Trial) -> dict[str, object]:
        settings = {key: value for key, value in asdict(self).items() if key not in ("output", "checks", "attack")}
        return {
            "audit": settings,
            **super().manifest(trial),
            "images": {"count": len(trial.x), "digest": tensors_digest({"x": trial.x, "y": trial.y})},
            "evaluations": trial.evaluations,
            "batch": trial.batch,
            "seed": trial.seed,
        }


def examine(exam: Examination, check: str) -> Finding:
    """The finding of one check; `n/a` with the reason if it cannot be made."""
    try:
        with forked_randomness(exam.seed, check):
            return CHECKS[check](exam)
    except NotApplicable as reason:
        return Finding("n/a", str(reason))


def as_markdown(exam: Examination, findings: dict[str, Finding]) -> str:
    """Table of the findings, and what the attacks of the audit leave together."""
    rows = [(check, str(CHECKS[check].__doc__).splitlines()[0], f.verdict, f.detail) for check, f in findings.items()]
    lines = [
        f"Audit of {exam.name} ({type(exam.attack).__name__}, {exam.attack.budget}, view {exam.attack.view}) on "
        f"{len(exam)} images that {type(exam.defense.purifier).__name__} gets right",
        "",
        markdown_table(["check", "question", "verdict", "found"], rows),
        _summary(exam, list(findings.values())),
    ]
    if exam.defense.detector is not None:
        lines += ["", f"The detector {exam.defense.detector} is left out: nothing was rejected."]
    return "\n".join(lines) + "\n"


def _summary(exam: Examination, findings: Sequence[Finding]) -> str:
    counts = {verdict: sum(f.verdict == verdict for f in findings) for verdict in ("fail", "doubt", "pass", "n/a")}
    left = Accuracy(int(exam.left.sum()), len(exam))
    least = Accuracy(int((exam.left & ~exam.fallen).sum()), len(exam))
    return (
        f"{', '.join(f'{n} {verdict}' for verdict, n in counts.items())}. Of the examined images the attack on trial "
        f"leaves {left} %, all attacks of this audit within the same budget {least} %."
    )
