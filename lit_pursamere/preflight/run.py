"""The preflight of a `test`, before it begins: doubts are lines on stderr, and nonsense ends it."""

from __future__ import annotations

import sys
from typing import Any

import torch

from lit_pursamere.data import ImageDataModule
from lit_pursamere.names import shown
from lit_pursamere.preflight.examined import Examined, Labels, few
from lit_pursamere.preflight.look import examine
from lit_pursamere.tasks import LitRobustness

__all__ = ["check_test", "tell"]


def tell(doubt: str) -> None:
    """Print a doubt as every verb does."""
    print(f"lit-pursamere: doubt: {shown(doubt)}", file=sys.stderr)


def check_test(task: LitRobustness, data: ImageDataModule, trainer: Any) -> None:
    """Look at a few of the images that a `test` is going to evaluate, on its device and in its precision.

    Args:
        task: The test; its `preflight` says whether to look.
        data: Its data.
        trainer: Its Trainer, which has not begun. One process looks for all.

    Raises:
        ValueError: If the test makes no sense; the message says why, and how to run it all the same.
    """
    if not task.preflight or not trainer.is_global_zero:
        return
    data.prepare_data()
    data.setup("test")
    precision = trainer.precision_plugin
    precision.convert_module(task).to(trainer.strategy.root_device)
    with precision.forward_context():
        doubts = examine(looked_at(task, data, precision))
    for doubt in doubts:
        if not doubt.stops:
            tell(doubt.what)
    if grave := "; ".join(doubt.what for doubt in doubts if doubt.stops):
        raise ValueError(f"{grave} (`--model.preflight false` runs it all the same)")


def looked_at(task: LitRobustness, data: ImageDataModule, precision: Any) -> Examined:
    """What is looked at of a test: the images are read, the labels of others where that reads no image."""
    source: Any = data.sources["test" if data.evaluate == "test" else "train"]
    positions = data.test_indices()
    known = getattr(source, "labels", None)
    if known is None:
        positions = [positions[place] for place in few([0] * len(positions), 0)]
    labels = [int(source[position][1] if known is None else known[position]) for position in positions]
    x, y = zip(*(source[positions[place]] for place in few(labels, 0)), strict=True)
    images = precision.convert_input(torch.stack(x))
    defense = next(iter(task.systems.values()))
    names = Labels(labels, data.class_names)
    size = 1 if data.automatic else data.eval_batch_size
    return Examined(defense, task.attacks, images, torch.tensor(y), images, names, False, size)
