"""Attacks: one family per file."""

from lit_pursamere.attacks.base import Attack, IterativeAttack, Outcome
from lit_pursamere.attacks.pgd import PGD

__all__ = ["PGD", "Attack", "IterativeAttack", "Outcome"]
