"""The scripts of benchmarks/gpu as modules."""

import importlib

import pytest


@pytest.fixture
def script(repository_root, monkeypatch):
    """Import a script of benchmarks/gpu by its name; the working folder is the repository's."""
    monkeypatch.syspath_prepend(repository_root / "benchmarks/gpu")
    monkeypatch.chdir(repository_root)
    return importlib.import_module
