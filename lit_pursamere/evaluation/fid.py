"""The Fréchet inception distance (FID) between two sets of images.

Reference: Heusel et al. (2017), "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium".

    FID = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))      means m and covariances C of the features of the two sets

It is a number of the features as much as of the images: only those of one network, with the same weights, on as many
images, can be compared. Images count as they would be stored, in 256 levels. torchmetrics computes it, and is imported
at the first use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lit_pursamere.data import PurifiedSet
from lit_pursamere.data.arrays import to_nchw
from lit_pursamere.data.pictures import decode, find_pictures
from lit_pursamere.data.resident import to_float
from lit_pursamere.diffusion import Objective, ScoreModel
from lit_pursamere.purify.arrays import images_among, read_arrays
from lit_pursamere.weights import load_weights, sha256, state_digest

__all__ = ["Pictures", "feature_network", "frechet_distance", "samples", "stored_images"]


def feature_network(features: nn.Module | None, weights: str | Path | None) -> tuple[nn.Module, dict[str, str]]:
    """A frozen network with its weights, and what identifies it.

    Args:
        features: From images (B, C, H, W) in [0, 1] to features (B, D). None: `FIDInception`.
        weights: File with its weights.

    Returns:
        The network, and its class, the sha256 of the file, and a digest of the tensors themselves.

    Raises:
        ValueError: If there are no weights for a network that has some, or they do not fit.
        FileNotFoundError: If there is no such file.
    """
    if features is None:
        from lit_pursamere.networks.fid_inception import FIDInception  # imports torchvision's models

        features = FIDInception()
    name = type(features).__name__
    if weights is None and any(True for _ in features.parameters()):
        raise ValueError(
            f"FID needs the weights of {name}, and none are downloaded: give --weights FILE "
            "(pt_inception-2015-12-05-6726825d.pth for published numbers), or another network by --features"
        )
    told = {"features": name}
    if weights is not None:
        load_weights(features, weights)
        told["weights_sha256"] = sha256(Path(weights))
    features.requires_grad_(False).eval()
    return features, told | {"features_digest": state_digest(features)}


def frechet_distance(real: Iterable[Tensor], generated: Iterable[Tensor], features: nn.Module) -> tuple[float, int]:
    """Compute the FID of two sets of images.

    Args:
        real: Batches (B, C, H, W) in [0, 1]; at least two images in all.
        generated: The same of the other set.
        features: From such batches to features (B, D); it computes where its weights are.

    Returns:
        The distance, and the number D of features.

    Raises:
        ValueError: If the features are no (B, D), or there are too few images.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    device = next(features.parameters(), torch.empty(0)).device
    metric, dimension = None, 0
    for images, is_real in ((real, True), (generated, False)):
        for batch in images:
            x = ((batch * 255).round() / 255).clamp(0, 1).to(device)
            if metric is None:
                dimension = _dimension(features, x)
                channels, height, width = x.shape[1:]
                metric = FrechetInceptionDistance(features, normalize=True, input_img_size=(channels, height, width))
                metric = metric.to(device)
            with torch.no_grad():
                metric.update(x, real=is_real)
    counts = (int(metric.real_features_num_samples), int(metric.fake_features_num_samples)) if metric else (0, 0)
    if min(counts) < 2 or metric is None:
        raise ValueError(f"FID compares two sets of at least two images; got {counts[0]} and {counts[1]}")
    return float(metric.compute()), dimension


def _dimension(features: nn.Module, x: Tensor) -> int:
    with torch.no_grad():
        shape = tuple(features(x[:1]).shape)
    if len(shape) != 2:
        raise ValueError(f"FID needs features (B, D); {type(features).__name__} makes {shape} of one image")
    return shape[1]


def samples(
    score_model: ScoreModel, objective: Objective, shape: tuple[int, int, int], n: int, batch_size: int, seed: int
) -> Iterator[Tensor]:
    """Draw n images (C, H, W) with the sampler of an objective, in batches, each from a generator of its own.

    The generators are the CPU's or the GPU's, wherever the score model is, and numbered from the seed.
    """
    device = next(score_model.parameters(), torch.empty(0)).device
    for number, first in enumerate(range(0, n, batch_size)):
        generator = torch.Generator(device).manual_seed(seed + number)
        with torch.no_grad():
            yield objective.sample(score_model, (min(batch_size, n - first), *shape), generator)


@dataclass(frozen=True)
class Pictures:
    """Images that are read one by one.

    Args:
        read: From a position to an image (C, H, W) in [0, 1].
        positions: Which there are.
    """

    read: Callable[[int], Tensor]
    positions: Sequence[int] | np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def chosen(self, n: int, seed: int) -> Pictures:
        """At most n of them, drawn at random, in their order."""
        kept = np.sort(np.random.default_rng(seed).permutation(len(self))[:n])
        return Pictures(self.read, [int(self.positions[place]) for place in kept])

    def batches(self, size: int) -> Iterator[Tensor]:
        """All of them in their order, (B, C, H, W).

        Raises:
            ValueError: If two differ in shape.
        """
        for first in range(0, len(self), size):
            batch = [self.read(int(position)) for position in self.positions[first : first + size]]
            if len(shapes := sorted({tuple(image.shape) for image in batch})) > 1:
                raise ValueError(f"images must be of one size; these are {', '.join(map(str, shapes[:3]))}")
            yield torch.stack(batch)


def stored_images(path: str | Path) -> Pictures:
    """The images of a folder or file.

    Args:
        path: A purified set; a folder with PNG and JPEG files of one size; or a .npy or .npz file with one array of
            images.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If there are no images, or not all of a purified set.
    """
    place = Path(path)
    if (place / "indices.npy").is_file():
        made = PurifiedSet.open(place)
        if missing := made.missing():
            raise ValueError(f"{place} is not complete, {len(missing)} parts are missing; end `predict` first")
        return Pictures(made.__getitem__, made.indices)
    if place.is_dir():
        files = [picture.path for picture in find_pictures(place)]
        return Pictures(lambda position: to_float(decode(files[position].read_bytes())), range(len(files)))
    if not place.exists():
        raise FileNotFoundError(f"there are no images at {place}; give a folder, a .npy or a .npz file")
    arrays = read_arrays(place)
    names = images_among(arrays)
    if len(names) != 1:
        raise ValueError(f"{place} must hold one array of images; it holds {len(names)}: {', '.join(names) or 'none'}")
    pixels = torch.from_numpy(np.ascontiguousarray(to_nchw(arrays[names[0]], square=False)))
    return Pictures(lambda position: to_float(pixels[position]), range(len(pixels)))
