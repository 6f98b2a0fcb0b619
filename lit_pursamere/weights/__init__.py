"""The only reader and writer of weight files.

    file or folder -> files.py -> layouts.py -> tensors by name -> loading.py -> a module
                      pickles/: whatever torch.save and pickle write, read without running any of it

Whoever wrote a file, it is recognised by its content and must fit exactly. None of its code is run, unless the command
line says so by name. Whatever prefix the names carry (`module.`, `score_model.network.` ...) is found by itself.
"""

from lit_pursamere.weights.files import folder_settings
from lit_pursamere.weights.loading import WeightFile, inspect_weights, load_weights, read_weights, trained
from lit_pursamere.weights.saving import model_card, save_weights, sha256, state_digest, tensors_digest

__all__ = [
    "WeightFile",
    "folder_settings",
    "inspect_weights",
    "load_weights",
    "model_card",
    "read_weights",
    "save_weights",
    "sha256",
    "state_digest",
    "tensors_digest",
    "trained",
]
