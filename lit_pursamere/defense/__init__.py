"""The defence: a purifier before a classifier, perhaps an ensemble of answers, perhaps a detector."""

from lit_pursamere.defense.base import ALONE, Defense
from lit_pursamere.defense.detectors import Detector
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.defense.magnet import AnyDetector, JensenShannon

__all__ = ["ALONE", "AnyDetector", "Defense", "Detector", "Ensemble", "JensenShannon"]
