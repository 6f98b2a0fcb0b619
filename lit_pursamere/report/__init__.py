"""Reports: from the rows of runs to accuracies with intervals, tables, figures, and what papers report.

rows of a run (`runs`) -> a line per system and attack (`lines`: `verdicts`, `statistics`, `detection`, `published`)
-> a `report` of them, or a `comparison`, which is that report pivoted -> text (`formats`) and figures (`plots`).
"""

from lit_pursamere.report.comparison import Comparison, read_comparison
from lit_pursamere.report.formats import FORMATS, as_csv, as_latex, as_markdown, save_report, write_report
from lit_pursamere.report.report import Report, make_report
from lit_pursamere.report.runs import Run, read_runs
from lit_pursamere.report.statistics import INTERVALS, Accuracy
from lit_pursamere.report.verdicts import SEMANTICS, accuracies, worst_cases

__all__ = [
    "FORMATS",
    "INTERVALS",
    "SEMANTICS",
    "Accuracy",
    "Comparison",
    "Report",
    "Run",
    "accuracies",
    "as_csv",
    "as_latex",
    "as_markdown",
    "make_report",
    "read_comparison",
    "read_runs",
    "save_report",
    "worst_cases",
    "write_report",
]
