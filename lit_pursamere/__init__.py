"""Train and evaluate adversarial purification, with PurSAMERE at its heart.

from lit_pursamere import PGD, PurSAMERE, evaluate, load_score_model

result = evaluate(model, (x, y), purifier="pursamere", threat="linf 8/255", attacks="strong")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_pursamere.attacks import *  # noqa: F403
    from lit_pursamere.defense import Defense, Ensemble  # noqa: F401
    from lit_pursamere.front.checkpoint import load_module  # noqa: F401
    from lit_pursamere.front.evaluate import evaluate  # noqa: F401
    from lit_pursamere.front.result import Result  # noqa: F401
    from lit_pursamere.front.robust_accuracy import RobustAccuracy  # noqa: F401
    from lit_pursamere.pretrained import load_classifier, load_purifier, load_score_model  # noqa: F401
    from lit_pursamere.purifiers import *  # noqa: F403
    from lit_pursamere.threat import ThreatModel  # noqa: F401

__version__ = "0.1.0"

ATTACKS = (
    "APGD", "EAD", "FAB", "MIM", "PGD", "SPSA", "Attack", "AutoAttack", "Boundary", "CarliniWagnerL2", "DetectorPGD",
    "IterativeAttack", "Outcome", "RandomSearch", "ReconstructionPGD", "Restarts", "SaltAndPepper", "SelectivePGD",
    "Square", "Transfer", "WorstCase", "Wrapped",
)  # fmt: skip
PURIFIERS = (
    "ADBM", "ADP", "COUP", "DP_DDIM", "DP_DDPM", "DP_EDM", "GDMP", "MALADE", "DenoisedSmoothing", "DiffPure",
    "DiffPureLD", "ExtraCorrector", "Identity", "Langevin", "LikelihoodMaximisation", "PurSAMERE", "Purifier",
    "Trajectory",
)  # fmt: skip

# Where each name is, imported when it is asked for: `import lit_pursamere` alone imports no torch.
PLACES = {
    "evaluate": "front.evaluate",
    "Result": "front.result",
    "RobustAccuracy": "front.robust_accuracy",
    "load_classifier": "pretrained",
    "load_module": "front.checkpoint",
    "load_purifier": "pretrained",
    "load_score_model": "pretrained",
    "Defense": "defense",
    "Ensemble": "defense",
    "ThreatModel": "threat",
    **dict.fromkeys(ATTACKS, "attacks"),
    **dict.fromkeys(PURIFIERS, "purifiers"),
}

__all__ = [*PLACES]


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
