"""Lightning modules: wiring and logging only."""

from lit_pursamere.tasks.certification import LitCertification
from lit_pursamere.tasks.classifier import LitClassifier
from lit_pursamere.tasks.purification import LitPurification
from lit_pursamere.tasks.robustness import LitRobustness
from lit_pursamere.tasks.score_model import LitScoreModel

__all__ = ["LitCertification", "LitClassifier", "LitPurification", "LitRobustness", "LitScoreModel"]
