"""Train and evaluate adversarial purification, with PurSAMERE at its heart."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_pursamere.pretrained import load_classifier, load_purifier, load_score_model

__all__ = ["load_classifier", "load_purifier", "load_score_model"]

__version__ = "0.1.0"

# Where each name is, imported when it is asked for: `import lit_pursamere` alone imports no torch.
PLACES = {
    "load_classifier": "lit_pursamere.pretrained",
    "load_purifier": "lit_pursamere.pretrained",
    "load_score_model": "lit_pursamere.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
