"""`lit-pursamere judge`: adversarial images that somebody exported, judged by your own defence.

lit-pursamere judge digits.npz --config my-test.yaml --model.purifier pursamere
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lit_pursamere.cli.lightning import command_line
from lit_pursamere.ending import command, ending
from lit_pursamere.evaluation.exported import Exported, read_exported
from lit_pursamere.evaluation.transferred import WORST, Transferred, transferred
from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.progress import Progress
from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.seeding import run_seed

if TYPE_CHECKING:
    from pytorch_lightning.cli import LightningCLI

    from lit_pursamere.defense import Defense

__all__ = ["judge"]

HEAD = ("judged by", "made for", "attack", "budget", "accuracy", "there", "n")


def judge(file: Path, *options: str) -> None:
    """Judge exported adversarial images on another defence: that of a `test` configuration of your own.

    The file is data, of which nothing is run; that every image keeps to the stated threat model is checked. Further
    options are those of `lit-pursamere test`; its attacks and images are not used.

    Args:
        file: A file of `lit-pursamere export`.
        options: --config FILE and options of a `test`.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it is damaged.
        ValueError: If it holds something else, images beyond their budgets, or images of another size.
    """
    found = read_exported(file)  # before anything is built
    cli = command_line([*options], run=False)
    systems = judges(cli, found, file)
    with Progress("judge", "image") as progress, cli.trainer.precision_plugin.test_step_context():
        slots, evaluations = cli.datamodule.eval_batch_size, cli.model.evaluations
        lines = transferred(found, systems, slots, evaluations, run_seed(), progress)
    worst = next(line for line in lines if line.attack == WORST)
    print(table(lines))
    print("\n".join(notes(found, lines)))
    made = f"{len(found.images)} images of {file} judged"
    told = f"{worst.judged_by}, {worst.attack} {accuracy(worst)} % of {len(worst.right)} images"
    print(f"\n{ending(made, told, command('test', *options))}")


def judges(cli: LightningCLI, found: Exported, file: Path) -> dict[str, Defense]:
    """The systems of a `test` configuration, ready to judge.

    Raises:
        ValueError: If it is none, or its images are of another size than those of the file.
    """
    from lit_pursamere.tasks import LitRobustness
    from lit_pursamere.tasks.folder_task import require_precision

    task, data = cli.model, cli.datamodule
    if not isinstance(task, LitRobustness):
        raise ValueError(f"judge needs the configuration of a `test`; its model is {type(task).__name__}")
    shape = (data.channels, data.image_size, data.image_size)
    if found.images.shape[1:] != shape:
        raise ValueError(f"{file} holds images {found.images.shape[1:]}, and the configuration is for {shape}")
    if (highest := int(found.labels.max())) >= data.num_classes:
        raise ValueError(f"{file} has a class {highest}, and the configuration has {data.num_classes} classes")
    require_precision(cli.trainer)
    cli.trainer.precision_plugin.convert_module(task)
    if task.detector is not None:
        data.prepare_data()
        data.setup("test")
        task.trainer, cli.trainer.datamodule = cli.trainer, data  # type: ignore[attr-defined]
        task.calibrate()
    return dict(task.systems.to(cli.trainer.strategy.root_device).items())


def table(lines: list[Transferred]) -> str:
    """Accuracies in % with their intervals, and those of the defences that were attacked."""
    return markdown_table(HEAD, [
        (line.judged_by, line.made_for, line.attack, line.threat or "", accuracy(line),
         "" if line.there is None else f"{100 * line.there:.1f}", len(line.right))
        for line in lines
    ])  # fmt: skip


def accuracy(line: Transferred) -> Accuracy:
    """The mean over the images."""
    return Accuracy(sum(line.right.values()), len(line.right))


def notes(found: Exported, lines: list[Transferred]) -> list[str]:
    """What the numbers mean, and what they do not."""
    told = [
        f"Accuracy in % with 95 % Wilson intervals, on images of {shown(found.manifest['data'])}, as the file states; "
        "there: of the defence that they were made for. All keep to their budgets around the file's clean images. "
        "Worst case: right on the clean image and on all that were made of it."
    ]
    if any(line.made_for and not line.same for line in lines):
        told.append(
            "Images that were made for another defence transfer to this one: they bound its robustness from above, and "
            "loosely. `lit-pursamere test` attacks the defence itself."
        )
    if same := sorted({line.made_for for line in lines if line.same}):
        told.append(f"Made for the very defence that judges: {', '.join(map(shown, same))}.")
    return told
