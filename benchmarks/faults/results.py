"""Results as lines of JSON, so that a run that was stopped goes on, and as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["Results", "as_table", "readable"]

PASSED = "as promised"


class Results:
    """Outcomes of cases by name, in FOLDER/KIND.jsonl.

    Args:
        folder: Where they lie; made if need be.
        kind: The kind of fault.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.kind, self.file, self.rows = kind, folder / f"{kind}.jsonl", {}
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.rows = {row["case"]: row for row in map(json.loads, lines)}

    def each(self, cases: Iterable[tuple[str, Callable[[], dict]]]) -> None:
        """Try what has no outcome yet; a case returns a row with `outcome`, which is PASSED or what was wrong."""
        for name, attempt in cases:
            if name in self.rows:
                continue
            row = {"case": name, **attempt()}
            self.rows[name] = row
            with open(self.file, "a") as file:
                file.write(json.dumps(row) + "\n")
            if row["outcome"] != PASSED:
                print(f"{self.kind}: {name}: {row['outcome']}", flush=True)

    @property
    def failed(self) -> list[dict]:
        return [row for row in self.rows.values() if row["outcome"] != PASSED]

    def markdown(self) -> str:
        """How many went as promised, and the others as a table."""
        total, failed = len(self.rows), self.failed
        kinds: dict[str, int] = {}
        for row in failed:
            kind = row["outcome"].partition(":")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda pair: -pair[1]))
        head = f"## {self.kind}\n\n{total - len(failed)} of {total} as promised" + (f"; {told}" if told else "")
        return f"{head}\n\n{as_table(failed)}" if failed else f"{head}\n"


def as_table(rows: list[dict]) -> str:
    columns = ("case", "command", "outcome", "said")
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return (
        "\n".join([*lines, *("| " + " | ".join(cell(row.get(name, "")) for name in columns) + " |" for row in rows)])
        + "\n"
    )


def cell(value: object) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|").replace("`", "'")[:240]


def readable(text: str, count: int = 3) -> str:
    """The last lines of an output, for a table."""
    return " / ".join([line for line in text.splitlines() if line.strip()][-count:])
