"""Reports as Parquet files: the rows of the CSV with types, for pandas, polars, DuckDB and the like."""

from __future__ import annotations

import io
import json
from importlib import import_module
from typing import Any

from lit_pursamere.report.formats import records
from lit_pursamere.report.report import Report

__all__ = ["as_parquet"]


def as_parquet(report: Report) -> bytes:
    """Write `formats.records`; notes, cautions and footnotes are the metadata `lit_pursamere`, in JSON.

    Columns have the types of `report.fields` even where they are empty, so that files of several runs can be joined.

    Raises:
        ValueError: If pyarrow is not installed.
    """
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise ValueError(
            "Parquet is written by pyarrow, which is not installed: pip install 'lit_pursamere[parquet]'; or take "
            "--format csv or json"
        ) from None
    types = {str: arrow.string(), bool: arrow.bool_(), int: arrow.int64(), float: arrow.float64()}
    told = {"notes": report.notes, "cautions": report.cautions, "footnotes": report.footnotes}
    schema = arrow.schema(
        [(name, types[kind]) for name, kind in report.fields.items()], metadata={"lit_pursamere": json.dumps(told)}
    )
    content = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(records(report), schema), content)
    return content.getvalue()
