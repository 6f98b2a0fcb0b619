"""Reports: from the rows of runs to accuracies with intervals, tables, figures, and what papers report.

rows of a run (`runs`) -> a line per system and attack (`lines`: `verdicts`, `statistics`, `detection`, `published`)
-> a `report` of them, or a `comparison`, which is that report pivoted -> text (`formats`) and figures (`plots`).
"""

from lit_pursamere.report.comparison import Comparison, read_comparison
from lit_pursamere.report.formats import as_csv, as_json, as_latex, as_markdown
from lit_pursamere.report.html import as_html
from lit_pursamere.report.report import Report, make_report
from lit_pursamere.report.runs import Run, read_runs
from lit_pursamere.report.saving import FORMATS, ON_REQUEST, save_report
from lit_pursamere.report.statistics import INTERVALS, Accuracy
from lit_pursamere.report.verdicts import SEMANTICS, accuracies, worst_cases

__all__ = [
    "FORMATS",
    "INTERVALS",
    "ON_REQUEST",
    "SEMANTICS",
    "Accuracy",
    "Comparison",
    "Report",
    "Run",
    "accuracies",
    "as_csv",
    "as_html",
    "as_json",
    "as_latex",
    "as_markdown",
    "make_report",
    "read_comparison",
    "read_runs",
    "save_report",
    "worst_cases",
]
