"""What a GPU gives: peaks, purification, score networks, trainings, EoT, slots, and the GPU-hours of published tables.

    measure(session, toy=False)      # first_light.py --throughput: about four minutes; every line a step of the session

Rows hold images/s, TFLOP/s, the fraction of the peak that was measured in the same arithmetic (the better of a large
matrix product and a 3x3 convolution with its input gradient), and the peak memory. Weights are random unless said:
speed does not depend on them. What is compiled comes late, for it costs most before it gives the first number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial

import packed
import torch
from bench import GPU, TOY, Bench
from measuring import PRECISIONS, arithmetic, captured, compile_afresh, fastest, flop_of, free, on_meta
from projection import Speed, gpu_hours, markdown
from session import ROOT, Session
from torch import Tensor, nn
from workloads import attacks, trainings

from benchmarks.purify import PAPER_DRAWS, PAPER_LEVELS, displacement_gap
from lit_pursamere.diffusion import EDMScore, NCSNv2Score, NoiseLevels, NoiseSource, ScoreModel
from lit_pursamere.purifiers import PurSAMERE

__all__ = ["measure"]

SHIPPED = "checkpoints/cifar10/score_ngf16.safetensors"  # a trained NCSNv2, for what depends on weights


def measure(session: Session, toy: bool) -> None:
    """Measure everything, most valuable first; each measurement is a step of the session.

    Args:
        session: Where the steps are reported; its time limit is kept.
        toy: Whether the sizes are those of seconds on a CPU. torch.compile then uses the backend `eager`, which traces
            but generates no code, and a CUDA graph is the plain work.
    """
    bench = Bench(session, TOY if toy else GPU)
    for precision in PRECISIONS:
        bench.step(f"peak, {precision}", partial(peak, bench, precision), 20)
    purifications(bench, "eager")
    purifications(bench, "graph")
    score_networks(bench)
    trainings(bench, compiled=False)
    project(bench)
    compiled_purification(bench, "bf16")
    attacks(bench)
    bench.step("PurSAMERE, deviation from float32", partial(deviations, bench), 25)
    trainings(bench, compiled=True)
    compiled_purification(bench, "tf32")
    project(bench)


def peak(bench: Bench, precision: str) -> dict[str, float]:
    """TFLOP/s of a matrix product and of 3x3 convolutions with their input gradients, on random numbers."""
    device, dtype = bench.device, torch.bfloat16 if precision == "bf16" else torch.float32
    free(device)
    n, found = bench.sizes.matmul, {}
    with arithmetic(precision, device):
        a, b = (torch.randn((n, n), dtype=dtype, device=device) for _ in range(2))
        found[f"matmul {n}"] = 2 * n**3 / bench.seconds(lambda: a @ b)
        for channels, pixels, batch in bench.sizes.convolutions:
            work, flop = convolution(channels, pixels, batch, dtype, device)
            found[f"convolution {channels}x{pixels}x{pixels}, {batch} images"] = flop / bench.seconds(work)
    bench.peaks[precision] = max(found.values())
    return {name: flops / 1e12 for name, flops in found.items()} | {"peak": bench.peaks[precision] / 1e12}


def convolution(
    channels: int, pixels: int, batch: int, dtype: torch.dtype, device: torch.device
) -> tuple[Callable[[], object], float]:
    """A 3x3 convolution with its input gradient, channels last, and its FLOP."""
    layer = nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype).requires_grad_(False)
    layer = layer.to(memory_format=torch.channels_last)
    h, g = (torch.randn((batch, channels, pixels, pixels), dtype=dtype, device=device) for _ in range(2))
    h, g = (images.contiguous(memory_format=torch.channels_last) for images in (h, g))
    h.requires_grad_()
    return lambda: torch.autograd.grad(layer(h), h, g), 2 * 2 * 9 * channels**2 * batch * pixels**2


def purifications(bench: Bench, mode: str) -> None:
    """PurSAMERE at all widths and precisions.

    All batch sizes are tried in bfloat16. The other precisions take the best of them, and as a graph the smallest, for
    only then is launching kernels what takes the time.
    """
    for ngf, batches in bench.sizes.ncsnv2.items():
        purifier = pursamere(bench, ngf)
        for precision in reversed(PRECISIONS):
            chosen = batches[0] if mode == "graph" else bench.batches.get(ngf, batches[-1])
            tried = batches if precision == "bf16" else (chosen,)
            name = f"PurSAMERE ngf {ngf}, {precision}, {mode}"
            row = bench.step(name, partial(purification, bench, purifier, precision, mode, tried), 15)
            if row and precision == "bf16" and mode == "eager":
                bench.batches[ngf] = row["batch"]
            remember(bench, ngf, precision, row)


def compiled_purification(bench: Bench, precision: str) -> None:
    """PurSAMERE at the largest width with a compiled network, launched kernel by kernel and as one CUDA graph."""
    ngf, batches = list(bench.sizes.ncsnv2.items())[-1]
    purifier, batch = pursamere(bench, ngf), bench.batches.get(ngf, batches[-1])
    compile_afresh(purifier.score_model.network, **bench.sizes.compiler)
    for mode, limit, needs in (("eager", 75, 25), ("graph", 15, 3)):
        name = f"PurSAMERE ngf {ngf}, {precision}, compiled, {mode}"
        row = bench.step(name, partial(purification, bench, purifier, precision, mode, (batch,)), limit, needs)
        if row is None:
            return
        remember(bench, ngf, precision, row)


def remember(bench: Bench, ngf: int, precision: str, row: dict | None) -> None:
    if row and ngf == max(bench.sizes.ncsnv2):
        bench.purified[precision] = max(row["images_per_s"], bench.purified.get(precision, 0))


def pursamere(bench: Bench, ngf: int, levels: int | None = None, checkpoint: str | None = None) -> PurSAMERE:
    torch.manual_seed(0)
    size = 32 if checkpoint else bench.sizes.image
    model = NCSNv2Score(ngf=ngf, image_size=size, checkpoint=checkpoint)
    return PurSAMERE(model, draws=PAPER_DRAWS, sigmas=NoiseLevels(count=levels or bench.sizes.levels))


def purification(bench: Bench, purifier: PurSAMERE, precision: str, mode: str, batches: Sequence[int]) -> dict:
    """Whole purifications (232 levels, 4 draws, SAM) per second, from a few levels, at the best batch size."""
    levels = len(purifier.sigmas)
    flop = 2 * PAPER_DRAWS * levels * gradient_flop(purifier.score_model.network.ngf, bench.sizes.image)

    def row(batch: int) -> dict:
        free(bench.device)
        x = bench.images(batch)
        with arithmetic(precision, bench.device):
            seconds = bench.seconds(launched(purifier.to(bench.device), x, mode))
        return bench.row(precision, batch, batch * levels / PAPER_LEVELS, seconds, batch * flop)

    return fastest(batches, row)


@cache
def gradient_flop(ngf: int, size: int) -> float:
    """FLOP of a forward of NCSNv2 on one image, and of the gradient of its input."""
    with torch.device("meta"):
        model = NCSNv2Score(ngf=ngf, image_size=size).requires_grad_(False)
        return flop_of(lambda: input_gradient(model, torch.empty(1, 3, size, size)))


class HeldNoise(NoiseSource):
    """The draws of all levels, made beforehand: drawing on the CPU and bringing them over cannot be part of a graph."""

    def __init__(self, purifier: PurSAMERE, x: Tensor) -> None:
        levels = range(1, len(purifier.sigmas) + 1)
        self.held = {k: purifier.noise.draw("level", k, purifier.draws, x) for k in levels}

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        return self.held[k]


def launched(purifier: PurSAMERE, x: Tensor, mode: str) -> Callable[[], Tensor]:
    """The purification of x: kernel by kernel (`eager`), or all its levels as one CUDA graph (`graph`)."""
    if mode == "eager":
        return partial(purifier, x)
    held = copy.copy(purifier)
    # Levels lie on the device, too, so that the graph asks nothing of the CPU whatever a score model does with numbers.
    held.sigmas = tuple(torch.tensor(sigma, dtype=x.dtype, device=x.device) for sigma in purifier.sigmas)
    return captured(partial(held, x, HeldNoise(purifier, x)), x.device)


def deviations(bench: Bench) -> dict[str, dict[str, float]]:
    """How far other arithmetic, and the CUDA graph, take purified images from those of float32, launched as usual.

    Length of the difference over length of the displacement, by a trained network on photographs, or blobs without a
    pack, at every eighth of the 232 levels.
    """
    purifier = pursamere(bench, 16, bench.sizes.compared[0], str(ROOT / SHIPPED)).to(bench.device)
    x = photographs(bench)
    images = {}
    for name, (precision, mode) in {
        "float32": ("float32", "eager"), "float32, graph": ("float32", "graph"), "tf32": ("tf32", "eager"),
        "bf16": ("bf16", "eager"),
    }.items():  # fmt: skip
        with arithmetic(precision, bench.device):
            images[name] = launched(purifier, x, mode)().clone()
    reference = images.pop("float32")
    gaps = {name: displacement_gap(other, reference, x) for name, other in images.items()}
    return {name: {"median": gap.median().item(), "largest": gap.max().item()} for name, gap in gaps.items()}


def photographs(bench: Bench) -> Tensor:
    """Images (N, 3, 32, 32) in [0, 1] on the device."""
    count, pack = bench.sizes.compared[1], bench.session.report["arguments"]["pack"]
    try:
        images = packed.packed_images(pack, "test")[0][:count]
    except FileNotFoundError:
        images = packed.toy_images(count)[0]
    return images.to(bench.device).float() / 255


def input_gradient(model: ScoreModel, x: Tensor) -> Tensor:
    """Gradient of the squared noise estimate at noisy images x (B, C, H, W), forward included."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(model.predict_noise(x + 0, 0.1).square().sum(), x)[0]  # + 0: see flop_of


def score_networks(bench: Bench) -> None:
    """EDM's network, as released and small; batch sizes are tried in bfloat16, the best is kept for the others."""
    networks = {"EDM": bench.sizes.edm, "small EDM": bench.sizes.small}
    for name, (settings, batches) in networks.items():
        torch.manual_seed(0)
        model = EDMScore(**settings).requires_grad_(False).eval()
        for precision in reversed(PRECISIONS):
            rows = bench.step(f"{name}, {precision}", partial(score_network, bench, model, precision, batches), 20)
            if rows is None:
                continue
            forward, gradient = rows.values()
            batches = (gradient["batch"],)
            if name == "EDM":
                bench.speeds[precision] = Speed(forward["tflop_per_s"], gradient["tflop_per_s"])


def score_network(bench: Bench, model: ScoreModel, precision: str, batches: Sequence[int]) -> dict[str, dict]:
    """Images/s of a score network, with and without the gradient of its input."""
    twin, shape = on_meta(model), (1, 3, bench.sizes.image, bench.sizes.image)

    @torch.no_grad()
    def forward(model: ScoreModel, x: Tensor) -> Tensor:
        return model.predict_noise(x, 0.1)

    def row(work: Callable[[ScoreModel, Tensor], Tensor], flop: float, batch: int) -> dict:
        free(bench.device)
        x = bench.images(batch)
        with arithmetic(precision, bench.device):
            seconds = bench.seconds(partial(work, model.to(bench.device), x))
        return bench.row(precision, batch, batch, seconds, batch * flop)

    kinds = {"forward": forward, "forward and input gradient": input_gradient}
    flop = {kind: flop_of(partial(work, twin, torch.empty(shape, device="meta"))) for kind, work in kinds.items()}
    return {kind: fastest(batches, partial(row, work, flop[kind])) for kind, work in kinds.items()}


def project(bench: Bench) -> None:
    """GPU-hours of published tables at the speeds found so far, in the report and as gpu_hours.md beside it."""

    def work() -> dict:
        tables = gpu_hours(bench.purified, bench.speeds)
        (bench.session.out / "gpu_hours.md").write_text(markdown(tables), encoding="utf-8")
        return tables

    bench.session.step("GPU-hours", work, limit=10, needs=0.0)
