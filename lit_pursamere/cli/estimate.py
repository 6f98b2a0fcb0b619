"""`lit-pursamere estimate`: what a run will cost."""

from __future__ import annotations

from lit_pursamere.cli.lightning import command_line
from lit_pursamere.cli.usage import LIGHTNING_VERBS
from lit_pursamere.estimate import Estimate, forget_missing_weights, run_estimate

__all__ = ["estimate"]


def estimate(*options: str) -> None:
    """Say what the `fit`, `predict` or `test` of a configuration will cost, from a few seconds of it.

    The verb may stand before the options, as in the command itself; the configuration says which it is.
    """
    missing: list[str] = []
    words = list(options[1:] if options[:1] and options[0] in LIGHTNING_VERBS else options)
    cli = command_line(
        words, False, {"estimate": Estimate}, lambda config: missing.extend(forget_missing_weights(config))
    )
    settings = dict(cli.config_init.trainer)
    print(run_estimate(cli.config_init.estimate, cli.model, cli.datamodule, cli.trainer, settings), end="")
    if missing:
        print(f"Not there yet, random weights stood in: {', '.join(missing)}")
