"""The command line: LightningCLI's fit, validate, test and predict, and a few plain verbs beside them.

lit-pursamere test --config configs/digits/robustness.yaml --model.purifier.rho_pur 1.5
lit-pursamere report runs/digits/robustness
lit-pursamere figure reconstruction-error figure1.png
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lit_pursamere import __version__
from lit_pursamere.cli.lightning import MISFIT, command_line, examined, know_names, readable

__all__ = ["main"]

LIGHTNING_VERBS = ("fit", "validate", "test", "predict")
USAGE = """usage: lit-pursamere VERB [options]

  fit             train a score model or a classifier        (LitScoreModel, LitClassifier)
  validate        run its validation                         (LitScoreModel, LitClassifier)
  predict         purify a data set and keep the result      (LitPurification)
  purify          purify your own pictures
  purified        look into what `predict` has made
  test            attack a defence and print the table       (LitRobustness)
  compare         `test` many purifiers, and print one table
  report          print the table of a test run again
  reverify        judge the stored images of a test run again
  figure          draw a figure of the theory
  experiment      run the stages of an experiment in order
  estimate        say what a fit, predict or test will cost
  audit           ask whether an attack could have broken a defence, or how many draws its EoT needs
  sigmas          choose the noise levels for a data set
  weights         look into weight files, convert them

`lit-pursamere VERB --help` lists the options of a verb."""


NO_GRADIENT = "logits without a gradient"  # as in attacks.gradients, without importing torch for `--help`


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Wrong input ends in one line on stderr, not in a traceback."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] == "--version":
        print(f"lit-pursamere {__version__}")
        return 0
    verb: Callable[[list[str]], None] | None = VERBS.get(args[0])
    if verb is None:
        print(f"lit-pursamere: error: unknown verb {args[0]!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        verb(args)
    except (ValueError, OSError, RuntimeError, argparse.ArgumentError) as error:
        if isinstance(error, RuntimeError) and not any(mistake in str(error) for mistake in (MISFIT, NO_GRADIENT)):
            raise
        if os.environ.get("LIT_PURSAMERE_TRACEBACK"):
            raise
        print(f"lit-pursamere: error: {readable(error)}", file=sys.stderr)
        print("(LIT_PURSAMERE_TRACEBACK=1 shows where it came from)", file=sys.stderr)
        return 1
    return 0


def lightning(args: list[str]) -> None:
    """fit, validate, test, predict."""
    command_line(args)


def audit(args: list[str]) -> None:
    """Audit the defence of a `test` configuration under one of its attacks: `Checklist`, or `--audit Similarity`."""
    from lit_pursamere.audit import Audit, Checklist, Trial, choose_attack
    from lit_pursamere.seeding import run_seed

    cli = command_line(args[1:], run=False, choices={"audit": (Audit, Checklist)})
    settings, task, data = cli.config_init.audit, cli.model, cli.datamodule
    defense, (x, y, index) = examined(cli, settings.images, "an audit")
    name = choose_attack(settings.attack, task.attacks)
    trial = Trial(
        defense, name, task.attacks[name], x, y, index.tolist(), data.images_name, task.evaluations,
        data.eval_batch_size, run_seed(), hidden=False,
    )  # fmt: skip
    print(f"{settings.run(trial)}\nWritten to {settings.output}")


def compare(args: list[str]) -> None:
    """Evaluate many purifiers under the same attacks, and print one table."""
    from lit_pursamere.cli.compare import run

    run(args[1:])


def experiment(args: list[str]) -> None:
    """Run the stages that a file lists, in order; started again, go on where it stopped.

    Further options go to every stage that has a trainer: --trainer.devices 8 --trainer.strategy ddp
    """
    parser = argparse.ArgumentParser("lit-pursamere experiment", description=experiment.__doc__, allow_abbrev=False)
    parser.add_argument("file", type=Path, help="YAML with a list `stages` of command lines")
    parsed, options = parser.parse_known_args(args[1:])
    from lit_pursamere.cli.experiment import run_experiment

    run_experiment(parsed.file, options)


def estimate(args: list[str]) -> None:
    """Say what the `fit`, `predict` or `test` of a configuration will cost, from a few seconds of it.

    The verb may stand before the options, as in the command itself; the configuration says which it is.
    """
    from lit_pursamere.estimate import Estimate, forget_missing_weights, run_estimate

    missing: list[str] = []
    words = args[2:] if args[1:2] and args[1] in LIGHTNING_VERBS else args[1:]
    cli = command_line(
        words, False, {"estimate": Estimate}, lambda config: missing.extend(forget_missing_weights(config))
    )
    settings = dict(cli.config_init.trainer)
    print(run_estimate(cli.config_init.estimate, cli.model, cli.datamodule, cli.trainer, settings), end="")
    if missing:
        print(f"Not there yet, random weights stood in: {', '.join(missing)}")


def report(args: list[str]) -> None:
    """Print the table of test runs, and write report.md, report.csv and report.tex beside the records.

    Several runs come into one table, which is written only if --output says where.
    """
    from lit_pursamere.report import FORMATS, INTERVALS, make_report, save_report

    parser = argparse.ArgumentParser("lit-pursamere report", description=report.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output folder of `lit-pursamere test`")
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="what to print (default: markdown)")
    parser.add_argument("--interval", choices=INTERVALS, default="wilson", help="95 %% interval (default: wilson)")
    parser.add_argument("--mix", action="store_true", help="allow runs that differ in more than systems and attacks")
    parser.add_argument("--figures", action="store_true", help="draw accuracies and survival as PNG as well")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write to (default: that of a single run)")
    parsed = parser.parse_args(args[1:])
    output = parsed.output or (parsed.runs[0] if len(parsed.runs) == 1 else None)
    if parsed.figures and output is None:
        raise ValueError(f"where should the figures of {len(parsed.runs)} runs go? Say --output DIR")
    table = make_report(parsed.runs, parsed.interval, parsed.mix)
    print(FORMATS[parsed.format][1](table), end="")
    if output is not None:
        save_report(table, output)
    if parsed.figures:
        from lit_pursamere.report.plots import save_plots

        for file in save_plots(table, output):
            print(f"wrote {file}", file=sys.stderr)  # beside the table, which may go into a file


def figure(args: list[str]) -> None:
    """Draw a figure of the theory as PNG, PDF or SVG."""
    from lit_pursamere.worlds.figures import FIGURES

    parser = argparse.ArgumentParser("lit-pursamere figure", description=figure.__doc__)
    parser.add_argument("name", choices=sorted(FIGURES))
    parser.add_argument("output", type=Path, help="file to write; its suffix decides the format")
    parsed = parser.parse_args(args[1:])
    parsed.output.parent.mkdir(parents=True, exist_ok=True)
    FIGURES[parsed.name]().savefig(parsed.output, bbox_inches="tight")
    print(f"wrote {parsed.output}")


def sigmas(args: list[str]) -> None:
    """Choose the noise levels of a data set by the rules of Song & Ermon (2020): print them as YAML."""
    from jsonargparse import ArgumentParser

    from lit_pursamere.data import ImageDataModule
    from lit_pursamere.diffusion.schedules import NoiseLevels, largest_distance
    from lit_pursamere.progress import Progress

    parser = ArgumentParser("lit-pursamere sigmas", description=sigmas.__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a file of configs/data, or any other with a `data` entry")
    parser.add_subclass_arguments(ImageDataModule, "data")
    parser.add_argument("--images", type=int, help="compare only so many of the training images (default: all)")
    parser.add_argument("--sigma_min", type=float, default=0.01, help="smallest level (default: 0.01)")
    parsed = parser.parse_args(args[1:])
    if parsed.get("data") is None:
        raise ValueError("which data? Give `--config configs/data/cifar10.yaml`, or `--data CIFAR10 --data.root ...`")
    data = parser.instantiate_classes(parsed).data
    data.prepare_data()
    data.setup("fit")
    images = data.training_images(parsed.images)
    with Progress("distances", "block") as progress:
        diameter = largest_distance(images, progress=progress)
    levels = NoiseLevels.from_data(diameter, images[0].numel(), parsed.sigma_min)
    print(f"# {data.name}: largest distance of {len(images)} training images {diameter:.4g}, ratio of the levels "
          f"{levels.ratio:.4f}")  # fmt: skip
    print(f"sigmas: {{sigma_max: {levels.sigma_max:.4g}, sigma_min: {levels.sigma_min:g}, count: {levels.count}}}")


def reverify(args: list[str]) -> None:
    """Judge the stored images of a test run again, in another batch size, precision or device."""
    from lit_pursamere.cli.reverify import run

    know_names()
    run(args[1:])


def purify(args: list[str]) -> None:
    """Purify a folder of pictures, or a file of arrays."""
    know_names()
    from lit_pursamere.cli.purify import run

    run(args[1:])


def purified(args: list[str]) -> None:
    """Say what a purified set holds and whether it is whole."""
    from lit_pursamere.cli.purified import run

    know_names()
    run(args[1:])


def weights(args: list[str]) -> None:
    """Say what a weight file holds, or write it as safetensors."""
    from lit_pursamere.cli.weights import run

    run(args[1:])


VERBS: dict[str, Callable[[list[str]], None]] = {
    **dict.fromkeys(LIGHTNING_VERBS, lightning),
    "purify": purify,
    "purified": purified,
    "audit": audit,
    "compare": compare,
    "estimate": estimate,
    "experiment": experiment,
    "report": report,
    "reverify": reverify,
    "figure": figure,
    "sigmas": sigmas,
    "weights": weights,
}


def console() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
