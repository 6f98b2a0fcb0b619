"""How long a command takes until it finds a mistake: seconds of CPU, beside the imports that it might need.

    python benchmarks/startup.py --repeats 5                # a minute on a core

Prints a table in Markdown: user and system seconds of whole processes, the median of the repeats.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from lit_pursamere.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
TEST = "test --config configs/digits/robustness.yaml"
IMPORTS = ["torch", "pytorch_lightning"]
COMMANDS = [
    ("nothing is wrong", ["--help", "test --help", "test --help all"]),
    ("an unknown verb", ["purfy"]),
    ("an unknown option", [f"{TEST} --modle.pool 3", "report runs/x --formt latex", "purify a b --purifer ADP"]),
    ("an unknown key or class", [f"{TEST} --model.purifer ADP", f"{TEST} --model.purifier PurSAMER"]),
    ("a file that is not there", ["fit --config configs/none.yaml", "report runs/none", "weights inspect none.pth"]),
    ("a folder that is not there", ["purified inspect runs/none", "reverify runs/none"]),
    (
        "a value that is wrong",
        [
            "figure proposition-1 figure.bmp",
            "purify photos purified --purifier ADP",
            "sigmas --data Digits --sigma_min -1",
            f"{TEST} --model.threat.eps 8",
        ],
    ),
    ("a class of another package", [f"{TEST} --model.classifier torchvision.models.resnet"]),
]


def cpu_seconds(command: list[str]) -> float:
    """User and system seconds of a process and its children."""
    before = os.times()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind, after one that warms up")
    repeats = parser.parse_args().repeats
    wanted = [("", f"import {name}", ["-c", f"import {name}"]) for name in IMPORTS]
    wanted += [(what, line, ["-m", "lit_pursamere", *line.split()]) for what, lines in COMMANDS for line in lines]
    rows = []
    for what, line, words in wanted:
        seconds = [cpu_seconds([sys.executable, *words]) for _ in range(repeats + 1)][1:]
        rows.append([what, f"`{line}`", f"{statistics.median(seconds):.2f}"])
    print(markdown_table(["what is wrong", "command", "CPU, s"], rows), end="")


if __name__ == "__main__":
    main()
