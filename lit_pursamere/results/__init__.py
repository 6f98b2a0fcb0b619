"""Results: per-image records, statistics, tables and figures."""

from lit_pursamere.results.records import Records, read_rows
from lit_pursamere.results.report import SEMANTICS, accuracies, as_csv, as_markdown, write_report
from lit_pursamere.results.statistics import Accuracy

__all__ = ["SEMANTICS", "Accuracy", "Records", "accuracies", "as_csv", "as_markdown", "read_rows", "write_report"]
