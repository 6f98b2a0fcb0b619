"""`lit-pursamere evaluate`: an own classifier and own images, without a configuration.

lit-pursamere evaluate mynet:SmallResNet mine.pt photos --normalise 0.5 0.5 --purifier pursamere_small \
    --threat "linf 8/255" --attacks quick pgd20_exact
lit-pursamere evaluate cifar10/standard cifar10 --n 256 --attacks strong

The table is that of `test`; the folder holds the configuration by which `test` repeats the run.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lit_pursamere.ending import command, ending
from lit_pursamere.front.attacks import require_known
from lit_pursamere.front.evaluate import evaluate as evaluate_model
from lit_pursamere.front.named import data_of, network_of
from lit_pursamere.preflight.run import tell
from lit_pursamere.report.headline import headline
from lit_pursamere.zoo import is_zoo

__all__ = ["evaluate"]


def evaluate(
    model: str,
    files: list[str],
    normalise: list[float] | None = None,
    purifier: str = "pursamere",
    score_model: str | None = None,
    threat: str = "linf 8/255",
    attacks: list[str] | None = None,
    n: int | None = None,
    output: str = "runs/evaluate",
    arguments: str = "{}",
    evaluations: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    device: str | None = None,
    download: bool = False,
    no_preflight: bool = False,
    seed: int = 0,
) -> None:
    """Attack an own classifier behind a purifier, and without it, and print the table.

    Args:
        model: Its class, mynet:SmallResNet; the name of weights (`lit-pursamere weights list`); torchvision:resnet50,
            timm:NAME or robustbench:NAME(dataset, threat), which bring their normalisation.
        files: Its weight file or Lightning's .ckpt, unless it is named; then the images: a folder of class folders, an
            .npz file, or a data set: cifar10, cifar100, mnist, fashion_mnist, digits.
        normalise: Mean and std that it wants of images in [0, 1]: two numbers, or one of each per channel.
        purifier: Name (`pursamere`), class or file of the purifier; Identity: none.
        score_model: Name or file of the score model (default: that of the purifier's paper).
        threat: What attackers may change.
        attacks: quick, paper, strong, or names, classes or files of attacks (default: quick).
        n: So many images, drawn at random (default: all).
        output: Folder of the run; the same command goes on there.
        arguments: What the class is built with, as JSON: '{"num_classes": 7}' (default: what a .ckpt says).
        evaluations: Verdicts per image (default: 1, or 4 where the purifier draws noise).
        batch_size: Images per forward pass (default: 128, or as many as fit into memory).
        image_size: Side in pixels to which pictures are brought (default: that of the first one).
        device: cpu, cuda, cuda:1 (default: cuda where there is one).
        download: Download weights that have a name and are not on this machine.
        no_preflight: Run it also where a look at a few images says that it makes no sense.
        seed: Of all that is drawn.

    Raises:
        ValueError: If something does not fit together.
        OSError: If a file cannot be read.
    """
    *weights, images = files
    if len(weights) > 1:
        raise ValueError(f"evaluate takes a model, its weight file and the images; got {len(files) + 1} words")
    if normalise and is_zoo(model):
        raise ValueError(f"{model} brings the normalisation of its weights; leave --normalise out")
    require_known(attacks or "quick")
    network = network_of(model, weights[0] if weights else None, arguments, download)
    half = len(normalise or ()) // 2
    if normalise and 2 * half != len(normalise):
        raise ValueError(f"--normalise takes means and as many deviations; got {len(normalise)} numbers")
    result = evaluate_model(
        network.to(device or ("cuda" if torch.cuda.is_available() else "cpu")),
        data_of(images, network, image_size),
        purifier=purifier,
        score_model=score_model,
        threat=threat,
        attacks=attacks or "quick",
        normalise=(normalise[:half], normalise[half:]) if normalise else None,
        n=n,
        output=output,
        evaluations=evaluations,
        batch_size=batch_size,
        preflight=not no_preflight,
        say=tell,
        seed=seed,
    )
    print(result.table())
    again = result.configuration
    then = command("audit", "--config", again) if again else command("report", output)
    print(ending(f"records, tables and pictures in {Path(output)}", headline(result.report), then))
