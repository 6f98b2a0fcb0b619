"""A folder of files that were made from other files, one for one: which are done, and with which settings.

    FOLDER/manifest.json   the settings; a folder never mixes two
    FOLDER/made.jsonl      a line per file: its name, checksums of what it was made from and of itself, more facts

A file counts as done if it is there with the checksum that its line tells, and was made from what is there now.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.folder import ResultsFolder
from lit_pursamere.store.manifest import check_manifest

__all__ = ["Outputs"]

JOURNAL = "made.jsonl"


class Outputs(ResultsFolder):
    """A folder to put files into, kept from other runs until `release`.

    Args:
        folder: The folder; made if need be.
        manifest: JSON values: the settings.

    Raises:
        ValueError: If the folder holds files that were made with other settings, or that are none of ours.
        OSError: If another run is writing to it.
    """

    @staticmethod
    def holds(folder: Path, manifest: dict) -> bool:
        if check_manifest(folder, manifest):
            return True
        if others := sorted(file.name for file in folder.iterdir() if not file.name.startswith(".lock")):
            raise ValueError(
                f"{folder} holds other things ({', '.join(others[:3])}) and no manifest; choose another, or an empty "
                "folder"
            )
        return False

    def _load(self) -> None:
        self.rows = self.read_rows(JOURNAL, lambda row: row["name"])

    def done(self, name: str, source: str) -> bool:
        """Whether a file is there, undamaged, and made from a source with this checksum."""
        row = self.rows.get(name)
        if row is None or row["source"] != source:
            return False
        try:
            return hashlib.sha256((self.folder / name).read_bytes()).hexdigest() == row["sha256"]
        except OSError:
            return False

    def write(self, name: str, content: bytes, source: str, **facts: object) -> None:
        """Write a file, whole, and then its line.

        Raises:
            OSError: If the folder is gone, with what was in it, or a file cannot be written.
        """
        file = self.folder / name
        try:
            self.lock.require()
        except OSError as error:
            made = f"with {len(self.rows)} files that were made before" if self.rows else "before a file was made"
            raise OSError(f"{error} ({made})") from error
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
        row = {"name": name, "source": source, "sha256": hashlib.sha256(content).hexdigest(), **facts}
        (self.rows[name],) = self.append_rows(JOURNAL, [row])
