"""Audit: could this attack have broken this defence? A verdict for every item of the field's checklists."""

from lit_pursamere.audit.binarization import plant
from lit_pursamere.audit.checks import CHECKS
from lit_pursamere.audit.examination import Examination, Finding
from lit_pursamere.audit.run import Audit, run_audit

__all__ = ["CHECKS", "Audit", "Examination", "Finding", "plant", "run_audit"]
