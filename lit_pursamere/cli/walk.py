"""`lit-pursamere walk`: what happens on the way through a purification.

lit-pursamere walk --config digits/robustness --data.test_size 50 --model.output runs/walk
lit-pursamere walk --walk Strips --walk.steps [1,5,10] --config digits/robustness --model.purifier malade_digits
lit-pursamere walk --walk ReconstructionErrors --config digits/robustness --model.output runs/errors
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_pursamere.cli.lightning import command_line
from lit_pursamere.ending import command, ending

if TYPE_CHECKING:
    from pytorch_lightning.cli import LightningCLI

    from lit_pursamere.walk import Walk

__all__ = ["walk"]


def walk(*options: str) -> None:
    """Run a `test`, keep its images, and look at their purification step by step.

    `Confidence` of the classifier, or `--walk Strips` of pictures, or `--walk ReconstructionErrors`. A test that is
    done is not run again, so several looks at one `--model.output` cost one test. How many images: --data.test_size.

    Args:
        options: --config FILE and options of a `test`; --walk, and --walk.attack and others of what it names.

    Raises:
        ValueError: If it is not the configuration of a test, its defence lacks what is looked at, or the folder has
            results whose images were not kept.
    """
    from lit_pursamere.seeding import run_seed
    from lit_pursamere.walk import Confidence, Walk, read_kept

    words = ["test", *options, "--model.save_images=true"]
    cli = command_line(words, choices={"walk": (Walk, Confidence)}, check=check)
    task, data, trainer = cli.model, cli.datamodule, cli.trainer
    if not trainer.is_global_zero:
        return
    system, defense = next(iter(task.systems.items()))
    device, dtype = trainer.strategy.root_device, next(defense.parameters()).dtype
    kept = read_kept(
        task.output, system, defense.to(device), task.attacks, device=device, dtype=dtype, data=data.images_name,
        class_names=data.class_names, batch=data.eval_batch_size, seed=run_seed(), hidden=False,
    )  # fmt: skip
    look = look_of(cli)
    with trainer.precision_plugin.test_step_context():
        answer = look.run(kept, task.output)
    file = task.output / f"{look.name}.png"
    print(f"{answer.text}\n{ending(f'{file} and .json written', answer.headline, command('report', task.output))}")


def look_of(cli: LightningCLI) -> Walk:
    """What is looked at."""
    return cli.config_init["test"].walk


def check(cli: LightningCLI) -> None:
    """Refuse, before the test, what could not be looked at after it.

    Raises:
        ValueError: If it is no test, or the look does not apply to it.
    """
    from lit_pursamere.tasks import LitRobustness

    if not isinstance(cli.model, LitRobustness):
        raise ValueError(f"walk needs the configuration of a `test`; its model is {type(cli.model).__name__}")
    look_of(cli).check(next(iter(cli.model.systems.values())), cli.model.attacks)
