"""Run the checks on a defence under one of its attacks, and write down what they found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from lit_pursamere.attacks import Attack
from lit_pursamere.audit.checks import CHECKS
from lit_pursamere.audit.examination import Examination, Finding, NotApplicable
from lit_pursamere.defense import Defense
from lit_pursamere.progress import Progress
from lit_pursamere.report import Accuracy
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.locks import FolderLock
from lit_pursamere.store.manifest import check_manifest, write_manifest
from lit_pursamere.weights import state_digest, tensors_digest

__all__ = ["Audit", "choose_attack", "run_audit"]


@dataclass(frozen=True)
class Audit:
    """What to audit, and how much it may cost.

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

    attack: str | None = None
    images: int = 32
    queries: int = 200
    planted: int = 16
    checks: list[str] | None = None
    output: str = "runs/audit"

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("queries", 2), ("planted", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"Audit needs {name} >= {least}; got {getattr(self, name)}")
        if unknown := sorted(set(self.checks or ()) - CHECKS.keys()):
            raise ValueError(f"there is no check {', '.join(unknown)}; known: {', '.join(CHECKS)}")


def choose_attack(name: str | None, attacks: dict[str, Attack]) -> str:
    """Name of the attack that is meant: the last one that sees the purifier, if none is named.

    Raises:
        ValueError: If there is no such attack.
    """
    if not attacks:
        raise ValueError("an attack is needed; the configuration has none")
    if name is None:
        seeing = [name for name, attack in attacks.items() if attack.view != "gray"]
        return (seeing or list(attacks))[-1]
    if name not in attacks:
        raise ValueError(f"the configuration has no attack {name!r}; it has {', '.join(attacks)}")
    return name


def run_audit(
    audit: Audit, defense: Defense, name: str, attack: Attack, x: Tensor, y: Tensor, evaluations: int = 1,
    batch: int = 64, seed: int = 0, data: str = "", hidden: bool = True,
) -> str:  # fmt: skip
    """Run the checks, write `audit.md` into the output folder, and return it.

    Args:
        audit: What to do.
        defense: The defence.
        name: Name of the attack on trial.
        attack: The attack on trial.
        x: Images (B, C, H, W) in [0, 1].
        y: Their classes (B,).
        evaluations: Verdicts per image.
        batch: Images that are attacked at once.
        seed: Seed of random points and of noise that is drawn anew.
        data: Name of the images.
        hidden: Whether to keep progress to oneself.

    Raises:
        ValueError: If the folder holds another audit, or the defence gets no image right.
        OSError: If another audit is writing there.
    """
    folder = Path(audit.output)
    settings = {key: value for key, value in asdict(audit).items() if key not in ("output", "checks", "attack")}
    manifest = {
        "audit": settings, "attack": attack.settings, "defense": defense.settings, "weights": state_digest(defense),
        "data": data, "images": {"count": len(x), "digest": tensors_digest({"x": x, "y": y})},
        "evaluations": evaluations, "batch": batch, "seed": seed,
    }  # fmt: skip
    lock = FolderLock(folder)
    try:
        if not check_manifest(folder, manifest):
            write_manifest(folder, manifest)
        checks, findings = audit.checks or list(CHECKS), {}
        with Progress("audit", "check", len(checks), hidden) as progress:
            exam = Examination(
                defense, attack, x, y, evaluations, batch, audit.queries, audit.planted, seed,
                store=folder / "verdicts.json", progress=progress,
            )  # fmt: skip
            for check in checks:
                findings[check] = examine(exam, check)
                progress.advance(1)
        text = as_markdown(exam, name, findings)
        write_whole(folder / "audit.md", text.encode())
        return text
    finally:
        lock.release()


def examine(exam: Examination, check: str) -> Finding:
    """The finding of one check; `n/a` with the reason if it cannot be made."""
    try:
        with forked_randomness(exam.seed, check):
            return CHECKS[check](exam)
    except NotApplicable as reason:
        return Finding("n/a", str(reason))


def as_markdown(exam: Examination, name: str, findings: dict[str, Finding]) -> str:
    """Table of the findings, and what the attacks of the audit leave together."""
    lines = [
        f"Audit of {name} ({type(exam.attack).__name__}, {exam.attack.threat}, view {exam.attack.view}) on "
        f"{len(exam)} images that {type(exam.defense.purifier).__name__} gets right",
        "",
        "| check | question | verdict | found |",
        "| --- | --- | --- | --- |",
        *(
            f"| {check} | {CHECKS[check].__doc__.splitlines()[0]} | {finding.verdict} | {finding.detail} |"
            for check, finding in findings.items()
        ),
        "",
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
