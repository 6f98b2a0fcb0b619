"""An evaluation in one line: a model, images, a purifier, a threat and attacks in; a `Result` out.

    result = evaluate(model, (x, y), purifier="pursamere", threat="linf 8/255", attacks="strong")

What runs is a `test` of the command line. Its folder holds the images, the weights and the configuration, where all of
it can be told, so that `lit-pursamere test --config FOLDER/config.yaml` repeats it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from torch import nn

from lit_pursamere.configuration.building import build
from lit_pursamere.configuration.composition import part_of
from lit_pursamere.configuration.linking import stated
from lit_pursamere.data import NPZ
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.evaluation.cost import measure_cost
from lit_pursamere.front.attacks import Attacks, require_known, resolved
from lit_pursamere.front.classifier import Classifier, Normalisation
from lit_pursamere.front.images import Images, gathered
from lit_pursamere.front.result import Result
from lit_pursamere.preflight import fitting_batch_size
from lit_pursamere.preflight import preflight as preflight_of
from lit_pursamere.preflight.examined import Examined, Labels
from lit_pursamere.preflight.shapes import shapes
from lit_pursamere.pretrained import load_classifier
from lit_pursamere.purifiers import Identity, Purifier
from lit_pursamere.purifiers.base import Knowledge, Recipe, complete
from lit_pursamere.seeding import forked_randomness, kept_randomness
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.tasks import LitRobustness
from lit_pursamere.threat import ThreatModel
from lit_pursamere.weights.registry import purifiers_at_hand, score_model_of

__all__ = ["evaluate"]

PROBED = 2  # images on which a defence is asked whether it answers the same twice
BATCH = 128  # images per forward pass, where they fit
STOCHASTIC = 4  # verdicts per image where it does not


def evaluate(
    model: nn.Module | str,
    data: Any,
    *,
    purifier: Purifier | str | Mapping[str, Any] | None = "pursamere",
    score_model: ScoreModel | str | Mapping[str, Any] | None = None,
    threat: ThreatModel | str = "linf 8/255",
    attacks: Attacks = "quick",
    normalise: Normalisation | None = None,
    n: int | None = None,
    output: str | Path | None = None,
    undefended: bool = True,
    evaluations: int | None = None,
    noise: Knowledge | None = None,
    batch_size: int | None = None,
    preflight: bool = True,
    say: Callable[[str], object] | None = None,
    pictures: int = 6,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Attack a classifier behind a purifier, and without it, and judge every image.

    Args:
        model: Any module from images (B, C, H, W) to logits (B, K), a LightningModule among them; nothing of it is
            changed. The evaluation runs on its device. Or the name of weights, `cifar10/standard`.
        data: (images, labels), a Dataset, a DataLoader or an `ImageDataModule`, see `front.images.gathered`.
        purifier: A purifier; the name of a file of configs/purifier/, of a class, or of your own file; or class_path
            and init_args. None: none.
        score_model: What the purifier is built around: a score model, the name of weights (`cifar10/edm-small`) or of a
            file of configs/score_model/, or a mapping. None: that of the purifier's paper or data set.
        threat: What attackers may change, "linf 8/255", in [0, 1] pixel units.
        attacks: `quick` (PGD on the classifier, and BPDA), `paper` (those of PurSAMERE's tables), `strong` (adaptive
            attacks on the exact gradients and Square, with EoT where the defence draws noise); any file of
            configs/attack/, an `Attack`, a mapping of attacks by name, or a list of all these.
        normalise: (mean, std) that the model wants of images in [0, 1].
        n: How many images, drawn at random. None: all.
        output: Folder of the run; the same call goes on there. None: a temporary one, that goes with the result.
        undefended: Whether the model alone is evaluated as well.
        evaluations: Verdicts per image. None: 1, or 4 if the purifier answers differently the second time.
        noise: What attackers know of the purifier's noise, see `Purifier.under`. None: as in its paper.
        batch_size: Images per forward pass. None: 128, or as many as fit into memory.
        preflight: Whether to look at a few images first: what seems wrong is told, nonsense an error.
        say: Gets each line of what seems wrong. None: it is a warning.
        pictures: Images in the picture grid.
        seed: Of all that is drawn.
        progress: Whether to show how far it is.

    Returns:
        The table, its rows and figures.

    Raises:
        TypeError: If the model is no module or the data holds no images.
        ValueError: If arguments do not fit together, or the folder holds another evaluation.
        FileNotFoundError: If weights are not on this machine; the message says how to get them.
    """
    with torch.inference_mode(False), torch.enable_grad(), forked_randomness(), seeded(seed), quiet():
        require_known(attacks)
        images = gathered(data, n, seed)
        classifier = Classifier(load_classifier(model) if isinstance(model, str) else model, normalise)
        device = device_of(classifier.module)
        told: dict[str, Any] = {}
        defended = purifier_of(purifier, score_model, noise, told, images)
        classes, draws = probed(defended, classifier.module, images, device)
        threat = ThreatModel.of(threat) if isinstance(threat, str) else threat
        found, told["attacks"] = resolved(attacks, classes, draws)
        evaluations = evaluations or (STOCHASTIC if draws else 1)
        place = None if output is not None else tempfile.TemporaryDirectory(prefix="lit-pursamere-")
        folder = Path(output or place.name)  # type: ignore[union-attr]
        settings: dict[str, Any] = {
            "preflight": False,
            "output": str(folder),
            "undefended": undefended,
            "evaluations": evaluations,
            "pictures": pictures,
        }
        task = Silent(defended, classifier.module, found, threat, noise=noise, **settings)
        size = sized(task, images, device, classifier.constants is not None, batch_size, preflight, seed, say)
        keep(images, folder / "images.npz")
        module = NPZ(str(folder / "images.npz"), eval_batch_size=size)
        hardware: dict[str, Any] = {"accelerator": device.type if device.type != "cuda" else "gpu",
                    "devices": [device.index or 0] if device.type == "cuda" else 1}  # fmt: skip
        trainer = pl.Trainer(
            **hardware, logger=False, enable_progress_bar=progress, inference_mode=False, default_root_dir=folder,
            use_distributed_sampler=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        trainer.test(task, datamodule=module, verbose=False)
        probe = images.tensors()[0][:PROBED].to(device)
        told["classifier"] = classifier.configuration(folder / "classifier.safetensors", probe)
        if None not in told.values():
            settings |= {"noise": noise} if noise else {}
            configuration = {
                "seed_everything": seed,
                "model": {
                    "class_path": "lit_pursamere.tasks.LitRobustness",
                    "init_args": {"threat": {"norm": threat.norm, "eps": threat.plain_eps}, **told, **settings},
                },
                "data": {
                    "class_path": "lit_pursamere.data.NPZ",
                    "init_args": {"path": str(module.path), "eval_batch_size": module.eval_batch_size},
                },
                "trainer": {**hardware, "logger": False, "default_root_dir": str(folder)},
            }
            write_whole(folder / "config.yaml", yaml.safe_dump(configuration, sort_keys=False).encode())
        return Result(folder, place)


class Silent(LitRobustness):
    """A test whose table is in what is returned, not printed."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        pass


def purifier_of(
    purifier: Purifier | str | Mapping[str, Any] | None,
    score_model: ScoreModel | str | Mapping[str, Any] | None,
    noise: Knowledge | None,
    told: dict[str, Any],
    images: Images | None = None,
) -> Purifier:
    """The purifier, built; what a configuration says of it and its score model is noted, None where it cannot say.

    The images, if they are known, say what the word `data` stands for in it.
    """
    if purifier is None:
        told["purifier"] = {"class_path": "lit_pursamere.purifiers.Identity"}
        return Identity()
    if isinstance(purifier, nn.Module):
        told["purifier"] = None
        return complete(purifier, None, noise)
    told["purifier"] = linked(part_of(purifier, ["model", "purifier"]), images)
    part: Purifier | Recipe = build(Purifier | Recipe, told["purifier"])
    if isinstance(part, nn.Module) and score_model is None:
        return complete(part, None, noise)
    if isinstance(score_model, nn.Module):
        told["score_model"] = None
    else:
        score_model = score_model or default_score_model(purifier)
        told["score_model"] = linked(part_of(score_model, ["model", "score_model"]), images)
        try:
            score_model = build(ScoreModel, told["score_model"])
        except FileNotFoundError as error:
            ready = ", ".join(purifiers_at_hand())
            raise FileNotFoundError(f"{error}. Purifiers whose score model comes along: {ready}") from error
    return complete(part, score_model, noise)  # type: ignore[arg-type]


def linked(part: dict[str, Any], images: Images | None) -> dict[str, Any]:
    """A part of a configuration with the numbers of the images, where it says the word `data`."""
    return part if images is None else stated(part, images)


def default_score_model(purifier: str | Mapping[str, Any]) -> str:
    """The name of the score model of a purifier's paper or data set.

    Raises:
        ValueError: If none is known.
    """
    if isinstance(purifier, str) and (own := score_model_of(purifier)):
        return own["score_model"]
    raise ValueError(
        f"{purifier} needs a score model that was trained on images like yours: score_model=NAME of `lit-pursamere "
        "weights list`, or a configuration"
    )


def probed(purifier: Purifier, classifier: nn.Module, images: Images, device: torch.device) -> tuple[int, bool]:
    """How many classes the classifier has, and whether a second purification is another one.

    Raises:
        ValueError: If images, classifier and score model do not fit together.
    """
    defense = Defense(purifier.to(device), classifier)
    x, y = (part[:PROBED].to(device) for part in images.tensors())
    try:
        with torch.no_grad():
            classes = defense.classify(x).shape[1]
        return classes, not measure_cost(defense, x).deterministic
    except RuntimeError as error:  # a network's own words; those of the preflight say what to set
        for doubt in shapes(Examined(defense, {}, x, y, x, Labels(y.tolist()), False, len(x))):
            raise ValueError(doubt.what) from error
        raise


def sized(
    task: LitRobustness,
    images: Images,
    device: torch.device,
    normalised: bool,
    size: int | None,
    look: bool,
    seed: int,
    say: Callable[[str], object] | None,
) -> int:
    """How many images make a batch, after a look at a few of them.

    Raises:
        ValueError: If the evaluation would make no sense.
    """
    defense = next(iter(task.systems.values())).to(device)
    x, y = (part.to(device) for part in images.tensors())
    named: dict[str, Any] = {"class_names": images.class_names, "normalised": normalised}
    doubts = preflight_of(defense, task.attacks, x, y, batch_size=size or 1, seed=seed, **named) if look else []
    for doubt in doubts:
        if doubt.stops:
            raise ValueError(f"{doubt.what} (preflight=False, or --no-preflight, runs it all the same)")
        say(doubt.what) if say else warnings.warn(doubt.what, stacklevel=3)
    return min(size, len(x)) if size else fitting_batch_size(defense, task.attacks, x, min(BATCH, len(x)))


def device_of(module: nn.Module) -> torch.device:
    """Where the first of its tensors is."""
    tensors = (*module.parameters(), *module.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


def keep(images: Images, file: Path) -> None:
    """Write the images into the folder of the run, unless it has them.

    Raises:
        ValueError: If it has others.
    """
    if not file.exists():
        images.write(file)
        return
    there: Any = NPZ(str(file)).load("test")  # ArrayDataset
    same = all(
        there_.numpy().shape == here.shape and np.array_equal(there_.numpy(), here)
        for there_, here in ((there.images, images.pixels), (there.labels, images.labels))
    )
    if not same:
        raise ValueError(f"{file.parent} holds the evaluation of other images; choose another `output`")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """As after `seed_everything`, for whatever asks for the seed of the run; afterwards all is as before."""
    before = os.environ.get("PL_GLOBAL_SEED")
    os.environ["PL_GLOBAL_SEED"] = str(seed)
    try:
        with kept_randomness():
            yield
    finally:
        if before is None:
            del os.environ["PL_GLOBAL_SEED"]
        else:
            os.environ["PL_GLOBAL_SEED"] = before


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning says nothing of devices; warnings about loaders are not for users of one line."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before, logger.level = logger.level, logging.WARNING
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*|.*LeafSpec.*")
        try:
            yield
        finally:
            logger.setLevel(before)
