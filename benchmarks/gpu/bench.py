"""One throughput run: its sizes, on a GPU or as a toy, and what is known so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from measuring import memory_gib, seconds_of
from projection import Speed
from session import Session
from torch import Tensor

__all__ = ["GPU", "TOY", "Bench", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """All that differs between a GPU and a toy run.

    Args:
        image: Height and width of the images.
        matmul: Rows and columns of the matrices.
        convolutions: (channels, pixels, images) of every convolution.
        ncsnv2: Batch sizes that are tried, by ngf, which rises to the paper's.
        levels: Noise levels from which the speed of a purification is told.
        compared: (levels, images) of the comparison of precisions.
        edm: Arguments of EDMScore for the network as released, and the batch sizes that are tried.
        small: The same for the small one of configs/cifar10/score_denoiser.yaml.
        classifier: Depth and width of the wide ResNet.
        trained: Batch sizes of the trainings; the classifier's in pairs.
        steps: Training steps that warm up, and that are timed.
        eot: (images, draws) of the attack on a stochastic defence.
        slots: (images, slots, steps) of the attack in slots.
        repeats: Measurements of everything but trainings.
        compiler: Arguments of torch.compile.
    """

    image: int
    matmul: int
    convolutions: tuple[tuple[int, int, int], ...]
    ncsnv2: dict[int, tuple[int, ...]]
    levels: int
    compared: tuple[int, int]
    edm: tuple[dict, tuple[int, ...]]
    small: tuple[dict, tuple[int, ...]]
    classifier: tuple[int, int]
    trained: dict[str, int]
    steps: tuple[int, int]
    eot: tuple[int, int]
    slots: tuple[int, int, int]
    repeats: int
    compiler: dict


GPU = Sizes(
    image=32,
    matmul=8192,
    convolutions=((128, 32, 512), (256, 16, 1024), (256, 32, 256)),
    ncsnv2={32: (8, 128, 512), 64: (8, 64, 256), 128: (8, 32, 128)},
    levels=2,
    compared=(29, 64),
    edm=({}, (64, 256)),
    small=(dict(model_channels=32, channel_mult=(1, 2, 2), num_blocks=1, attn_resolutions=(), augment_dim=0,
                dropout=0.0), (256, 2048)),
    classifier=(28, 10),
    trained={"classifier": 128, "ncsnv2": 128, "small": 512},
    steps=(5, 15),
    eot=(16, 20),
    slots=(256, 32, 10),
    repeats=3,
    compiler={"dynamic": False},
)  # fmt: skip
TOY = Sizes(
    image=8,
    matmul=128,
    convolutions=((8, 8, 8),),
    ncsnv2={4: (1, 2), 6: (1, 2)},
    levels=2,
    compared=(1, 1),
    edm=(dict(model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,), image_size=8), (1, 2)),
    small=(dict(model_channels=4, channel_mult=(1,), num_blocks=1, attn_resolutions=(), image_size=8, augment_dim=0),
           (1, 2)),
    classifier=(10, 1),
    trained={"classifier": 2, "ncsnv2": 2, "small": 2},
    steps=(1, 1),
    eot=(2, 3),
    slots=(4, 2, 2),
    repeats=1,
    compiler={"backend": "eager"},
)  # fmt: skip


@dataclass
class Bench:
    """One run: where it is reported, its sizes, and what it has found that later steps need.

    `peaks` are FLOP/s by precision, `purified` the best images/s of PurSAMERE at the largest ngf, `speeds` those of
    EDM's network, `batches` the best batch sizes of eager purification by ngf.
    """

    session: Session
    sizes: Sizes
    peaks: dict[str, float] = field(default_factory=dict)
    purified: dict[str, float] = field(default_factory=dict)
    speeds: dict[str, Speed] = field(default_factory=dict)
    batches: dict[int, int] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.session.device

    def step(self, name: str, work: Callable[[], dict], limit: float, needs: float = 1.0) -> dict | None:
        """A step of the session that leaves a second for the projection, which gathers the rest."""
        return self.session.step(name, work, limit=min(limit, self.session.left() - 1), needs=needs + 1)

    def images(self, count: int) -> Tensor:
        """Random images (count, 3, H, W) in [0, 1] on the device, always the same."""
        shape = (count, 3, self.sizes.image, self.sizes.image)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds that work() takes on the device."""
        return seconds_of(work, self.device, self.sizes.repeats)

    def row(self, precision: str, batch: int, images: float, seconds: float, flop: float) -> dict:
        """The numbers of one measurement.

        Args:
            precision: Its arithmetic.
            batch: Its batch size.
            images: How many images it did, perhaps a fraction of one.
            seconds: How long it took.
            flop: Floating point operations of all of it.
        """
        peak = self.peaks.get(precision)
        return {
            "batch": batch,
            "images_per_s": images / seconds,
            "tflop_per_s": flop / seconds / 1e12,
            "of_peak": flop / seconds / peak if peak else None,
            "memory_gib": memory_gib(self.device),
        }
