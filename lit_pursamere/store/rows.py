"""A folder of rows of one kind, by keys, one file for every process: what is done already, and a file to append to.

    FOLDER/KIND-RANK.jsonl      rows; a broken last line (a killed process) is dropped on reading

A manifest without rows, left by a run that failed, binds nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from lit_pursamere.store import durable
from lit_pursamere.store.durable import Row
from lit_pursamere.store.folder import ResultsFolder
from lit_pursamere.store.manifest import check_manifest, is_stated

__all__ = ["RowsFolder"]


class RowsFolder(ResultsFolder):
    """The rows of one run as one of its processes has them open; `rows` are those of all processes, by their keys.

    A subclass names their kind, and says what the key of one is.

    Args:
        folder: Where they live.
        manifest: JSON values that say of what they are.
        rank: Number of this process.
        shard: Which part of the job the command does that this process belongs to.

    Raises:
        OSError: If another run is writing there.
        ValueError: If the folder holds rows of another manifest, or a damaged one; the message names it.
    """

    kind: ClassVar[str]  # of the rows, as their files have it

    @staticmethod
    @abstractmethod
    def key_of(row: Row) -> Any:
        """The key of a row; raises ValueError, KeyError or TypeError if it is none."""

    @classmethod
    def has_rows(cls, folder: Path) -> bool:
        """Whether a folder holds any."""
        return any(cls.files(folder))

    @classmethod
    def files(cls, folder: Path, number: str = "*") -> list[Path]:
        """The files of all processes, or of one, by name."""
        return sorted(folder.glob(f"{cls.kind}-{number}.jsonl"))

    @classmethod
    def read(cls, folder: Path, run: str | None = None) -> dict[Any, Row]:
        """Rows by key: those of a run, or (None) of any; see `durable.read_rows`."""
        rows: dict[Any, Row] = {}
        for file in cls.files(folder):
            rows |= durable.read_rows(file, cls.key_of, run)
        return rows

    @classmethod
    def holds(cls, folder: Path, manifest: dict) -> bool:
        return is_stated(folder, manifest) and cls.has_rows(folder) and check_manifest(folder, manifest)

    def _mend(self, number: str) -> None:
        super()._mend(number)
        for file in self.files(self.folder, number):
            durable.cut_tail(file)

    def _load(self) -> None:
        self.file = self.folder / f"{self.kind}-{self.rank}.jsonl"
        durable.cut_tail(self.file)
        self.rows = self.read(self.folder, self.run)

    def append(self, rows: list[Row]) -> None:
        """Add rows and force them to disk.

        Raises:
            OSError: If they cannot be written, with what to do about it.
        """
        self.rows.update((self.key_of(row), row) for row in self.append_rows(self.file.name, rows))
