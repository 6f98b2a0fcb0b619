"""Lightning's trainer, to which a whole number of batches is a number of batches."""

from __future__ import annotations

import re
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException

__all__ = ["Trainer"]


LEAST = {
    "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "log_every_n_steps": 0, "gradient_clip_val": 0,
    "min_epochs": 0, "min_steps": 0, "num_sanity_val_steps": -1,
}  # fmt: skip


class Trainer(pl.Trainer):
    """A trainer in whose settings 1 is one batch, and 1.0 all of them.

    Types are repeated here because `typing.Union` does not keep the order of its members: where another library has
    said `Union[float, int]` before, Lightning's `Union[int, float]` is that very object, and the parser makes 1.0 of 1.

    Args:
        limit_train_batches: How many batches, an integer; or which part of them, a float in [0, 1]. None: all.
        limit_val_batches: The same for validation.
        limit_test_batches: The same for `test`.
        limit_predict_batches: The same for `predict`.
        overfit_batches: How many or which part of the batches to train and validate on; 0: all.
        val_check_interval: After how many batches, or which part of an epoch, to validate. None: an epoch.
        kwargs: As in `pytorch_lightning.Trainer`.

    Raises:
        ValueError: If Lightning refuses a setting; or a number is below what it counts from, where Lightning would
            divide by it or take no notice. The message names the value.
    """

    def __init__(
        self,
        *,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | None = None,
        **kwargs: Any,
    ) -> None:
        for name, least in LEAST.items():
            if (value := kwargs.get(name)) is not None and value < least:
                raise ValueError(f"trainer.{name} must be at least {least}; got {value}")
        if val_check_interval == 0:
            raise ValueError("trainer.val_check_interval must be above 0; got 0")
        kwargs |= {
            "limit_train_batches": limit_train_batches,
            "limit_val_batches": limit_val_batches,
            "limit_test_batches": limit_test_batches,
            "limit_predict_batches": limit_predict_batches,
            "overfit_batches": overfit_batches,
            "val_check_interval": val_check_interval,
        }
        try:
            super().__init__(**kwargs)
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise ValueError(f"{error}{unsaid(str(error), kwargs)}") from error


def unsaid(refusal: str, settings: dict[str, Any]) -> str:
    """The values of the settings that a refusal is about, where it does not say them: "; got trainer.devices 'two'"."""
    values = {
        name: repr(value)
        for name, value in settings.items()
        if value is not None and re.search(rf"\b{name}\b", refusal) and str(value) not in refusal
    }
    return "; got " + ", ".join(f"trainer.{name} {value}" for name, value in values.items()) if values else ""
