"""Audit: could this attack have broken this defence, by the field's checklists; how many draws does EoT need; and what
does an attacker see who knows the noise?"""

from lit_pursamere.audit.base import Answer, Audit, Trial, choose_attack
from lit_pursamere.audit.binarization import plant
from lit_pursamere.audit.checklist import Checklist
from lit_pursamere.audit.checks import CHECKS
from lit_pursamere.audit.directions import Directions
from lit_pursamere.audit.examination import Examination, Finding
from lit_pursamere.audit.landscape import Landscape
from lit_pursamere.audit.similarity import Similarity

__all__ = [
    "CHECKS",
    "Answer",
    "Audit",
    "Checklist",
    "Directions",
    "Examination",
    "Finding",
    "Landscape",
    "Similarity",
    "Trial",
    "choose_attack",
    "plant",
]
