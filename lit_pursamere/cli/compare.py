"""`lit-pursamere compare`: many purifiers under the same attacks, one after the other, and one table.

    build every purifier: refuse mistakes, folders of another configuration, and runs that would not compare
    measure what one purification of each costs
    for each that is not complete:  `test` in OUTPUT/NAME

All in one process, with one purifier in memory at a time. Every run starts from its own `seed_everything`, so it gives
what the same `test` would give alone. Stop it at any moment: the same command continues. With `--trainer.devices 2
--trainer.strategy ddp` the processes go through the purifiers side by side and share the images of each.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pytorch_lightning.utilities import rank_zero_only

from lit_pursamere.cli.errors import TRACEBACK, in_one_line, keep_traceback
from lit_pursamere.cli.lightning import check_processes, command_line, examined
from lit_pursamere.cli.plan import Plan, read_plan, refuse_own
from lit_pursamere.cli.spelling import check_words
from lit_pursamere.ending import command, ending
from lit_pursamere.evaluation.cost import known_cost, measure_cost
from lit_pursamere.report import FORMATS, Report, Run, as_markdown, read_comparison
from lit_pursamere.report.comparison import check_comparison
from lit_pursamere.report.headline import headline, worst_line
from lit_pursamere.report.runs import run_of
from lit_pursamere.report.saving import save_comparison
from lit_pursamere.store import Records, ResultsFolder
from lit_pursamere.store.costs import write_cost
from lit_pursamere.tasks.folder_task import require_precision

if TYPE_CHECKING:
    from pytorch_lightning.cli import LightningCLI

    from lit_pursamere.defense import Defense

__all__ = ["compare"]


def compare(
    file: Path,
    *options: str,
    only: list[str] | None = None,
    table: bool = False,
    output: Path | None = None,
    elsewhere: bool = False,
) -> None:
    """Evaluate many purifiers under the same attacks, and print one table.

    Every further option, such as --data.test_size 64 or --trainer.devices 2, is one of `lit-pursamere test` and holds
    for all of them.

    Args:
        file: YAML file: output, test, purifiers and, to see what a setting does, sweep.
        options: Options of every `test`.
        only: Evaluate these purifiers only.
        table: Evaluate nothing, print the table of what is there.
        output: Folder in place of the file's.
        elsewhere: Show published numbers of other data sets and budgets as well.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the comparison has a mistake, or a purifier failed.
    """
    plan = read_plan(file, output)
    for option in options:
        refuse_own(option.lstrip("-").partition("=")[0], "the command line", plan.own)
    names, failed = plan.choose(only), {}
    if not table:
        with ResultsFolder(plan.output, rank=getattr(rank_zero_only, "rank", 0)):
            failed = evaluate(plan, names, options)
    show(plan, elsewhere)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise ValueError(
            f"{len(failed)} of {len(names)} purifiers failed ({reasons}); the same command tries them again"
        )


def evaluate(plan: Plan, names: Sequence[str], options: Sequence[str]) -> dict[str, str]:
    """Complete the runs of these purifiers; returns the reasons of those that failed, by name."""
    runs, pictured, unmeasured = {}, {}, []
    for name in names:
        with about(name), quiet():
            cli = build(plan, name, options)
            runs[name] = prospect(plan.output / name, name, cli)
            pictured[name] = cli.model.pictures_there()
            unmeasured += [] if known_cost(only_defense(cli), plan.output / name) else [name]
    others = [
        run for run in read_comparison(plan.output, plan.purifiers, places=plan.places).runs if run.label not in runs
    ]
    check_comparison([*runs.values(), *others], plan.places)
    for name in unmeasured:
        with about(name), quiet():
            measure(plan, name, options)
    failed = {}
    for number, name in enumerate(names, start=1):
        complete = not runs[name].missing and pictured[name] and reported(plan.output / name)
        say(f"purifier {number} of {len(names)}: {name}{' is complete' if complete else ''}")
        if complete:
            continue
        try:
            cli = build(plan, name, options)
            cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        except Exception as error:
            # Processes that evaluate together must not go on one by one.
            if torch.distributed.is_initialized() or os.environ.get(TRACEBACK):
                raise
            failed[name] = in_one_line(error, "compare")
            keep_traceback(error)
            say(f"purifier {name} failed: {failed[name]}")
        cli = None  # type: ignore[assignment]  # lets the networks go
        release()
    return failed


def reported(folder: Path) -> bool:
    """Whether a run came to its end: its report is there, and no older than its records."""
    newest = max((file.stat().st_mtime_ns for file in Records.files(folder)), default=0)
    reports = [folder / f"report.{suffix}" for suffix, _ in FORMATS.values()]
    return all(file.is_file() and file.stat().st_mtime_ns >= newest for file in reports)


def build(plan: Plan, name: str, options: Sequence[str]) -> LightningCLI:
    """What `lit-pursamere test` would build for a purifier; a mistyped setting is named as there."""
    arguments = plan.arguments(name, options)
    check_words("test", arguments)
    return command_line(arguments, run=False)


def only_defense(cli: LightningCLI) -> Defense:
    """The defence that will be evaluated."""
    (defense,) = cli.model.systems.values()
    return defense


def prospect(folder: Path, name: str, cli: LightningCLI) -> Run:
    """The run that a folder will hold, with the records that there are.

    Raises:
        ValueError: If it holds results of another configuration.
    """
    require_precision(cli.trainer)
    check_processes(cli, "test")
    cli.datamodule.prepare_data()
    cli.datamodule.setup("test")
    cli.model.trainer, cli.trainer.datamodule = cli.trainer, cli.datamodule  # type: ignore[attr-defined]
    cli.trainer.precision_plugin.convert_module(cli.model)  # as the run does before it writes its manifest
    cli.model.calibrate()
    manifest = cli.model.manifest()
    Records.holds(folder, manifest)
    return run_of(folder, name, json.loads(json.dumps(manifest)))


@rank_zero_only
def measure(plan: Plan, name: str, options: Sequence[str]) -> None:
    """Purify the first batch of images: it must work, and what it costs is noted."""
    cli = build(plan, name, options)
    defense, (x, _, _) = examined(cli, cli.datamodule.eval_batch_size, "a comparison")
    with cli.trainer.precision_plugin.test_step_context():
        write_cost(plan.output / name, measure_cost(defense, x))
    release()


def release() -> None:
    """Give back the memory of a purifier that is done: its parts refer to each other in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def about(name: str) -> Iterator[None]:
    """Mistakes in one entry name it."""
    try:
        yield
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        raise ValueError(f"purifier {name!r}: {in_one_line(error, 'compare')}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning says nothing about devices and seeds of what is only built."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


@rank_zero_only
def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@rank_zero_only
def show(plan: Plan, elsewhere: bool) -> None:
    """Print the table and write it."""
    comparison = read_comparison(plan.output, plan.purifiers, elsewhere, plan.places)
    if not comparison.runs:
        raise ValueError(f"there are no runs in {plan.output} yet; run the comparison without --table first")
    save_comparison(comparison, plan.output)
    print(as_markdown(comparison), end="")
    best = max(comparison.runs, key=lambda run: worst_line(Report((run,))).headline.value)
    made = f"{len(comparison.runs)} runs, tables and figures in {plan.output}"
    say(ending(made, f"best: {headline(Report((best,)))}", command("report", plan.output / best.label)))
