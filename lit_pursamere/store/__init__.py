"""What runs keep on disk: written whole or appended line by line, bound to the settings that made it."""

from lit_pursamere.store.folder import ResultsFolder
from lit_pursamere.store.records import Records, read_rows

__all__ = ["Records", "ResultsFolder", "read_rows"]
