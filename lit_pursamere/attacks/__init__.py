"""Attacks: one family per file."""

from lit_pursamere.attacks.autoattack import AutoAttack
from lit_pursamere.attacks.autoattack_parts import APGD, FAB, Square
from lit_pursamere.attacks.base import Attack, Outcome
from lit_pursamere.attacks.detector_pgd import DetectorPGD
from lit_pursamere.attacks.foolbox_attacks import EAD, Boundary, CarliniWagnerL2, SaltAndPepper
from lit_pursamere.attacks.iterative import IterativeAttack
from lit_pursamere.attacks.mim import MIM
from lit_pursamere.attacks.pgd import PGD
from lit_pursamere.attacks.random_search import RandomSearch
from lit_pursamere.attacks.reconstruction_pgd import ReconstructionPGD
from lit_pursamere.attacks.selective_pgd import SelectivePGD
from lit_pursamere.attacks.spsa import SPSA
from lit_pursamere.attacks.transfer import Transfer
from lit_pursamere.attacks.worst_case import Restarts, WorstCase
from lit_pursamere.attacks.wrapped import Wrapped

__all__ = [
    "APGD",
    "EAD",
    "FAB",
    "MIM",
    "PGD",
    "SPSA",
    "Attack",
    "AutoAttack",
    "Boundary",
    "CarliniWagnerL2",
    "DetectorPGD",
    "IterativeAttack",
    "Outcome",
    "RandomSearch",
    "ReconstructionPGD",
    "Restarts",
    "SaltAndPepper",
    "SelectivePGD",
    "Square",
    "Transfer",
    "WorstCase",
    "Wrapped",
]
