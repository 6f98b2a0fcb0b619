"""A folder of results while a run has it open: kept from other runs, bound to one configuration, its rows whole.

    FOLDER/.lock, .lock-RANK   locks, see `locks`
    FOLDER/manifest.json       the configuration, see `manifest`
    FOLDER/*.jsonl             rows, a line each, see `durable`; `run` in each says which configuration it belongs to

Every process of a run opens the folder, the first one before all others. Whoever is alone there mends what a killed
process has left; of shards, each its own, since not every file system shows who else is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from lit_pursamere.sharding import WHOLE, Shard
from lit_pursamere.store.atomic import remove_leftovers
from lit_pursamere.store.durable import Key, Row, append_rows, cut_tail, read_rows
from lit_pursamere.store.locks import FolderLock
from lit_pursamere.store.manifest import NAME, check_manifest, read_manifest, run_of, write_manifest

__all__ = ["ResultsFolder"]


class ResultsFolder:
    """Opens a folder until `release`, the end of a `with` block, or the end of the process.

    Args:
        folder: The folder; made if need be.
        manifest: JSON values: the configuration. None: what lies in the folder states it by itself, as a `PurifiedSet`.
        rank: Number of this process.
        shard: Which part of the job the command does that this process belongs to.

    Raises:
        OSError: If another run is writing there.
        ValueError: If the folder holds results of another configuration; the message names the differences.
    """

    def __init__(self, folder: str | Path, manifest: dict | None = None, rank: int = 0, shard: Shard = WHOLE) -> None:
        self.folder, self.rank, self.shard = Path(folder), rank, shard
        self.manifest, self.run = manifest, None if manifest is None else run_of(manifest)
        self.lock = FolderLock(self.folder, rank, *((True, f"shard {shard}", self._is_stated) if shard else ()))
        try:
            if self.lock.alone:
                self._state()
                if not shard:
                    self._mend("*")
                self.lock.share()
            if manifest is not None:
                check_manifest(self.folder, manifest)
            if shard:
                self._mend(str(rank))
            self._load()
        except BaseException:
            self.release()
            raise

    @staticmethod
    def holds(folder: Path, manifest: dict) -> bool:
        """Whether a folder, opened or not, has results of a configuration.

        Raises:
            ValueError: If they are those of another one; the message names the differences.
        """
        return check_manifest(folder, manifest)

    def _is_stated(self) -> bool:
        """Whether the folder says what it belongs to."""
        return read_manifest(self.folder) is not None

    def _state(self) -> None:
        """Write what the folder belongs to, unless it is there, while nobody else has the folder open."""
        if self.manifest is not None:
            if not self.shard:
                remove_leftovers(self.folder, NAME)  # of a run that was killed before it had one
            if not self.holds(self.folder, self.manifest):
                write_manifest(self.folder, self.manifest)

    def _mend(self, number: str) -> None:
        """Mend what killed processes have left: the one with this number, or ("*") all, while nobody else is there."""
        if number == "*":
            remove_leftovers(self.folder)

    def _load(self) -> None:
        """Read what is there; for subclasses."""

    def read_rows(self, name: str, key_of: Callable[[Row], Key]) -> dict[Key, Row]:
        """Rows of one of the files that this process appends to, by their keys; its broken tail is cut off.

        Raises:
            ValueError: If a line is damaged; the message names file and line.
        """
        cut_tail(self.folder / name)
        return read_rows(self.folder / name, key_of, self.run)

    def append_rows(self, name: str, rows: Iterable[Row]) -> list[Row]:
        """Append rows to a file and force them to disk; returns them as they are there, with their `run`.

        Raises:
            OSError: If they cannot be written, with what to do about it.
        """
        own = [row if self.run is None else {**row, "run": self.run} for row in rows]
        append_rows(self.folder / name, own)
        return own

    def release(self) -> None:
        """Let other runs in."""
        self.lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.release()
