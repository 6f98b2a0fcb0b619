"""Audit: could this attack have broken this defence? A verdict for every item of the field's checklists."""

from lit_pursamere.audit.binarization import plant
from lit_pursamere.audit.checks import CHECKS
from lit_pursamere.audit.examination import Examination, Finding
from lit_pursamere.audit.run import Audit, choose_attack, run_audit
from lit_pursamere.audit.similarity import Similarity, run_similarity

__all__ = [
    "CHECKS",
    "Audit",
    "Examination",
    "Finding",
    "Similarity",
    "choose_attack",
    "plant",
    "run_audit",
    "run_similarity",
]
