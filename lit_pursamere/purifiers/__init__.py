"""Purifiers: one paper per file."""

from lit_pursamere.purifiers.adbm import ADBM
from lit_pursamere.purifiers.adp import ADP
from lit_pursamere.purifiers.base import Identity, Purifier
from lit_pursamere.purifiers.coup import COUP
from lit_pursamere.purifiers.ddpm import DP_DDIM, DP_DDPM
from lit_pursamere.purifiers.diffpure import DiffPure
from lit_pursamere.purifiers.diffpure_ld import DiffPureLD
from lit_pursamere.purifiers.edm import DP_EDM
from lit_pursamere.purifiers.extra_corrector import ExtraCorrector
from lit_pursamere.purifiers.gdmp import GDMP
from lit_pursamere.purifiers.langevin import Langevin
from lit_pursamere.purifiers.likelihood import LikelihoodMaximisation
from lit_pursamere.purifiers.malade import MALADE
from lit_pursamere.purifiers.pursamere import PurSAMERE, Trajectory
from lit_pursamere.purifiers.smoothing import DenoisedSmoothing

__all__ = [
    "ADBM",
    "ADP",
    "COUP",
    "DP_DDIM",
    "DP_DDPM",
    "DP_EDM",
    "GDMP",
    "MALADE",
    "DenoisedSmoothing",
    "DiffPure",
    "DiffPureLD",
    "ExtraCorrector",
    "Identity",
    "Langevin",
    "LikelihoodMaximisation",
    "PurSAMERE",
    "Purifier",
    "Trajectory",
]
