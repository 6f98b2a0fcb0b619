"""Every verb of the command line in a tiny run on the digits, and the digits' table judged by CPU and device alike.

    for every run:  lit-pursamere VERB ... --trainer.accelerator gpu --trainer.deterministic true    (in this process)
                    again, elsewhere: the same weights, purified images and rows, bit for bit?

A status other than 0 is a fault, named by the line that the command printed. Runs that look into earlier ones fail with
those.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import torch
from checks import Check, Notes
from safetensors.torch import load_file
from session import ROOT

from lit_pursamere.cli.compare import quiet
from lit_pursamere.cli.main import main
from lit_pursamere.cli.usage import LIGHTNING_VERBS
from lit_pursamere.data.pictures import encode
from lit_pursamere.store import read_rows

__all__ = ["RUNS", "VERDICTS", "Place", "Run", "table_on_cpu", "verb_checks", "verdict_check"]

VERDICTS = "verdicts of CPU and device"
FREE = ("seconds", "stored")  # of a row: what depends on when and where it was made
VALIDATION = ("--data.val_size=40", "--data.eval_batch_size=40")
QUIET = ("--trainer.devices=1", "--trainer.deterministic=true", "--trainer.enable_progress_bar=false",
         "--trainer.enable_model_summary=false")  # fmt: skip


def attack(name: str, **settings: object) -> dict:
    """Configuration of an attack."""
    return {
        "class_path": f"lit_pursamere.attacks.{name}",
        "init_args": {"threat": {"norm": "linf", "eps": 0.15}, **settings},
    }


# One that sees each view of PurSAMERE; those that run in slots and those that do not.
ATTACKS = {
    **{view: attack("PGD", view=view, steps=2) for view in ("gray", "bpda", "first_order", "exact")},
    "APGD": attack("APGD", steps=2, evaluations=1),
    "Square": attack("Square", queries=5, evaluations=1),
}


@dataclass(frozen=True)
class Place:
    """Where a run computes and writes.

    Args:
        device: What it computes on.
        precision: Its `--trainer.precision`.
        folder: Its own folder.
        earlier: Folder with the folders of earlier runs, by name.
    """

    device: torch.device
    precision: str
    folder: Path
    earlier: Path

    def trainer(self, *options: str, logger: bool = False) -> list[str]:
        """Options of every verb that has a trainer, and these."""
        accelerator = {"cuda": "gpu"}.get(self.device.type, self.device.type)
        logs = f"--trainer.logger.save_dir={self.folder}" if logger else "--trainer.logger=false"
        return [*options, *QUIET, f"--trainer.accelerator={accelerator}", f"--trainer.precision={self.precision}",
                f"--trainer.default_root_dir={self.folder}", logs]  # fmt: skip


class Run(NamedTuple):
    """A tiny run: a verb, its other arguments, and how to read what a second run must make again (None: nothing)."""

    verb: str
    arguments: Callable[[Place], list[str]]
    product: Callable[[Path], object] | None = None


# --- what runs make


def exported(folder: Path) -> dict[str, list]:
    """The weights that a training has exported."""
    return {name: tensor.tolist() for name, tensor in load_file(folder / "out.safetensors").items()}


def purified(folder: Path) -> dict[str, bytes]:
    """The parts of a purified set."""
    return {file.name: file.read_bytes() for file in sorted(folder.glob("part-*"))}


def rows(folder: Path) -> list[dict]:
    """The records of a test."""
    return [{key: value for key, value in row.items() if key not in FREE} for row in read_rows(folder)]


# --- the runs


def config(name: str) -> str:
    return f"--config=configs/digits/{name}.yaml"


def fit(place: Place, name: str, *options: str) -> list[str]:
    few = ("--trainer.max_epochs=1", "--data.train_size=80", "--data.batch_size=40", *VALIDATION)
    return place.trainer(config(name), *few, *options, f"--model.export={place.folder}/out.safetensors", logger=True)


def fit_ncsn(place: Place) -> list[str]:
    """Two steps, one validation with PSNR, and one sample grid."""
    small = ("--model.score_model.ngf=4", "--model.objective.sigmas.count=4")
    return fit(place, "score", *small, "--model.sample_every=1", "--model.psnr_at=[25/255]")


def fit_edm(place: Place) -> list[str]:
    """EDM's network at log-uniform noise."""
    network = ("--model.score_model=EDMScore", "--model.score_model.model_channels=8", "--model.score_model.channels=1",
               "--model.score_model.image_size=8", "--model.score_model.channel_mult=[1,1]",
               "--model.score_model.attn_resolutions=[4]", "--model.score_model.num_blocks=1")  # fmt: skip
    return fit(place, "score", *network, "--model.objective=LogUniformObjective", "--model.objective.steps=3",
               "--model.sample_every=1")  # fmt: skip


def fit_classifier(place: Place) -> list[str]:
    """On the pairs of the purified set, attacked in validation, with an average of the weights."""
    attack = ("--model.attack=configs/attack/pgd20_gray.yaml", "--model.attack.steps=2",
              "--model.attack.threat={norm: linf, eps: 0.15}")  # fmt: skip
    pairs = f"--data.purified={place.earlier / 'predict'}"
    return fit(place, "classifier", pairs, "--model.classifier.width=1", "--model.ema_decay=0.9", *attack)


def validate(place: Place, name: str, *options: str) -> list[str]:
    return place.trainer(config(name), *VALIDATION, *options)


def predict(place: Place) -> list[str]:
    """The images on which classifiers are trained and validated here."""
    images = ("--data.val_size=0", "--data.train_size=120", "--data.eval_batch_size=60")
    return place.trainer(
        config("purify"), *images, "--model.purifier.sigmas.stride=8", f"--model.output={place.folder}"
    )


def robustness(place: Place, *options: str) -> list[str]:
    """The shipped networks on two images, at one level, under `ATTACKS`."""
    small = ("--model.purifier.sigmas.stride=60", "--data.test_size=2", "--data.eval_batch_size=2",
             "--model.pictures=0")  # fmt: skip
    return place.trainer(config("robustness"), *small, f"--model.attacks={json.dumps(ATTACKS)}", *options)


def test(place: Place) -> list[str]:
    """Images are kept, for `reverify`."""
    options = ("--model.save_images=true", "--model.undefended=false", f"--model.output={place.folder}")
    return robustness(place, *options)


def audit(place: Place) -> list[str]:
    checks = ("--audit.checks=[deterministic,gradients,inner_optimisation]", "--audit.attack=bpda")
    return robustness(place, *checks, "--audit.images=2", f"--audit.output={place.folder}")


def certify(place: Place) -> list[str]:
    """Two images, a few draws at one level."""
    few = ("--model.sigma=[0.25]", "--model.n0=4", "--model.n=12", "--data.test_size=2", "--data.eval_batch_size=2")
    return place.trainer(config("certify"), *few, f"--model.output={place.folder}")


def walk(place: Place) -> list[str]:
    return robustness(place, f"--model.output={place.folder}")


def with_known_noise(place: Place, name: str, *asked: str) -> list[str]:
    """An audit that compares fresh with known noise."""
    options = ("--model.purifier=configs/purifier/dp_ddim.yaml", "--model.purifier.steps=20",
               "--model.attacks.exact20.steps=1")  # fmt: skip
    asked = (f"--audit={name}", "--audit.images=2", *asked, f"--audit.output={place.folder}")
    return place.trainer(config("views"), *options, *asked)


def estimate(place: Place) -> list[str]:
    return robustness(place, "--estimate.measure=true")


def compare(place: Place) -> list[str]:
    """The classifier alone, and DP_DDIM with fresh noise."""
    attacks = {"BPDA": attack("PGD", steps=2, eot=2)}
    shipped = {part: str(ROOT / f"configs/{part}/digits.yaml") for part in ("classifier", "score_model")}
    task = {**shipped, "attacks": attacks, "pictures": 0}
    data = {"class_path": "lit_pursamere.data.Digits", "init_args": {"test_size": 4, "eval_batch_size": 4}}
    content = {
        "output": str(place.folder),
        "test": {"model": {"class_path": "lit_pursamere.tasks.LitRobustness", "init_args": task}, "data": data},
        "purifiers": {
            "undefended": "Identity",
            "DP_DDIM": str(ROOT / "configs/purifier/dp_ddim.yaml"),
        },
    }
    return [written(place, "comparison.yaml", json.dumps(content)), *place.trainer()]  # JSON is YAML


def purify(place: Place) -> list[str]:
    """One picture."""
    picture = torch.randint(256, (1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    written(place, "in/x.png", encode(picture))
    return [f"{place.folder}/in", f"{place.folder}/out", "--purifier=configs/purifier/pursamere_digits.yaml",
            "--score_model=configs/score_model/digits.yaml", "--purifier.sigmas.stride=12",
            f"--device={place.device.type}"]  # fmt: skip


def evaluate(place: Place) -> list[str]:
    """The shipped classifier on two images, without a purifier."""
    return ["digits/wrn-10-2-pairs", "digits", "--purifier=Identity", "--threat=linf 0.15", "--n=2",
            f"--output={place.folder}", f"--device={place.device.type}"]  # fmt: skip


def fid(place: Place) -> list[str]:
    """Four samples at three levels, with pixels as features, which need no weights."""
    return ["--data=configs/data/digits.yaml", "--score_model=configs/score_model/digits.yaml", "--n=4",
            "--score_model.ngf=16", "--objective=NCSNObjective", "--objective.sigmas.count=3",
            "--features=torch.nn.Flatten", f"--device={place.device.type}"]  # fmt: skip


def experiment(place: Place) -> list[str]:
    """One stage, in a process of its own."""
    return [written(place, "experiment.yaml", json.dumps({"stages": [f"report {place.earlier / 'test'}"]}))]


def written(place: Place, name: str, content: str | bytes) -> str:
    """Write a file into the folder of a run; returns its path."""
    file = place.folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(file)


# By name, in this order: later runs look into earlier ones.
RUNS: dict[str, Run] = {
    "test": Run("test", test, rows),
    "predict": Run("predict", predict, purified),
    "fit NCSNv2": Run("fit", fit_ncsn, exported),
    "fit EDM": Run("fit", fit_edm, exported),
    "fit a classifier on pairs": Run("fit", fit_classifier, exported),
    "validate a score model": Run("validate", partial(validate, name="score")),
    "validate a classifier": Run("validate", lambda place: validate(place, "classifier", "--data.purified=null")),
    "compare": Run("compare", compare),
    "audit": Run("audit", audit),
    "eot-similarity": Run("audit", lambda place: with_known_noise(place, "Similarity", "--audit.draws=2")),
    "landscape": Run("audit", lambda place: with_known_noise(place, "Landscape", "--audit.points=2")),
    "directions": Run(
        "audit", lambda place: with_known_noise(place, "Directions", "--audit.tables=2", "--audit.points=3")
    ),
    "certify": Run("certify", certify),
    "walk": Run("walk", walk),
    "estimate": Run("estimate", estimate),
    "purify": Run("purify", purify),
    "reverify": Run("reverify", lambda place: [f"{place.earlier}/test", f"--device={place.device.type}"]),
    "report": Run("report", lambda place: [f"{place.earlier}/test", "--figures"]),
    "purified": Run("purified", lambda place: ["inspect", f"{place.earlier}/predict"]),
    "weights": Run("weights", lambda place: ["inspect", "checkpoints/digits/score.safetensors"]),
    "sigmas": Run("sigmas", lambda place: ["--data=configs/data/digits.yaml", "--images=50"]),
    "runs": Run("runs", lambda place: [str(place.earlier)]),
    "export": Run("export", lambda place: [f"{place.earlier}/test", f"{place.folder}/images.npz"]),
    "judge": Run("judge", lambda place: [f"{place.earlier}/export/images.npz", *robustness(place)]),
    "evaluate": Run("evaluate", evaluate, rows),
    "init": Run("init", lambda place: [f"{place.folder}/project"]),
    "completion": Run("completion", lambda place: ["bash"]),
    "fid": Run("fid", fid),
    "figure": Run("figure", lambda place: ["reconstruction-error", f"{place.folder}/figure.png"]),
    "experiment": Run("experiment", experiment),
}
TOY = {"32-true": ("test", "report", "weights"), "bf16-mixed": ("validate a classifier",)}


def verb_checks(device: torch.device, precision: str, folder: Path, toy: bool) -> Iterator[Check]:
    """Checks of all runs; but in bf16-mixed only of those that are trainer's own; `toy`: of a few.

    Args:
        device: What they compute on.
        precision: `32-true` or `bf16-mixed`.
        folder: For what they write.
        toy: Whether only a few are wanted.
    """
    for name, run in RUNS.items():
        if (toy and name not in TOY[precision]) or (precision != "32-true" and run.verb not in LIGHTNING_VERBS):
            continue
        place = Place(device, precision, folder / precision / name, folder / precision)
        yield Check(f"{name}, {precision}", partial(run_verb, run=run, place=place), limit=45)


def run_verb(notes: Notes, run: Run, place: Place) -> None:
    """Run a verb, and once more elsewhere if what it makes can be compared."""
    seconds = []
    for folder in [place.folder, place.folder.with_name(f"{place.folder.name} again")][: 1 + bool(run.product)]:
        began = time.monotonic()
        execute([run.verb, *run.arguments(replace(place, folder=folder))])
        seconds.append(round(time.monotonic() - began, 1))
        notes.note("seconds", seconds)
    if run.product is not None:
        first, again = run.product(place.folder), run.product(folder)
        notes.require("something made", bool(first))
        notes.require("the same twice", first == again)


def execute(arguments: list[str]) -> None:
    """Run one command in this process, silently, and undo what it leaves behind.

    Raises:
        RuntimeError: If its status is not 0; with the end of what it printed.
    """
    told = StringIO()
    try:
        with chdir(ROOT), undone(), redirect_stdout(told), redirect_stderr(told):
            status = main(arguments)
    except SystemExit as end:
        status = end.code
    if status:
        raise RuntimeError(f"lit-pursamere {arguments[0]} ended with {status}: ... {told.getvalue()[-400:]}")


@contextmanager
def undone() -> Iterator[None]:
    """Undo what Lightning sets for good: deterministic kernels and variables; it says nothing of devices meanwhile."""
    deterministic, cudnn = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn
    environment, kernels = dict(os.environ), (cudnn.deterministic, cudnn.benchmark)
    try:
        with quiet():
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        cudnn.deterministic, cudnn.benchmark = kernels
        os.environ.clear()
        os.environ.update(environment)


# --- verdicts


def table(device: torch.device, folder: Path, toy: bool) -> list[str]:
    """Arguments of the digits' table, clean, gPGD20 and BPDA20; `toy`: of a few images and steps."""
    place = Place(device, "32-true", folder, folder)
    count, pictures = 4 if toy else 64, 0 if device.type == "cpu" else 6
    size = (f"--data.test_size={count}", f"--data.eval_batch_size={count}", f"--model.pictures={pictures}")
    short = ("--model.purifier.sigmas.stride=8", "--model.attacks.gPGD20.steps=2", "--model.attacks.BPDA20-det.steps=2")
    options = (*size, *(short if toy else ()), f"--model.output={folder}")
    return ["test", *place.trainer(config("robustness"), *options)]


@contextmanager
def table_on_cpu(folder: Path, toy: bool) -> Iterator[subprocess.Popen]:
    """A process that fills the digits' table on a few cores, beside whatever goes on within."""
    folder.mkdir(parents=True, exist_ok=True)
    threads = 1 if toy else max(1, min(4, (os.cpu_count() or 1) // 2))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "",
                   "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}  # fmt: skip
    command = [sys.executable, "-m", "lit_pursamere", *table(torch.device("cpu"), folder, toy)]
    with open(folder / "output.txt", "w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def verdict_check(device: torch.device, folder: Path, process: subprocess.Popen | None, toy: bool) -> Check:
    """How many verdicts of the digits' table differ between this device and the CPU.

    Args:
        device: The device.
        folder: For its table; the CPU's is in its folder `cpu`.
        process: Fills the CPU's table.
        toy: As in `table`.
    """

    def work(notes: Notes) -> None:
        execute(table(device, folder / "device", toy))
        if process.wait():
            told = (folder / "cpu/output.txt").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"the table on the CPU ended with {process.returncode}: ... {told[-400:]}")
        compare_verdicts(notes, read_rows(folder / "cpu"), read_rows(folder / "device"))

    return Check(VERDICTS, work, limit=60)


def compare_verdicts(notes: Notes, cpu: list[dict], device: list[dict]) -> None:
    """Note how many verdicts differ, and which: image by image, at the last iterate and at any."""
    count, flips, which = 0, 0, []
    notes.require("the same images", [place_of(row) for row in cpu] == [place_of(row) for row in device])
    for then, now in zip(cpu, device, strict=True):
        for iterate in ("last", "any"):
            one, other = then[f"prediction_{iterate}"], now[f"prediction_{iterate}"]
            count += one is not None
            if one != other:
                flips += (one == then["label"]) != (other == then["label"])
                which.append(f"{place_of(then)}, {iterate}: {one} on the CPU, {other} here, of {then['label']}")
    notes.note("verdicts", count)
    notes.note("differ", len(which))
    notes.note("between right and wrong", flips)
    notes.note("which", which)
    apart = [abs(a["margin_last"] - b["margin_last"]) for a, b in zip(cpu, device, strict=True)]
    notes.note("largest difference of margins", max(apart))


def place_of(row: dict) -> str:
    return f"{row['system']}, {row['attack']}, image {row['index']}"
