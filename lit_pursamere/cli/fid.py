"""`lit-pursamere fid`: how far samples, or purified images, are from a data set.

lit-pursamere fid --data configs/data/cifar10.yaml --score_model configs/score_model/ddpm.yaml \
    --objective DDPMObjective --weights pt_inception-2015-12-05-6726825d.pth --output runs/fid/ddpm.json
lit-pursamere fid --data configs/data/cifar10.yaml --split test --images runs/cifar10/purified --weights FILE
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lit_pursamere.data import ImageDataModule
from lit_pursamere.diffusion import Objective, ScoreModel
from lit_pursamere.ending import ending
from lit_pursamere.evaluation.fid import Pictures, feature_network, frechet_distance, samples, stored_images
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.manifest import setting_of
from lit_pursamere.store.provenance import command, package_versions
from lit_pursamere.weights import state_digest

__all__ = ["fid"]


def fid(
    data: ImageDataModule | None = None,
    images: str | None = None,
    score_model: ScoreModel | None = None,
    objective: Objective | None = None,
    features: nn.Module | None = None,
    weights: str | None = None,
    split: Literal["train", "test"] = "train",
    n: int = 50_000,
    seed: int = 0,
    batch_size: int = 64,
    device: str = "cpu",
    output: Path | None = None,
) -> None:
    """Compute the Fréchet inception distance of samples, or of stored images, to a data set.

    Args:
        data: A file of configs/data: the real images.
        images: What is compared: a purified set, a folder of pictures, or a .npy or .npz file.
        score_model: Or: its class or file, of which samples are drawn.
        objective: Its family, such as DDPMObjective, whose sampler draws them.
        features: Network that makes features of images (default: Inception-v3 of 2015, as published numbers have it).
        weights: File with the weights of that network; nothing is downloaded.
        split: train or test, the images of `data` that count as real.
        n: How many samples; of stored images at most so many, chosen at random.
        seed: Of the samples, and of that choice.
        batch_size: Images per batch; of samples it belongs to the seed.
        device: cpu, cuda, cuda:1 ...
        output: File for the number and all that it depends on, ... .json.

    Raises:
        ValueError: If an argument is missing or wrong.
        OSError: If files cannot be read or written.
    """
    if data is None:
        raise ValueError("which data are real? Give --data configs/data/cifar10.yaml, or another of configs/data")
    if (images is None) == (score_model is None):
        raise ValueError("FID of what? Give either --images, or --score_model with --objective")
    if score_model is not None and objective is None:
        raise ValueError("samples need the sampler of a family: give --objective DDPMObjective, NCSNObjective ...")
    if n < 2 or batch_size < 1 or seed < 0:
        raise ValueError(f"n must be at least 2, batch_size 1, seed 0; got {n}, {batch_size} and {seed}")
    network, identity = feature_network(features, weights)
    told: dict[str, Any] = {**identity}
    real = _real(data, split)
    if score_model is not None and objective is not None:
        score_model.requires_grad_(False).eval().to(device)
        shape = (data.channels, data.image_size, data.image_size)
        told |= {"samples_of": setting_of(score_model), "weights_digest": state_digest(score_model)}
        told |= {"objective": setting_of(objective)}
        generated, count = samples(score_model, objective, shape, n, batch_size, seed), n
    else:
        chosen = stored_images(str(images)).chosen(n, seed)
        told["images"] = str(images)
        generated, count = chosen.batches(batch_size), len(chosen)
    value, dimension = frechet_distance(real.batches(batch_size), generated, network.to(device))
    record: dict[str, Any] = {
        "fid": value, "n": count, "n_real": len(real), "seed": seed, "batch_size": batch_size,
        "data": data.name, "split": split, "dimension": dimension, **told,
        "command": command(), "versions": package_versions(),
    }  # fmt: skip
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, (json.dumps(record, indent=2) + "\n").encode())
    few = f"; fewer images than the {dimension} features: biased" if min(count, len(real)) <= dimension else ""
    made = f"FID {value:.4g} of {count} images to {len(real)} {split} images of {data.name}, by {told['features']}{few}"
    print(ending(made, f"written to {output}" if output else ""))


def _real(data: ImageDataModule, split: Literal["train", "test"]) -> Pictures:
    """The images of a split, without augmentation."""
    data.prepare_data()
    data.setup("fit" if split == "train" else "test")
    source = data.sources[split]
    return Pictures(lambda position: source[position][0], data.indices(split))
