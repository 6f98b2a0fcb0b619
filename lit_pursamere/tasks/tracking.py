"""What trackers are told beside numbers: settings, figures, images and tables, through the interface that each has.

    TensorBoard   settings: TEXT, hparams.yaml, at the end HPARAMS;  figures, images: IMAGES;  tables: TEXT
    W&B           settings: its config;                              figures, images, tables: log_image, log_table
    MLflow        settings: its params;                              figures, images, tables: artifacts
    CSV           settings: hparams.yaml;                            the rest is in the run's folder

A tracker that fails is told in one line, and the run goes on. Only the first process speaks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from lit_pursamere.markdown import markdown_table
from lit_pursamere.report.drawing import beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["log_figure", "log_image", "log_outcome", "log_settings", "log_table", "plain_settings"]


def plain_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as hyper-parameters: arguments beside the `class` they belong to, what is not set left out."""
    inner = {**{key: value for key, value in config.items() if key != "init_args"}, **(config.get("init_args") or {})}
    found = {}
    for key, value in inner.items():
        if value is not None:
            name = "class" if key == "class_path" else key
            found[name] = plain_settings(value) if isinstance(value, Mapping) else value
    return found


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values: "model/lr", 0.1."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def log_settings(trainer: pl.Trainer, settings: dict[str, Any]) -> None:
    """Tell all trackers with what settings a run begins."""

    def tell(logger: Any) -> None:
        if isinstance(logger, TensorBoardLogger):  # its HPARAMS want a result beside the settings: `log_outcome`
            logger.hparams.update(settings)
            logger.experiment.add_text("settings", markdown_table(("setting", "value"), flat(settings)))
        else:
            logger.log_hyperparams(settings)

    _each(trainer, "settings", tell)


def log_outcome(trainer: pl.Trainer, settings: dict[str, Any], metrics: Mapping[str, float]) -> None:
    """Tell TensorBoard's HPARAMS what a run with these settings came to; other trackers have the numbers already."""

    def tell(logger: Any) -> None:
        if isinstance(logger, TensorBoardLogger) and metrics:
            logger.log_hyperparams(settings, dict(metrics), trainer.global_step)

    _each(trainer, "hyper-parameters", tell)


def log_figure(trainer: pl.Trainer, name: str, figure: Figure) -> None:
    """Tell all trackers that show pictures of a figure."""

    def tell(logger: Any) -> None:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, trainer.global_step, close=False)
        elif hasattr(type(logger), "log_image"):
            logger.log_image(name, [picture_of(figure)], step=trainer.global_step)
        elif hasattr(type(logger), "run_id"):
            logger.experiment.log_figure(logger.run_id, figure, f"{name}.png")

    _each(trainer, name, tell)


def log_image(trainer: pl.Trainer, name: str, image: Tensor) -> None:
    """Tell all trackers that show pictures of an image (C, H, W) in [0, 1]."""

    def tell(logger: Any) -> None:
        step = trainer.global_step
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, step)
        elif hasattr(type(logger), "log_image"):
            logger.log_image(name, [image], step=step)
        elif hasattr(type(logger), "run_id"):
            pixels = (255 * image).round().byte().permute(1, 2, 0).cpu().numpy()
            logger.experiment.log_image(logger.run_id, pixels, f"{name}/{step:08d}.png")

    _each(trainer, name, tell)


def log_table(trainer: pl.Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Tell all trackers that show tables of one."""

    def tell(logger: Any) -> None:
        if isinstance(logger, TensorBoardLogger):
            legible = [[f"{value:.4g}" if isinstance(value, float) else value for value in row] for row in rows]
            logger.experiment.add_text(name, markdown_table(columns, legible), trainer.global_step)
        elif hasattr(type(logger), "log_table"):
            logger.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=trainer.global_step)
        elif hasattr(type(logger), "run_id"):
            data = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))
            logger.experiment.log_table(logger.run_id, data, f"{name}.json")

    _each(trainer, name, tell)


def picture_of(figure: Figure) -> Any:
    """A figure as one of Pillow's images."""
    from PIL import Image

    content = io.BytesIO()
    figure.savefig(content, format="png")
    return Image.open(content, formats=["PNG"])


def _each(trainer: pl.Trainer, what: str, tell: Callable[[Any], None]) -> None:
    for logger in trainer.loggers if trainer.is_global_zero else ():
        with beside(f"{what} in {type(logger).__name__}"):
            tell(logger)
