"""What happens on the way through a purification: confidence, pictures, and the reconstruction error of its images."""

from lit_pursamere.walk.base import Walk
from lit_pursamere.walk.confidence import Confidence
from lit_pursamere.walk.errors import ReconstructionErrors
from lit_pursamere.walk.kept import Kept, read_kept
from lit_pursamere.walk.strips import Strips

__all__ = ["Confidence", "Kept", "ReconstructionErrors", "Strips", "Walk", "read_kept"]
