"""`lit-pursamere runs`: which runs there are, and in what they differ."""

from __future__ import annotations

import sys
from pathlib import Path

from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.listing import HEAD, differing_settings, find_runs
from lit_pursamere.report.runs import labels_of

__all__ = ["runs"]

MOST = 8  # runs whose settings fit side by side


def runs(folders: list[Path]) -> None:
    """List tests and certifications below folders: data, purifier, attacks, images, worst case, whether complete, date.

    Several folders are compared as well: a second table says which settings differ between the runs in them. Nothing
    that is found is built or imported.

    Args:
        folders: Folders of runs, or folders that hold such.

    Raises:
        FileNotFoundError: If a folder is not there.
    """
    found = {Path(one.row[0]).resolve(): one for folder in folders for one in find_runs(folder)}
    if not found:
        print(f"no runs below {', '.join(map(str, folders))}", file=sys.stderr)
        return
    print(markdown_table(HEAD, [one.row for one in found.values()]), end="")
    for one in found.values():
        if one.problem:
            print(shown(one.problem), file=sys.stderr)
    readable = [one.run for one in found.values() if one.run]
    if len(folders) > 1 and len(readable) > MOST:
        print(
            f"\n{len(readable)} runs are too many for a table of their settings; name at most {MOST}", file=sys.stderr
        )
    elif len(folders) > 1 and len(readable) > 1:
        table = differing_settings(readable)
        head = ("setting", *labels_of([run.folder for run in readable]))
        print(f"\n{markdown_table(head, table)}" if table else "\nNo setting differs between these runs.\n", end="")
