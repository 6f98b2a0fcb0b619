"""The functions of kernels.c, where `python -m lit_pursamere.networks.build` built them for this kind of CPU.

Norms, activations and poolings take half of the time of a narrow NCSNv2 on a CPU, and a quarter of a U-Net's, because
each passes over memory several times. kernels.c does them for one image at a time, while it is in the cache. Nothing
needs it: without it `networks.fused` and `networks.fused_unet` compute the plain formulas.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import warnings
from functools import cache
from pathlib import Path

import torch

from lit_pursamere.user_cache import cache_folder

__all__ = ["SOURCE", "library", "options", "path"]

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
# What torch calls the vectors of a CPU, and how compilers call a CPU that has them.
VECTORS = {"AVX512": ["-march=x86-64-v4", "-mprefer-vector-width=512"], "AVX2": ["-march=x86-64-v3"]}
# Pointers, numbers and fractions that a function takes, in this order, before the number of threads.
ARGUMENTS = {
    "add_elu": (4, 2, 0), "elu_back": (4, 2, 0), "norm_elu": (6, 3, 0), "norm_elu_back": (9, 3, 0), "pool": (3, 4, 0),
    "pool_back": (4, 4, 0), "group_norm_silu": (8, 4, 1), "group_norm_silu_back": (5, 4, 0),
}  # fmt: skip


def options() -> list[str]:
    """What the compiler is told, for the vectors that torch finds on this CPU."""
    return [*FLAGS, *VECTORS.get(torch.backends.cpu.get_cpu_capability(), [])]


def path() -> Path:
    """The library of this source for this kind of CPU, there or not, in the folder that weights are kept in."""
    key = hashlib.sha256(SOURCE.read_bytes() + repr((platform.machine(), options())).encode()).hexdigest()[:16]
    return cache_folder() / "kernels" / f"{key}.so"


@cache
def library() -> ctypes.CDLL | None:
    """The functions of kernels.c, or None if they were not built for this machine (or LIT_PURSAMERE_KERNELS is 0)."""
    if os.environ.get("LIT_PURSAMERE_KERNELS") == "0" or not path().is_file():
        return None
    try:
        found = ctypes.CDLL(str(path()))
    except OSError as error:
        warnings.warn(f"{path()} cannot be loaded ({error}); going on without it", stacklevel=2)
        return None
    for name, counts in ARGUMENTS.items():
        function = getattr(found, name)
        kinds = zip((ctypes.c_void_p, ctypes.c_long, ctypes.c_float), counts, strict=True)
        function.argtypes = [kind for kind, count in kinds for _ in range(count)] + [ctypes.c_int]
        function.restype = None
    return found
