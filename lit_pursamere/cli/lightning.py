"""Lightning's command line: from a configuration and options to task, data and trainer.

Nothing heavy is imported before it is needed, so that `lit-pursamere --help` is quick.
"""

from __future__ import annotations

import logging
import warnings
from argparse import ArgumentTypeError
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_pursamere.sharding import WHOLE, Shard
from lit_pursamere.stopping import left_to_first

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
    from torch import Tensor

    from lit_pursamere.defense import Defense

ABOUT = {  # the descriptions of the parsers, in place of those of Lightning's trainer
    "fit": "Train a score model (--model LitScoreModel) or a classifier (--model LitClassifier). Its parts: "
    "--model.score_model or --model.classifier, --data, --model.export FILE for the weights; the same command "
    "continues.",
    "validate": "Run the validation of a training.",
    "predict": "Purify the images of --data with --model.purifier (and --model.score_model), and keep them in "
    "--model.output; --data.evaluate says which split.",
    "test": "Attack a defence, judge every image, print the table. The defence is --model.purifier (with "
    "--model.score_model) before --model.classifier; the attacks are --model.attacks, each --model.attacks.NAME FILE, "
    "within --model.threat, such as {norm: linf, eps: 8/255}; the folder is --model.output. Purifiers and attacks by "
    "name: --model.purifier pursamere, --model.attacks.exact pgd20_exact. All options of a part: --model.help "
    "LitRobustness, --model.purifier.help PurSAMERE.",
}

__all__ = ["certify", "check_processes", "command_line", "examined", "fit", "predict", "test", "validate"]


def command_line(
    args: list[str],
    run: bool = True,
    options: dict[str, type] | None = None,
    prepare: Callable[[Namespace], object] = lambda config: None,
    choices: dict[str, tuple[type, type]] | None = None,
    check: Callable[[LightningCLI], object] = lambda cli: None,
) -> LightningCLI:
    """Lightning's command line: run a verb, or only build what the configuration describes.

    Args:
        args: Verb and options; without a verb if nothing is to run.
        run: Whether to run the verb.
        options: Further groups of options, by name: dataclasses.
        prepare: May change the configuration before anything is built from it.
        choices: Further choices of a class, by name: the base, and the class that is meant if none is named.
        check: Looks at what was built before a `test` or `predict` begins, and may refuse it.
    """
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="predict returned None")
    warnings.filterwarnings("error", message=".*there is no last checkpoint available")  # or weights would be random
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")  # a `fit` that continues
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    import pytorch_lightning as pl
    import yaml
    from pytorch_lightning.cli import LightningCLI
    from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
    from pytorch_lightning.utilities import rank_zero_only

    from lit_pursamere.cli.continuing import (
        COMPLETE,
        CheckpointsAreData,
        kept_to_one,
        placed,
        read_checkpoint,
        stopped_at,
    )
    from lit_pursamere.cli.fitting import FittingBatch
    from lit_pursamere.cli.matter import SAID
    from lit_pursamere.cli.saved_config import SaveConfig
    from lit_pursamere.cli.trainer import Trainer
    from lit_pursamere.cli.usage import SHARDED
    from lit_pursamere.configuration.building import know_names
    from lit_pursamere.configuration.composition import compose
    from lit_pursamere.data import ImageDataModule
    from lit_pursamere.tasks.deciding import card_of

    know_names()

    class CLI(LightningCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            """The verb that is run: to build the parsers of the others takes a fifth of a command's parsing."""
            known = LightningCLI.subcommands()
            return {args[0]: known[args[0]]} if args[0] in known else known

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            for name, group in (options or {}).items():
                parser.add_class_arguments(group, name)
            for name, (base, default) in (choices or {}).items():
                class_path = f"{default.__module__}.{default.__qualname__}"
                parser.add_subclass_arguments(base, name, default={"class_path": class_path})

        def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: object) -> LightningArgumentParser:
            parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
            if subcommand == "test":  # LitRobustness prints a table of its own
                parser.set_defaults(verbose=False)
            parser.description = ABOUT[subcommand]
            if subcommand in SHARDED:
                parser.add_argument("--shard", type=shard_text, default=str(WHOLE), help=SAID["shard"])
            return parser

        def _set_seed(self) -> None:
            try:
                super()._set_seed()
            except ValueError as error:
                raise ValueError(f"seed_everything: {error}") from error

        def before_instantiate_classes(self) -> None:
            prepare(self.config)

        def before_fit(self) -> None:
            check_processes(self, "val")

        before_validate = before_fit

        def before_test(self) -> None:
            self._before("test")

        def before_predict(self) -> None:
            self._before("predict")

        def _before(self, verb: str) -> None:
            check(self)
            self.datamodule.shard = Shard.parse(self.config[verb].shard)
            check_processes(self, verb)
            if self.datamodule.automatic:
                self.trainer.callbacks.append(FittingBatch(verb))  # type: ignore[attr-defined]

        def _parse_ckpt_path(self) -> None:
            """Look whether the file is whole; Lightning would let its stored arguments override the command line."""
            verb = self.config.get(self.config.get("subcommand")) or {}
            if verb.get("weights_only") is False:
                raise ValueError("weights_only: false is refused: a checkpoint is data, never a program; remove it")
            if verb.get("ckpt_path") not in (None, "last", "best", "hpc"):
                read_checkpoint(Path(verb["ckpt_path"]))

        def instantiate_trainer(self, **arguments: object) -> pl.Trainer:
            trainer = super().instantiate_trainer(**arguments)
            trainer.strategy.checkpoint_io = CheckpointsAreData()
            return trainer

        def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, object]:
            return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

        def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
            trainer = super()._instantiate_trainer(placed(config, self.model) if run else config, callbacks)
            if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
                raise ValueError(
                    f"trainer.strategy {config.get('strategy')!r} copies a process that has begun, and every process "
                    "of a run must begin by itself; use `--trainer.strategy ddp`"
                )
            return trainer

        def fit(self, model: Any, ckpt_path: str | None = None, **arguments: Any) -> None:
            config = yaml.safe_load(self._parser("fit").dump(self.config["fit"], skip_none=False))
            with kept_to_one(self.trainer, model):
                try:
                    last = stopped_at(self.trainer, model, self.datamodule, config, ckpt_path)
                except (ValueError, OSError) as error:  # one process complains for all
                    raise error if self.trainer.is_global_zero else left_to_first() from None
                if last == COMPLETE:
                    export = Path(model.export)
                    rank_zero_only(print)(model.ending(f"{export} is complete", card_of(export)))
                else:
                    self.trainer.fit(model, ckpt_path=last, **arguments)

        def test(self, model: pl.LightningModule, **arguments: Any) -> None:
            from lit_pursamere.preflight.run import check_test
            from lit_pursamere.tasks import LitRobustness

            if isinstance(model, LitRobustness):
                check_test(model, self.datamodule, self.trainer)
            self.trainer.test(model, **arguments)

    return CLI(
        pl.LightningModule,
        ImageDataModule,
        args=compose(args),
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        trainer_class=Trainer,
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"inference_mode": False, "use_distributed_sampler": False},
        parser_kwargs={"prog": "lit-pursamere", "exit_on_error": False, "allow_abbrev": False},
        run=run,
    )


def shard_text(text: str) -> str:
    """A shard as it is written, "3/8".

    Raises:
        ArgumentTypeError: If there is none of that name; of other errors the parser keeps the message to itself.
    """
    try:
        return str(Shard.parse(text))
    except ValueError as error:
        raise ArgumentTypeError(error) from error


def check_processes(cli: LightningCLI, verb: str) -> None:
    """Look, before one process starts the others, whether there are images for all of them, and for all shards.

    Args:
        cli: What a command line built.
        verb: What is to be done with them: `val`, `test`, `predict`.

    Raises:
        OSError: If the images cannot be read.
        ValueError: If there are too few; the other processes end without a word.
    """
    from lit_pursamere.cli.fitting import evaluated, for_everybody

    trainer, data, world = cli.trainer, cli.datamodule, cli.trainer.world_size
    if world == 1 and not data.shard:
        return
    data.trainer = trainer
    try:
        if verb == "val":
            if 0 < data.val_size < world:
                raise ValueError(
                    f"val_size={data.val_size} makes too few images to validate on for {world} processes; use fewer "
                    "devices, or a larger `data.val_size`"
                )
            return
        if trainer.local_rank == 0:
            data.prepare_data()
        data.setup(verb)
        if data.automatic:
            data.eval_batch_size = for_everybody(data.eval_batch_size, evaluated(data, verb), trainer, data.shard)
        getattr(data, f"{verb}_dataloader")()
    except (ValueError, OSError) as error:
        raise error if trainer.is_global_zero else left_to_first() from None


def examined(cli: LightningCLI, count: int, verb: str) -> tuple[Defense, tuple[Tensor, Tensor, Tensor]]:
    """The defence of a `test` configuration, and its first test images, their classes and positions.

    Weights and images are of the trainer's precision; what is asked of them belongs in its `test_step_context`.

    Raises:
        ValueError: If the configuration is not that of a test, or its precision rounds pixels.
    """
    import torch

    from lit_pursamere.tasks import LitRobustness
    from lit_pursamere.tasks.folder_task import require_precision

    if not isinstance(cli.model, LitRobustness):
        raise ValueError(f"{verb} needs the configuration of a `test`; its model is {type(cli.model).__name__}")
    require_precision(cli.trainer)
    device, data, precision = cli.trainer.strategy.root_device, cli.datamodule, cli.trainer.precision_plugin
    precision.convert_module(cli.model)
    data.prepare_data()
    data.setup("test")
    batches = islice(data.test_dataloader(), -(-count // data.eval_batch_size))
    x, y, index = (torch.cat(column)[:count].to(device) for column in zip(*batches, strict=True))
    return next(iter(cli.model.systems.values())).to(device), (precision.convert_input(x), y, index)


def fit(*options: str) -> None:
    """Train a score model or a classifier.

    Started again, it continues from the last checkpoint, or says that `model.export` is complete. Other settings are
    refused; --ckpt_path CHECKPOINT, with another `model.export` and folder for the logs, starts anew from there.
    """
    command_line(["fit", *options])


def validate(*options: str) -> None:
    """Run the validation of a training."""
    command_line(["validate", *options])


def predict(*options: str) -> None:
    """Purify a data set and keep the result."""
    command_line(["predict", *options])


def test(*options: str) -> None:
    """Attack a defence, judge the images, and print the table."""
    command_line(["test", *options])


def certify(*options: str) -> None:
    """Find the l2 ball around each image in which no attack changes the class of a smoothed classifier.

    Randomised smoothing (Cohen et al., 2019): Gaussian noise of --model.sigma, one step of --model.score_model, or
    --model.purifier, before --model.classifier. A `test` of LitCertification.
    """
    command_line(["test", *options], prepare=require_certification)


def require_certification(config: Namespace) -> None:
    """Refuse what certifies nothing, before it is built.

    Raises:
        ValueError: If the model is another one than a LitCertification.
    """
    from pydoc import locate

    from lit_pursamere.tasks import LitCertification

    name = config.test.model.class_path
    kind: Any = locate(name)
    if not (isinstance(kind, type) and issubclass(kind, LitCertification)):
        raise ValueError(
            f"certify needs a LitCertification, such as `--config digits/certify`; the model is {name.split('.')[-1]}"
        )
