"""Optimisers and schedules of a training that is continued: what was asked for at its beginning, and what is now.

    the same is asked for               the state of the checkpoint goes on
    other numbers, or another factor    they hold from the place that the checkpoint brought
    another optimiser or scheduler      refused: the state of one means nothing to the other

What was asked for is kept in the checkpoint.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["Asked", "Plateaus", "asked_of", "put_in_place", "require_continuable"]

Asked = dict[str, list[dict[str, Any]]]
ANEW = "a new training starts from the weights alone: give the checkpoint as `model.checkpoint`"


def asked_of(trainer: pl.Trainer) -> Asked:
    """Optimisers and schedulers as they are before the first step, as plain values for a checkpoint."""
    schedules: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    return {
        "optimizers": [
            {"class": type(each).__name__, "groups": [plain(without_params(group)) for group in each.param_groups]}
            for each in trainer.optimizers
        ],
        "schedulers": [
            {"class": type(each).__name__, "state": {} if isinstance(each, LambdaLR) else plain(each.state_dict())}
            for each in schedules
        ],
    }


def without_params(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group of parameters."""
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}


def plain(value: Any) -> Any:
    """A state of numbers and texts: without tensors, which change where they lie, and of objects their class alone."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(inner) for inner in value)
    if isinstance(value, Tensor):
        return value.tolist()
    return value if isinstance(value, bool | int | float | str | None) else type(value).__qualname__


def require_continuable(there: Asked | None, now: Asked) -> None:
    """Refuse to put the state of a checkpoint into an optimiser or a scheduler that it is not of.

    Args:
        there: What the training of the checkpoint had asked for. None: there is none.
        now: What this one asks for.

    Raises:
        ValueError: If the classes differ, or the settings of a scheduler that does not compute the learning rate from
            the epoch alone.
    """
    if there is None:
        return
    for kind in ("optimizers", "schedulers"):
        earlier, later = ([part["class"] for part in each[kind]] for each in (there, now))
        if earlier != later:
            raise ValueError(f"the checkpoint's {kind} are {', '.join(earlier)}, and now {', '.join(later)}; {ANEW}")
    for then, asked in zip(there["schedulers"], now["schedulers"], strict=True):
        if changed := [name.strip("_") for name, value in asked["state"].items() if then["state"].get(name) != value]:
            what = f"{asked['class']} goes on as its checkpoint says, and {', '.join(changed)} would be other"
            raise ValueError(f"{what}; {ANEW}")


def put_in_place(trainer: pl.Trainer, there: Asked | None, now: Asked) -> None:
    """Put the settings of this run in place of those that a checkpoint brought, at the place that it brought."""
    for i, optimizer in enumerate(trainer.optimizers if there is not None else ()):
        before, after = (each["optimizers"][i]["groups"] for each in (there or now, now))
        for group, old, new in zip(optimizer.param_groups, before, after, strict=True):
            group.update({name: value for name, value in new.items() if name not in old or old[name] != value})
    for config in trainer.lr_scheduler_configs:
        schedule: Any = config.scheduler
        if isinstance(schedule, LambdaLR):
            schedule.base_lrs = [group["initial_lr"] for group in schedule.optimizer.param_groups]
            factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
            schedule._last_lr = [lr * factor for lr, factor in zip(schedule.base_lrs, factors, strict=True)]
            for group, lr in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = lr


class Plateaus(pl.Callback):
    """Schedulers that follow a metric take their step where a validation ends, before checkpoints are written.

    Lightning takes it after the checkpoint of an epoch, and not at all in an epoch that is resumed.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        for config in trainer.lr_scheduler_configs if fitting else ():
            if config.reduce_on_plateau:
                schedule: Any = config.scheduler
                schedule.step(monitored(trainer, config.monitor))


def monitored(trainer: pl.Trainer, name: str | None) -> Tensor:
    """A metric of the validation that has ended.

    Raises:
        ValueError: If there is none of that name.
    """
    metrics = trainer.callback_metrics
    if name not in metrics:
        known = ", ".join(sorted(key for key in metrics if key.startswith("val/")))
        raise ValueError(f"the scheduler monitors {name!r}, which no validation logs; known: {known}")
    return metrics[name]
