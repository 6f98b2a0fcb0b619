"""A folder of files that were made from other files, one for one: which are done, and with which settings.

    FOLDER/manifest.json   the settings; a folder never mixes two
    FOLDER/made.jsonl      a line per file: its name, checksums of what it was made from and of itself, more facts

A file counts as done if it is there with the checksum that its line tells, and was made from what is there now.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lit_pursamere.store.atomic import remove_leftovers, write_whole
from lit_pursamere.store.durable import append
from lit_pursamere.store.locks import FolderLock
from lit_pursamere.store.manifest import check_manifest, write_manifest

__all__ = ["Outputs"]

JOURNAL = "made.jsonl"


class Outputs:
    """A folder to put files into, kept from other runs until `release`.

    Args:
        folder: The folder; made if need be.
        manifest: JSON values: the settings.

    Raises:
        ValueError: If the folder holds files that were made with other settings, or that are none of ours.
        OSError: If another run is writing to it.
    """

    def __init__(self, folder: Path, manifest: dict) -> None:
        self.folder = folder
        self.lock = FolderLock(folder)
        try:
            if not check_manifest(folder, manifest):
                others = sorted(file.name for file in folder.iterdir() if not file.name.startswith(".lock"))
                if others:
                    raise ValueError(
                        f"{folder} holds other things ({', '.join(others[:3])}) and no manifest; choose another, or an "
                        "empty folder"
                    )
                write_manifest(folder, manifest)
            remove_leftovers(folder)
            self.rows = self._read()
        except BaseException:
            self.lock.release()
            raise

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
        """Write a file, whole, and then its line."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
        row = {"name": name, "source": source, "sha256": hashlib.sha256(content).hexdigest(), **facts}
        append(self.folder / JOURNAL, (json.dumps(row) + "\n").encode())
        self.rows[name] = row

    def release(self) -> None:
        self.lock.release()

    def _read(self) -> dict[str, dict]:
        """The last line of every file; a line that is cut short, by a kill, is cut off."""
        journal = self.folder / JOURNAL
        content = journal.read_bytes() if journal.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_whole(journal, whole)
        try:
            rows = [json.loads(line) for line in whole.splitlines()]
            return {row["name"]: row for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{journal} is damaged ({error}); remove it, and the pictures are purified anew"
            ) from error
