"""A small project of one's own: configurations from images to table, sized by the images, in a folder that runs."""

from __future__ import annotations

import math
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml

from lit_pursamere.data import ImageDataModule
from lit_pursamere.diffusion.schedules import NoiseLevels, largest_distance
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.threat import ThreatModel

__all__ = ["write_project"]

LEVELS = 20  # that the purifier walks along, about
REACH = 1.25  # rho_pur in l2 lengths of the threat, as for the shipped data sets
COMPARED = 1000  # training images at most, whose largest distance is the largest level

FILES = {
    "score.yaml": """
        # Trains the score model: lit-pursamere fit --config score.yaml
        seed_everything: 0
        model:
          class_path: lit_pursamere.tasks.LitScoreModel
          init_args:
            score_model: network.yaml
            objective:
              class_path: lit_pursamere.diffusion.NCSNObjective
              init_args: {sigmas: {sigma_max: SIGMA_MAX, sigma_min: 0.01, count: COUNT}}
            lr: 1.0e-3
            warmup: 100
            schedule: cosine
            ema_decay: 0.999
            ema_warmup: true
            export: runs/score/score.safetensors
        data: data.yaml
        trainer:
          max_steps: 4000
          gradient_clip_val: 1.0
          log_every_n_steps: 10
          logger:
            class_path: pytorch_lightning.loggers.TensorBoardLogger
            init_args: {save_dir: runs, name: score, version: logs}
          callbacks:
            - class_path: pytorch_lightning.callbacks.ModelCheckpoint
              init_args: {filename: last, every_n_train_steps: 100, enable_version_counter: false}
    """,
    "network.yaml": """
        # The score model's network, as it is trained; `data` is what the data say of their images.
        class_path: lit_pursamere.diffusion.NCSNv2Score
        init_args: {ngf: 16, channels: data, image_size: data}
    """,
    "score_model.yaml": """
        # The trained score model.
        class_path: lit_pursamere.diffusion.NCSNv2Score
        init_args: {ngf: 16, channels: data, image_size: data, checkpoint: runs/score/score.safetensors}
    """,
    "purifier.yaml": """
        # PurSAMERE. A start, not a choice: rho_pur is 1.25 times the l2 length of THREAT. To choose, by images that
        # are not tested: lit-pursamere test --config robustness.yaml --data.evaluate val --model.output runs/val
        class_path: lit_pursamere.purifiers.PurSAMERE
        init_args:
          rho_pur: RHO_PUR
          rho_sam: RHO_SAM
          draws: 1
          sigmas: {sigma_max: SIGMA_MAX, sigma_min: 0.01, count: COUNT, first: 0.5, last: 0.05, stride: STRIDE}
    """,
    "purify.yaml": """
        # Purifies the training images, those that are held out among them: lit-pursamere predict --config purify.yaml
        seed_everything: 0
        model:
          class_path: lit_pursamere.tasks.LitPurification
          init_args: {score_model: score_model.yaml, purifier: purifier.yaml, output: runs/purified}
        data: {class_path: DATA, init_args: {ARGUMENTS, evaluate: train, eval_batch_size: 128}}
        trainer: {logger: false, default_root_dir: runs/purified}
    """,
    "classifier.yaml": """
        # Trains the classifier on clean and purified pairs: lit-pursamere fit --config classifier.yaml
        seed_everything: 0
        model:
          class_path: lit_pursamere.tasks.LitClassifier
          init_args:
            classifier:
              class_path: lit_pursamere.networks.WideResNet
              init_args: {depth: 10, width: 2, channels: data, num_classes: data}
            nesterov: true
            milestones: [15, 22, 26]
            export: runs/classifier/classifier.safetensors
        data:
          class_path: DATA
          init_args: {ARGUMENTS, batch_size: 64, eval_batch_size: 128, val_size: VAL, purified: runs/purified}
        trainer:
          max_epochs: 30
          log_every_n_steps: 5
          logger:
            class_path: pytorch_lightning.loggers.TensorBoardLogger
            init_args: {save_dir: runs, name: classifier, version: logs}
          callbacks:
            - class_path: pytorch_lightning.callbacks.ModelCheckpoint
              init_args: {filename: last, enable_version_counter: false}
    """,
    "robustness.yaml": """
        # Attacks the classifier, alone and behind the purifier: lit-pursamere test --config robustness.yaml
        seed_everything: 0
        model:
          class_path: lit_pursamere.tasks.LitRobustness
          init_args:
            threat: {norm: NORM, eps: EPS}
            score_model: score_model.yaml
            purifier: purifier.yaml
            classifier:
              class_path: lit_pursamere.weights.trained
              init_args:
                network:
                  class_path: lit_pursamere.networks.WideResNet
                  init_args: {depth: 10, width: 2, channels: data, num_classes: data}
                checkpoint: runs/classifier/classifier.safetensors
            attacks: {gPGD20: pgd20_gray, BPDA20: pgd20_bpda, exact20: pgd20_exact}
            output: runs/robustness
        data: {class_path: DATA, init_args: {ARGUMENTS, val_size: VAL, eval_batch_size: 64, test_size: TEST}}
        trainer: {logger: false, default_root_dir: runs/robustness}
    """,
    "data.yaml": """
        # The images that the score model is trained on.
        class_path: DATA
        init_args: {ARGUMENTS, batch_size: 64, eval_batch_size: 128, val_size: VAL}
    """,
    "experiment.yaml": """
        # From images to table: lit-pursamere experiment experiment.yaml. Stopped, the same command goes on.
        stages:
          - fit --config score.yaml
          - predict --config purify.yaml
          - fit --config classifier.yaml
          - test --config robustness.yaml
    """,
}


def write_project(folder: Path, told: dict[str, Any], data: ImageDataModule, threat: ThreatModel) -> list[Path]:
    """Write the configurations of a project.

    Args:
        folder: A new one.
        told: What a configuration says of the data, class_path and init_args.
        data: The data, whose training images say how far apart they lie.
        threat: Of the test.

    Returns:
        The files.

    Raises:
        FileExistsError: If there is something of the folder's name.
        ValueError: If the data have no images to train on.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; choose another name")
    data.prepare_data()
    data.setup(None)
    total = len(data.sources["train"])
    held = min(max(total // 10, 1), 5000)
    images = data.training_images(min(total, COMPARED))
    pixels = images[0].numel()
    levels = NoiseLevels.from_data(largest_distance(images), pixels, 0.01)
    between = sum(0.05 <= sigma <= 0.5 for sigma in levels.values)
    reach = REACH * threat.eps * (math.sqrt(pixels) if threat.norm == "linf" else 1)
    words = {
        "SIGMA_MAX": f"{levels.sigma_max:.4g}", "COUNT": levels.count, "THREAT": threat,
        "RHO_PUR": f"{reach:.3g}", "RHO_SAM": f"{reach / 6:.3g}",
        "STRIDE": max(1, between // LEVELS), "NORM": threat.norm, "EPS": threat.plain_eps, "VAL": held,
        "TEST": min(len(data.sources["test"]), 256), "DATA": told["class_path"],
        "ARGUMENTS": yaml.safe_dump(told.get("init_args", {}), default_flow_style=True, width=10_000).strip()[1:-1],
    }  # fmt: skip
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        content = dedent(text).lstrip("\n").rstrip(" ")
        for word in sorted(words, key=len, reverse=True):
            content = content.replace(word, str(words[word]))
        write_whole(folder / name, content.replace("{, ", "{").encode())
    return [folder / name for name in FILES]
