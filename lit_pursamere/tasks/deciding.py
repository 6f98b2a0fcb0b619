"""What decides the weights that a training comes to; when it is continued, that must be as it was at the beginning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lit_pursamere.store.manifest import read_manifest
from lit_pursamere.weights import inspect_weights

__all__ = ["card_of", "configuration_of", "deciding"]

# Settings that say where and how fast a training runs, not what it comes to.
FREE = {
    "model": ("export", "compile", "psnr_at", "sample_every"),
    "data": ("root", "path", "download", "num_workers", "eval_batch_size", "resident", "purified", "evaluate",
             "test_size", "test_start", "test_seed", "test_generator"),
}  # fmt: skip
# Those settings of a trainer that do decide it; the number of processes does not, for they share every batch.
DECIDING = ("max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val",
            "gradient_clip_algorithm", "limit_train_batches", "sync_batchnorm")  # fmt: skip


def deciding(config: dict) -> dict:
    """What of a training's whole configuration decides its weights, its purified images' manifest included.

    `images`, what the images are, and `start`, the checkpoint of another training that it starts from, are added by
    those who know.
    """
    parts: dict[str, object] = {"seed_everything": config.get("seed_everything"), "start": None}
    for name, free in FREE.items():
        part = config[name]
        settings = {key: value for key, value in (part.get("init_args") or {}).items() if key not in free}
        parts[name] = {"class_path": part["class_path"], **by_content(settings)}
    parts["trainer"] = {key: config["trainer"].get(key) for key in DECIDING}
    purified = (config["data"].get("init_args") or {}).get("purified")
    parts["purified"] = None if purified is None else read_manifest(Path(purified))
    return parts


def by_content(value: Any) -> Any:
    """Settings in which the weights that a part starts from, or asks, count, and not where they lie."""
    if isinstance(value, list):
        return [by_content(item) for item in value]
    if not isinstance(value, dict):
        return value
    digests = {key: f"sha256 {inspect_weights(file).sha256[:16]}" for key, file in value.items()
               if key == "checkpoint" and file is not None}  # fmt: skip
    return {key: by_content(item) for key, item in value.items()} | digests


def card_of(export: Path) -> dict[str, str]:
    """What a file of weights says of itself.

    Raises:
        ValueError: If the file is no whole safetensors file.
    """
    try:
        with safe_open(export, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{export} is no whole file of weights ({error}); remove it, or choose another one") from error


def configuration_of(export: Path) -> dict | None:
    """The configuration that made a file of weights, as its card tells; None if it tells none.

    Raises:
        ValueError: If the file is no whole safetensors file.
    """
    return json.loads(card_of(export).get("configuration", "null"))
