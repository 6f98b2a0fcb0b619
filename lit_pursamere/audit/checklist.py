"""Could the attack have broken the defence? Run the checks, and write down what they found.

FOLDER/audit.md     the findings to read
FOLDER/audit.json   the same for programs: paragraphs, and tables as rows of cells, the head first
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import get_args

from lit_pursamere.audit.base import Answer, Audit, Trial
from lit_pursamere.audit.checks import CHECKS
from lit_pursamere.audit.examination import Examination, Finding, NotApplicable, Verdict
from lit_pursamere.markdown import markdown_table
from lit_pursamere.progress import Progress
from lit_pursamere.report import Accuracy
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.store import ResultsFolder
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.weights import tensors_digest

__all__ = ["Checklist"]

HEAD = ["check", "question", "verdict", "found"]
Part = str | list[list[str]]  # a paragraph, or a table


@dataclass(frozen=True)
class Checklist(Audit):
    """Which checks to make, and how much they may cost.

    Args:
        attack: Name of the attack on trial among the configured ones (None: the last one that sees the purifier).
        images: Images to examine; those that the defence gets wrong anyway are left out.
        queries: Evaluations per image that attacks without gradients may spend.
        planted: Images of the binarization test.
        checks: Names of the checks (None: all).
        output: Folder of audit.md, audit.json and the verdicts, from which an audit that was stopped goes on.

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

    def run(self, trial: Trial) -> Answer:
        """Make the checks, and write audit.md and audit.json.

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
            parts = parts_of(exam, findings)
            text = as_markdown(parts)
            write_whole(opened.folder / "audit.md", text.encode())
            write_whole(opened.folder / "audit.json", (json.dumps(parts, indent=1) + "\n").encode())
            return Answer(text, counted(findings.values()))

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


def parts_of(exam: Examination, findings: dict[str, Finding]) -> list[Part]:
    """What was asked, the table of the findings, and what the attacks of the audit leave together."""
    rows = [[check, str(CHECKS[check].__doc__).splitlines()[0], f.verdict, f.detail] for check, f in findings.items()]
    left = Accuracy(int(exam.left.sum()), len(exam))
    least = Accuracy(int((exam.left & ~exam.fallen).sum()), len(exam))
    asked = (
        f"Audit of {exam.name} ({type(exam.attack).__name__}, {exam.attack.budget}, view {exam.attack.view}) on "
        f"{len(exam)} images that {type(exam.defense.purifier).__name__} gets right"
    )
    summary = (
        f"{counted(findings.values())}. Of the examined images the attack on trial leaves {left} %, all attacks of "
        f"this audit within the same budget {least} %."
    )
    detector = exam.defense.detector
    said = [] if detector is None else [f"The detector {detector} is left out: nothing was rejected."]
    return [asked, [HEAD, *rows], summary, *said]


def as_markdown(parts: Sequence[Part]) -> str:
    """Paragraphs and tables with an empty line between two."""
    texts = [part if isinstance(part, str) else markdown_table(part[0], part[1:]).rstrip("\n") for part in parts]
    return "\n\n".join(texts) + "\n"


def counted(findings: Iterable[Finding]) -> str:
    """How many checks ended how, in words."""
    verdicts = [finding.verdict for finding in findings]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in get_args(Verdict))
