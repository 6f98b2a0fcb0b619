"""A folder with one of everything that commands read, at sizes of a second: a run, a purified set, pictures, weights."""

# ruff: noqa: E501 (a row is a line)

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.faults.machine import ROOT, Machine

__all__ = ["VERBS", "build", "furnish", "words"]

TRAINER = "trainer: {accelerator: cpu, devices: 1, logger: false, enable_progress_bar: false, default_root_dir: .}\n"
DATA = """\
data:
  class_path: lit_pursamere.data.Digits
  init_args: {batch_size: 8, eval_batch_size: 2, val_size: 4, train_size: 16, test_size: 4}
"""
SCORE = "configs/score_model/digits.yaml"
PURIFIER = "{class_path: lit_pursamere.purifiers.PurSAMERE, init_args: {rho_pur: 1.5, rho_sam: 0, draws: 1, sigmas: \
{sigma_max: 5.0, sigma_min: 0.01, count: 64, first: 1.0, last: 0.02, stride: 20}}}"
STOCHASTIC = "{class_path: lit_pursamere.purifiers.Langevin, init_args: {step_size: 1.0e-5, sigmas: \
{sigma_max: 5.0, sigma_min: 0.01, count: 64, first: 0.1, last: 0.02, stride: 5}}}"
ATTACKS = "{gray: {class_path: lit_pursamere.attacks.PGD, init_args: {view: gray, steps: 1}}, \
bpda: {class_path: lit_pursamere.attacks.PGD, init_args: {view: bpda, steps: 2}}}"


def test(model: str = "") -> str:
    return f"""\
seed_everything: 0
model:
  class_path: lit_pursamere.tasks.LitRobustness
  init_args:
    threat: {{norm: linf, eps: 0.15}}
    score_model: {SCORE}
    purifier: {PURIFIER}
    classifier: configs/classifier/digits.yaml
    attacks: {ATTACKS}
    pictures: 2
    pool: 2
    output: out
{model}{DATA}{TRAINER}"""


def fit(task: str, more: str) -> str:
    return f"""\
seed_everything: 0
model:
  class_path: lit_pursamere.tasks.{task}
  init_args:
    export: out/net.safetensors
{more}
{DATA}trainer:
  accelerator: cpu
  devices: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: logs
  max_epochs: 2
  callbacks:
    - class_path: pytorch_lightning.callbacks.ModelCheckpoint
      init_args: {{filename: last, enable_version_counter: false, every_n_train_steps: 1, save_on_train_epoch_end: false}}
"""


NETWORK = """\
    classifier: {class_path: lit_pursamere.networks.WideResNet, init_args: {depth: 10, width: 1, num_classes: 10, channels: 1}}
    milestones: [1]
    ema_decay: 0.9"""
TRAINED = "    score_model: {class_path: lit_pursamere.diffusion.NCSNv2Score, init_args: {ngf: 4, channels: 1, image_size: 8}}"
FILES = {
    "test.yaml": test(),
    "kept.yaml": test("    save_images: true\n"),
    "predict.yaml": f"seed_everything: 0\nmodel:\n  class_path: lit_pursamere.tasks.LitPurification\n  init_args: "
    f"{{score_model: {SCORE}, purifier: {PURIFIER}, output: out}}\n"
    + DATA.replace("init_args: {", "init_args: {evaluate: val, ")
    + TRAINER,
    "fit.yaml": fit("LitClassifier", NETWORK),
    "score.yaml": fit("LitScoreModel", TRAINED),
    "data.yaml": DATA,
    "purifier.yaml": PURIFIER + "\n",
    "bpda2.yaml": "{class_path: PGD, init_args: {view: bpda, steps: 2}}\n",
    "stochastic.yaml": STOCHASTIC + "\n",
    "compare.yaml": "output: out\ntest: test.yaml\npurifiers:\n  undefended: Identity\n  PurSAMERE: purifier.yaml\n",
    "experiment.yaml": "stages:\n  - predict --config predict.yaml --model.output out/set\n"
    "  - fit --config fit.yaml --trainer.default_root_dir out/logs --trainer.max_epochs 1\n"
    "  - test --config test.yaml --model.output out/run\n",
}  # fmt: skip

# What every verb is called with, by the word that stands for it in tables.
VERBS = {
    "TEST": "test --config test.yaml",
    "KEEP": "test --config kept.yaml",
    "PREDICT": "predict --config predict.yaml",
    "FIT": "fit --config fit.yaml",
    "SCORE": "fit --config score.yaml",
    "VALIDATE": "validate --config fit.yaml",
    "COMPARE": "compare compare.yaml",
    "AUDIT": "audit --config test.yaml --audit.images 2 --audit.queries 4 --audit.planted 1 --audit.output out",
    "SIMILARITY": "audit --config test.yaml --model.purifier stochastic.yaml --audit Similarity --audit.images 2 "
    "--audit.draws 2 --audit.output out",
    "EVALUATE": "evaluate digits/wrn-10-2-pairs small.npz --purifier purifier.yaml --score_model digits --n 4 --seed 1 "
    "--threat 'linf 0.15' --attacks bpda2.yaml --batch_size 2 --output out",
    "ESTIMATE": "estimate --config test.yaml",
    "EXPERIMENT": "experiment experiment.yaml",
    "PURIFY": f"purify photos out --purifier purifier.yaml --score_model {SCORE} --batch_size 2",
    "ARRAY": f"purify small.npz out --purifier purifier.yaml --score_model {SCORE} --batch_size 2",
    "REPORT": "report run",
    "FIGURES": "report run --figures",
    "REVERIFY": "reverify run",
    "INSPECT": "purified inspect set",
    "WEIGHTS": "weights inspect net.safetensors",
    "CONVERT": "weights convert net.safetensors out.safetensors",
    "SIGMAS": "sigmas --config data.yaml",
    "FIGURE": "figure proposition-1 out.png",
}


def words(line: str) -> list[str]:
    """The arguments of a line of a table: the first word may stand for a verb with its options."""
    head, _, rest = line.partition(" ")
    return shlex.split(VERBS.get(head, head)) + shlex.split(rest)


def build(machine: Machine, folder: Path) -> Path:
    """Make the folder: the files, and with the commands themselves a run, a purified set and trained weights.

    Raises:
        RuntimeError: If a command that should succeed does not.
    """
    furnish(folder)
    for line in ("KEEP --model.output run", "PREDICT --model.output set", "FIT --model.export net.safetensors"):
        done = machine.run(words(line), folder)
        if done.status:
            raise RuntimeError(f"{line} ended with status {done.status}: {done.text}")
    shutil.copy(folder / "logs/checkpoints/last.ckpt", folder / "last.ckpt")
    shutil.rmtree(folder / "logs")
    return folder


def furnish(folder: Path) -> None:
    """Write what no command has to make."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("configs", "checkpoints"):
        (folder / name).symlink_to(ROOT / name)
    for name, content in FILES.items():
        (folder / name).write_text(content)
    draw = np.random.default_rng(0)
    for name in ("photos/a", "photos/b", "photos/deep/c", *(f"classes/{s}/{c}/{i}" for s in ("train", "test")
                 for c in ("cat", "dog") for i in range(6))):  # fmt: skip
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
    np.savez(folder / "small.npz", **arrays())


def arrays(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """Four images per split with their classes; arrays given here replace these, None leaves one out."""
    draw = np.random.default_rng(1)
    found: dict[str, np.ndarray | None] = {}
    for split in ("train", "test"):
        found[f"{split}_images"] = draw.integers(0, 256, (12, 8, 8), dtype=np.uint8)
        found[f"{split}_labels"] = np.arange(12) % 10
    return {name: array for name, array in (found | changes).items() if array is not None}


Setup = Callable[[Path], None]
