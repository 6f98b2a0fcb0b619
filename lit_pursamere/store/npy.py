"""Whatever reading an .npy or .npz file raises that is none, or is damaged.

The header of an array is a literal of Python, which numpy takes apart with Python's own tokens.
"""

from __future__ import annotations

import zipfile
import zlib
from tokenize import TokenError

__all__ = ["READ_ERRORS"]

READ_ERRORS = (
    OSError, EOFError, ValueError, TypeError, RuntimeError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
