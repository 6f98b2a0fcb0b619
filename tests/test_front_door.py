"""The top level offers what users call, and imports nothing for it before it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lit_pursamere
from lit_pursamere import attacks, purifiers

HEAVY = "import lit_pursamere, sys; print([name for name in ('torch', 'yaml', 'numpy') if name in sys.modules])"


def test_importing_it_imports_nothing_heavy():
    assert subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("name", lit_pursamere.__all__)
def test_every_name_is_there(name):
    assert getattr(lit_pursamere, name).__name__ == name
    assert name in dir(lit_pursamere)


def test_every_attack_and_purifier_is_among_them():
    assert {*attacks.__all__, *purifiers.__all__} <= {*lit_pursamere.__all__}


def test_no_other_name_is():
    with pytest.raises(AttributeError, match="has no attribute 'evaluat'"):
        _ = lit_pursamere.evaluat
