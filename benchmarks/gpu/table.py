"""From a score model to a table: purified pairs, a classifier on them, then PurSAMERE and its rivals under attack.

    python benchmarks/gpu/table.py --score FILE.safetensors [--rivals] [--resume FOLDER]

    packed images -> predict: pairs -> fit: classifier -> for the cheapest attacks first, for every purifier: test

Every step is a command of the package on files in --work, so it is continued there, not repeated. What comes back is
small, and enough to go on elsewhere with --resume:

    table.md, table.json     accuracies with n and 95 % intervals, of whatever is evaluated so far
    classifier.safetensors   the classifier, float16; it is evaluated with these very numbers
    records.zip              the folders of the `test` runs

The setting of PurSAMERE is a first try, and nothing is chosen on the test images.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import torch
import yaml
from packed import packed_images, toy_images
from session import ROOT, Session, arguments, parsed
from torch import Tensor

from lit_pursamere.cli.compare import build, only_defense, prospect, quiet, release
from lit_pursamere.cli.lightning import command_line
from lit_pursamere.cli.plan import Plan, read_plan
from lit_pursamere.cli.weights import convert
from lit_pursamere.data import PurifiedSet
from lit_pursamere.diffusion import EDMScore, ScoreModel
from lit_pursamere.networks import WideResNet
from lit_pursamere.purifiers import Purifier
from lit_pursamere.report import Report, Run, as_markdown
from lit_pursamere.report.runs import run_of
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.store.atomic import replacing, write_whole
from lit_pursamere.store.manifest import read_manifest
from lit_pursamere.weights import inspect_weights, save_weights

CLASSIFIER, RECORDS = "classifier.safetensors", "records.zip"
STAGES = ("bpda", "exact", "apgd")  # attacks that are evaluated together, the cheapest first
COMPLETE = {"new verdicts": 0}
FILE_LIMIT = 16 * 2**20  # bytes of a file that comes back
TOY = {
    "train": 40, "val": 10, "test": [2, 10], "size": 16, "batch": 4, "purify_batch": 25, "levels": 2, "epochs": 1,
    "classifier": "10-1", "steps": 2, "eot": 2, "evaluations": 2,
}  # fmt: skip
TOY_NETWORK = {
    "model_channels": 8, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [], "image_size": 16,
    "augment_dim": 0, "dropout": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Rival:
    """A purifier beside PurSAMERE.

    Args:
        file: Its file in configs/purifier; the score model there is replaced.
        short: Arguments for about a fifth of the official steps, those of configs/compare/digits_short.yaml.
        arguments: Arguments in any case.
        fresh: Whether it draws fresh noise, so that attacks and verdicts take several draws.
        options: Options of `test` for it alone.
    """

    file: str
    short: dict = field(default_factory=dict)
    arguments: dict = field(default_factory=dict)
    fresh: bool = True
    options: dict = field(default_factory=dict)


EVERY_FIFTH = {"sigma_max": 50.0, "sigma_min": 0.01, "count": 232, "first": 0.1, "stride": 5}
RIVALS = {
    "LikelihoodMaximisation": Rival("likelihood", fresh=False),
    "MagNet": Rival("magnet", fresh=False),
    "DenoisedSmoothing": Rival("denoised_smoothing"),
    "ADBM": Rival("adbm"),
    "DP_DDIM": Rival("dp_ddim"),
    "ADP": Rival("adp", options={"model.ensemble": {"copies": 10, "average": "logits", "attacked": 1}}),
    "DP_EDM ODE": Rival("dp_edm_ode", {"steps": 10}),
    "DP_EDM SDE": Rival("dp_edm", {"steps": 10, "s_churn": 1.2}),
    "MALADE": Rival("malade"),
    "DiffPure SDE": Rival("diffpure", {"dt": 0.005}),
    "DiffPure ODE": Rival("diffpure", {"dt": 0.005}, {"sampler": "ode"}),
    "DP_DDPM": Rival("dp_ddpm", {"steps": 200}),
    "DiffPureLD": Rival("diffpure_ld", {"dt": 0.05}),
    "COUP": Rival("coup", {"dt": 0.005}),
    "ExtraCorrector": Rival("extra_corrector", {"dt": 0.01}),
    "GDMP": Rival("gdmp", {"rounds": 1}),
    "Langevin": Rival("langevin", {"sigmas": EVERY_FIFTH, "step_size": 1.29e-5}),
}


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; with --toy the sizes have other defaults."""
    parser = arguments(__doc__.splitlines()[0], minutes=9.5)
    add = parser.add_argument
    add("--score", type=Path, help="weight file of an EDMScore")
    add("--network", help="arguments of EDMScore as JSON, if the weight file does not tell them")
    add("--known", type=float, nargs=2, default=[0.01, 1.0], help="noise levels that the score model was trained at")
    add("--work", type=Path, help="folder to work in (default: runs/gpu/table, with --toy runs/gpu/table-toy)")
    add("--resume", type=Path, help="folder with the classifier and the records of an earlier call")
    add("--rivals", action="store_true", help="evaluate the other purifiers as well, after PurSAMERE")
    add("--official", action="store_true", help="rivals take all of their steps instead of a fifth")
    add("--only", nargs="+", metavar="NAME", help="evaluate these systems only")
    add("--stages", nargs="+", choices=STAGES, default=STAGES, help="evaluate under these attacks only")
    add("--each", type=float, default=45.0, help="seconds for a rival in a stage")
    add("--train", type=int, default=10_000, help="images that are purified and trained on")
    add("--val", type=int, default=256, help="purified images that are held out to watch the training")
    add("--test", type=int, nargs=2, default=[512, 1024], help="positions of the test images: first, end")
    add("--size", type=int, default=32, help="height and width of toy images")
    add("--batch", type=int, default=128, help="images under attack at once")
    add("--purify_batch", type=int, default=512, help="images purified at once for the pairs")
    add("--classifier", default="16-4", help="depth and width of the WideResNet")
    add("--epochs", type=int, default=30, help="epochs of the classifier, in bf16-mixed")
    add("--precision", default="32-true", help="of purification and evaluation")
    add("--rho", type=float, nargs="+", default=[2.0, 2.5, 3.0], help="radii of PurSAMERE; the largest for the pairs")
    add("--rho_sam", type=float, default=0.5, help="radius of its SAM ascent")
    add("--first", type=float, default=0.15, help="its largest noise level")
    add("--last", type=float, default=0.02, help="its smallest noise level")
    add("--levels", type=int, default=8, help="its number of levels")
    add("--draws", type=int, default=2, help="its draws at every level")
    add("--lr", type=float, default=0.05, help="its learning rate at the first level")
    add("--steps", type=int, default=20, help="steps of every attack")
    add("--eot", type=int, default=4, help="draws per step of the attacks on purifiers with fresh noise")
    add("--evaluations", type=int, default=4, help="verdicts per image on purifiers with fresh noise")
    add("--seed", type=int, default=0)
    options = parsed(parser, args, TOY)
    options.work = options.work or Path("runs/gpu/table-toy" if options.toy else "runs/gpu/table")
    check(parser, options)
    return options


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what would only fail after minutes."""
    if not options.toy and options.score is None:
        parser.error("--score is needed, a weight file such as train_score.py exports")
    for path in filter(None, (options.score, options.resume)):
        if not path.exists():
            parser.error(f"there is no {path}")
    with torch.device("meta"):
        size = 2 * sum(weight.numel() for weight in WideResNet(**wide_resnet(options)["init_args"]).parameters())
    if size > FILE_LIMIT:
        parser.error(f"WRN-{options.classifier} takes {size / 2**20:.0f} MiB in float16, and at most 16 come back")
    if unknown := set(options.only or ()) - set(names(options)):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; known: {', '.join(names(options))}")


def names(options: argparse.Namespace) -> list[str]:
    """Names of all systems, in order."""
    return ["undefended", *map(pursamere_at, options.rho), *RIVALS]


def pursamere_at(rho: float) -> str:
    """Name of PurSAMERE with this radius."""
    return f"PurSAMERE rho {rho:g}"


def wide_resnet(options: argparse.Namespace) -> dict:
    """The classifier as a configuration."""
    depth, width = map(int, options.classifier.split("-"))
    return {"class_path": "lit_pursamere.networks.WideResNet", "init_args": {"depth": depth, "width": width}}


@dataclass
class Setting:
    """What is run, as configurations of the package, and the files of it."""

    options: argparse.Namespace
    device: torch.device

    def __post_init__(self) -> None:
        self.work = self.options.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.images, self.pairs = self.work / "cifar10-packed.npz", self.work / "purified"
        self.trained, self.classifier = self.work / "classifier" / CLASSIFIER, self.work / CLASSIFIER
        self.records = self.work / "records"
        self.score = self.options.score or toy_score(self.work / "score.safetensors")
        self.network = score_model(self.score, self.options.network)

    def pursamere(self, rho: float, rho_sam: float) -> dict:
        """PurSAMERE by the options."""
        o = self.options
        sigmas = {"sigma_max": o.first, "sigma_min": o.last, "count": o.levels}
        own = {"rho_pur": rho, "rho_sam": rho_sam, "draws": o.draws, "sigmas": sigmas, "lr_max": o.lr}
        return {"class_path": "lit_pursamere.purifiers.PurSAMERE", "init_args": own}

    def purification(self) -> dict:
        """The pairs: SAM off, as the paper does it."""
        purifier = self.pursamere(max(self.options.rho), rho_sam=0.0)
        task = {"score_model": self.network, "purifier": purifier, "output": str(self.pairs), "dtype": "uint8"}
        data = {"evaluate": "train", "eval_batch_size": self.options.purify_batch}
        return self.configuration("LitPurification", task, data, self.pairs, precision=self.options.precision)

    def training(self) -> dict:
        """The classifier on pairs."""
        o = self.options
        task = {
            "classifier": wide_resnet(o), "nesterov": True, "schedule": "cosine", "warmup": 1, "channels_last": True,
            "export": str(self.trained),
        }  # fmt: skip
        data = {
            "batch_size": min(128, o.train), "eval_batch_size": 128, "val_size": o.val, "crop": 4, "flip": True,
            "purified": str(self.pairs),
        }  # fmt: skip
        checkpoint = {"filename": "last", "enable_version_counter": False}
        callback = {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": checkpoint}
        return self.configuration(
            "LitClassifier", task, data, self.trained.parent, precision="bf16-mixed", max_epochs=o.epochs,
            num_sanity_val_steps=0, enable_progress_bar=False, callbacks=[callback],
        )  # fmt: skip

    def stages(self) -> dict[str, dict[str, dict]]:
        """Attacks by name, by the stage that they belong to; every stage is a run of its own."""
        steps = self.options.steps
        common = {"threat": {"norm": "linf", "eps": "8/255"}, "steps": steps}

        def attack(kind: str, gradient: str, **more: object) -> dict:
            return {
                "class_path": f"lit_pursamere.attacks.{kind}",
                "init_args": {**common, "view": gradient, **more},
            }

        return {
            "bpda": {
                f"gPGD{steps}": attack("PGD", "gray", step_size="2/255"),
                f"BPDA{steps}": attack("PGD", "bpda", step_size="2/255"),
            },
            "exact": {f"exact{steps}": attack("PGD", "exact", step_size="2/255")},
            "apgd": {f"APGD{steps}": attack("APGD", "exact", loss="ce", evaluations=1)},
        }

    def plan(self, stage: str) -> Plan:
        """All systems under the attacks of a stage, in a file as `lit-pursamere compare` reads it."""
        o, attacks, folder = self.options, self.stages()[stage], self.records / stage
        weights = {"network": wide_resnet(o), "checkpoint": str(self.classifier)}
        classifier = {"class_path": "lit_pursamere.weights.trained", "init_args": weights}
        task = {"score_model": self.network, "classifier": classifier, "attacks": attacks, "pictures": 0}
        data = {"eval_batch_size": o.batch}
        content = {
            "output": str(folder),
            "test": self.configuration("LitRobustness", task, data, folder, precision=o.precision),
            "purifiers": {
                "undefended": "Identity",
                **{pursamere_at(rho): self.pursamere(rho, o.rho_sam) for rho in o.rho},
                **{name: self.rival(name, attacks) for name in RIVALS},
            },
        }
        return read_plan(self.write(stage, content))

    def rival(self, name: str, attacks: dict[str, dict]) -> dict:
        """The entry of a rival: its official file, shortened, under as many draws as its noise asks for."""
        o, rival = self.options, RIVALS[name]
        own = {**rival.arguments, **({} if o.official else rival.short)}
        # Draws multiply the batch, and a smaller one is more often done when the time is up.
        options = {"data.eval_batch_size": max(1, o.batch // 2), **rival.options}
        if rival.fresh:
            options["model.evaluations"] = o.evaluations
            for attack, told in attacks.items():
                if told["init_args"]["view"] != "gray":
                    options[f"model.attacks.{attack}.eot"] = o.eot
                if "evaluations" in told["init_args"]:
                    options[f"model.attacks.{attack}.evaluations"] = o.evaluations
        purifier = {"model.purifier": str(ROOT / f"configs/purifier/{rival.file}.yaml")}
        return purifier | {f"model.purifier.{key}": value for key, value in own.items()} | options

    def configuration(self, task: str, own: dict, data: dict, folder: Path, **trainer: object) -> dict:
        """Configuration of a command of Lightning's."""
        accelerator = "gpu" if self.device.type == "cuda" else "cpu"
        common = {
            "accelerator": accelerator, "devices": 1, "logger": False, "enable_model_summary": False,
            "benchmark": True, "default_root_dir": str(folder),
        }  # fmt: skip
        return {
            "seed_everything": self.options.seed,
            "model": {"class_path": f"lit_pursamere.tasks.{task}", "init_args": own},
            "data": {"class_path": "lit_pursamere.data.NPZ", "init_args": {"path": str(self.images), **data}},
            "trainer": {**common, **trainer},
        }

    def write(self, name: str, content: dict) -> Path:
        """Write a configuration; returns its file."""
        file = self.work / f"{name}.yaml"
        write_whole(file, yaml.safe_dump(content, sort_keys=False).encode())
        return file


def score_model(file: Path, network: str | None) -> dict:
    """The score model as a configuration: its arguments are those given as JSON, or those in the card of its weights.

    Raises:
        ValueError: If neither tells.
    """
    card = inspect_weights(file).metadata
    if network is None and "configuration" in card:  # written by `lit-pursamere fit`
        told = json.loads(card["configuration"])["model"]["score_model"]
        return {"class_path": told["class_path"], "init_args": {**told["init_args"], "checkpoint": str(file.resolve())}}
    if network is None and "network" not in card:
        raise ValueError(f"the card of {file} does not tell the network's arguments; give them by --network")
    own = json.loads(card["network"] if network is None else network)
    return {"class_path": "lit_pursamere.diffusion.EDMScore", "init_args": {**own, "checkpoint": str(file.resolve())}}


def toy_score(file: Path) -> Path:
    """Weights of a tiny score model that was never trained, the same every time."""
    if not file.exists():
        with forked_randomness(0):
            save_weights(EDMScore(**TOY_NETWORK).network, file, {"network": json.dumps(TOY_NETWORK)})
    return file


def resume(setting: Setting, folder: Path) -> None:
    """Take over what an earlier call left, unless the work folder has it."""
    if not setting.classifier.exists() and (folder / CLASSIFIER).exists():
        shutil.copyfile(folder / CLASSIFIER, setting.classifier)
    if not setting.records.exists() and (folder / RECORDS).exists():
        with ZipFile(folder / RECORDS) as archive:
            archive.extractall(setting.work)


def write_images(setting: Setting) -> dict:
    """Write the images as the package reads them, in the order of their positions in the official splits.

    Raises:
        ValueError: If there are too few.
    """
    o, arrays, told = setting.options, {}, {}
    for split, (first, end) in {"train": (0, o.train + o.val), "test": o.test}.items():
        images, labels, positions = the_images(o, split, end)
        order = positions.argsort()
        # Only some training images are packed: these are counted, while test images go by their positions.
        place = positions[order] if split == "test" else torch.arange(len(order))
        wanted = order[(place >= first) & (place < end)]
        if len(wanted) < end - first:
            raise ValueError(
                f"{split} images {first} to {end - 1} are needed, and only {len(wanted)} of them are there"
            )
        for what, values in {"images": images, "labels": labels, "positions": positions}.items():
            arrays[f"{split}_{what}"] = values[wanted].numpy()
        told[split] = {"images": len(wanted), "positions": positions[wanted][[0, -1]].tolist()}
    with replacing(setting.images) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return told


def the_images(options: argparse.Namespace, split: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 3, H, W) uint8, classes (N,) and positions (N,) of a split, `count` or more of them."""
    if options.toy:
        return toy_images(count, seed=len(split), size=options.size)
    return packed_images(options.pack, split)


def purify(setting: Setting) -> dict:
    """Purify the training images."""
    command_line(["predict", "--config", str(setting.write("purify", setting.purification()))])
    return {"images": PurifiedSet.open(setting.pairs).count()}


def train(setting: Setting) -> dict:
    """Train the classifier; its float16 numbers are the ones that are evaluated, here and by whoever goes on."""
    command_line(["fit", "--config", str(setting.write("fit", setting.training()))])
    convert(setting.trained, setting.classifier, dtype="float16", force=True)
    card = inspect_weights(setting.classifier).metadata
    return {name: value for name, value in card.items() if name.startswith(("val/", "train/", "steps"))}


def evaluate(setting: Setting, plan: Plan, name: str) -> dict:
    """Complete the run of a system.

    Returns:
        How many verdicts are new, and between which noise levels the purifier asks the score model; or why the system
        is left out.
    """
    with quiet():
        cli = build(plan, name, ())
        missing = sum(prospect(plan.output / name, name, cli).missing.values())
        if not missing:
            return COMPLETE
        x = next(iter(cli.datamodule.test_dataloader()))[0][:1].to(setting.device)
        asked = levels_asked(only_defense(cli).to(setting.device).purifier, x)
        highest = setting.options.known[1]
        if asked and asked[1] > highest * (1 + 1e-6):
            return {"left out": f"starts at sigma {asked[1]:.3g}, and the score model knows none above {highest:g}"}
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return {"new verdicts": missing, "asked at sigma": asked}


@torch.no_grad()
def levels_asked(purifier: Purifier, x: Tensor) -> list[float]:
    """Smallest and largest noise level at which a purification of x asks score models; empty if it asks none."""
    asked: list[float] = []

    def note(model: ScoreModel, inputs: tuple) -> None:
        asked.extend(torch.as_tensor(inputs[1]).flatten().tolist())

    models = [module for module in purifier.modules() if isinstance(module, ScoreModel)]
    hooks = [model.register_forward_pre_hook(note) for model in models]
    try:
        with forked_randomness(0):
            purifier(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [min(asked), max(asked)] if asked else []


def side_by_side(name: str, folders: Sequence[Path]) -> Run | None:
    """The runs of one system in all stages as one run; attacks without a verdict do not count."""
    runs = [run_of(folder, name, manifest) for folder in folders if (manifest := read_manifest(folder))]
    rows = {(row["attack"], row["index"]): row for run in runs for row in run.rows}
    begun = {attack for attack, _ in rows}
    attacks = {attack: told for run in runs for attack, told in run.manifest["attacks"].items() if attack in begun}
    return Run(runs[0].folder, {**runs[0].manifest, "attacks": attacks}, list(rows.values()), name) if rows else None


def write_table(session: Session, setting: Setting, command: str) -> None:
    """Write what is known so far: the table, the classifier and the records."""
    folders = [setting.records / stage for stage in STAGES]
    runs = [run for name in names(setting.options) if (run := side_by_side(name, [f / name for f in folders]))]
    shutil.copyfile(setting.classifier, session.out / CLASSIFIER)
    if not runs:
        return
    report = Report(tuple(runs))
    session.report["table"] = [
        {
            "system": line.run.label, "attack": line.attack, "semantics": line.semantics, "n": line.headline.n,
            "accuracy": line.headline.value, "interval": list(line.headline.interval), "seconds": line.seconds,
        }
        for line in report.lines
    ]  # fmt: skip
    with replacing(session.out / "table.md") as temporary:
        temporary.write_text(f"{heading(session, setting, command)}\n{as_markdown(report)}", encoding="utf-8")
    with replacing(session.out / RECORDS) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED) as archive:
        for file in sorted(setting.records.rglob("*")):
            if ".lock" not in file.name:
                archive.write(file, file.relative_to(setting.work))


def heading(session: Session, setting: Setting, command: str) -> str:
    """What stands above the table: where its numbers come from, and who is missing."""
    o, results, machine = setting.options, session.report["results"], session.report["machine"]
    lines = [
        f"# {'Toy' if o.toy else 'CIFAR-10'} test images {o.test[0]} to {o.test[1] - 1}, linf 8/255",
        f"{machine['date']}, {machine['device']}, `{command}`, seed {o.seed}.",
        f"Score model {setting.score.name}, sha256 {inspect_weights(setting.score).sha256[:12]}; WRN-{o.classifier} on "
        f"{o.train} pairs, {o.epochs} epochs. PurSAMERE: {o.levels} levels from {o.first:g} to {o.last:g}, {o.draws} "
        f"draws, rho_sam {o.rho_sam:g}, lr {o.lr:g}. Rivals: {'all' if o.official else 'about a fifth'} of the "
        f"official steps; those with fresh noise under EoT {o.eot}, judged {o.evaluations} times.",
    ]
    for name, result in {step.partition(":")[0]: result for step, result in results.items() if ":" in step}.items():
        if "left out" in result:
            lines.append(f"Left out: {name} {result['left out']}.")
    return "\n\n".join(lines) + "\n"


def main(args: Sequence[str] | None = None) -> dict:
    """Run everything; returns the report."""
    options = parse(args)
    session = Session("table", options)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # stdout is for the report alone
        setting = Setting(options, session.device)
        if options.resume is not None:
            resume(setting, options.resume)
        session.step("images", partial(write_images, setting))
        if not setting.classifier.exists():
            session.step("pairs", partial(purify, setting))
            session.step("classifier", partial(train, setting))
        if setting.classifier.exists():
            evaluate_all(session, setting, shlex.join(["table.py", *(sys.argv[1:] if args is None else args)]))
    return session.finish()


def evaluate_all(session: Session, setting: Setting, command: str) -> None:
    """Evaluate every system that is asked for, stage by stage: PurSAMERE through all of them before its rivals."""
    o = setting.options
    reserve = 2 * o.minutes  # seconds for writing what was found
    wanted = [name for name in names(o) if (name in o.only if o.only else o.rivals or name not in RIVALS)]
    plans = {stage: setting.plan(stage) for stage in STAGES if stage in o.stages}
    for rivals in (False, True):
        for stage, plan in plans.items():
            for name in (name for name in wanted if (name in RIVALS) == rivals):
                limit = min(session.left() - reserve, o.each if rivals else float("inf"))
                work, begins = partial(evaluate, setting, plan, name), session.left() > reserve + 1
                found = session.step(f"{name}: {stage}", work, limit, needs=reserve + 1)
                release()
                if begins and found != COMPLETE:
                    write_table(session, setting, command)
    write_table(session, setting, command)


if __name__ == "__main__":
    main()
