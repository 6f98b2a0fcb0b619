"""The kernels, compiled once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lit_pursamere.networks import kernels
from lit_pursamere.networks.build import build


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    """Folder of a cache that holds the kernels."""
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_PURSAMERE_CACHE", str(folder))
        build()
    return folder


@pytest.fixture(scope="module")
def built(compiled):
    """The kernels, used by everything in a module that asks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_PURSAMERE_CACHE", str(compiled))
        patch.delenv("LIT_PURSAMERE_KERNELS", raising=False)
        kernels.library.cache_clear()
        yield kernels.library()
    kernels.library.cache_clear()
