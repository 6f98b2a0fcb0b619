"""How speeds are measured: work on an otherwise idle device, in a named arithmetic, beside the peak of that arithmetic.

float32   matrices and convolutions in full float32
tf32      the same tensors, multiplied with TF32's 10 bits of mantissa (on CUDA; elsewhere the same as float32)
bf16      autocast to bfloat16
"""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from session import synchronise
from torch import Tensor, nn

from lit_pursamere.estimate.prices import FlopCount

__all__ = [
    "PRECISIONS",
    "arithmetic",
    "captured",
    "compile_afresh",
    "fastest",
    "flop_of",
    "free",
    "memory_gib",
    "on_meta",
    "seconds_of",
    "tuned",
]

PRECISIONS = ("float32", "tf32", "bf16")
BURST = 0.05  # seconds
CANDIDATES = 4  # kernels that cuDNN tries for every shape; the default of 10 takes longer than what is measured

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Within, networks compute in one of `PRECISIONS`, by kernels that were tried for their shapes."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        # Frozen weights are not cached anyway, and a cache must not outlive the capture of a graph.
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False), tuned():
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def tuned() -> Iterator[None]:
    """Within, cuDNN tries a few kernels for every new shape and keeps the fastest."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    cudnn.benchmark, cudnn.benchmark_limit = True, CANDIDATES
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.benchmark_limit = before


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 3, patience: float = 1.5) -> float:
    """Seconds that work() takes: the median of the repeats, after one call that warms up.

    Args:
        work: What is measured.
        device: Where it runs; waited for before and after.
        repeats: Measurements. What takes less than `BURST` is repeated within each of them.
        patience: Seconds after which no further measurement is begun.
    """
    work()
    times = [clock(work, device, 1)]
    calls = max(1, round(BURST / max(times[0], 1e-9)))
    if calls > 1:  # a single short call is mostly waiting
        times = [clock(work, device, calls)]
    while len(times) < repeats and sum(times) * calls < patience:
        times.append(clock(work, device, calls))
    return statistics.median(times)


def clock(work: Callable[[], object], device: torch.device, calls: int) -> float:
    synchronise(device)
    started = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise(device)
    return (time.perf_counter() - started) / calls


def flop_of(work: Callable[[], object]) -> float:
    """Floating point operations of work(), of matrices and convolutions, derivatives included."""
    with FlopCount() as count:
        work()
    return float(count.total)


def on_meta(module: Module) -> Module:
    """A copy without numbers, on which operations cost nothing and can be counted."""
    return copy.deepcopy(module).to("meta")


def free(device: torch.device) -> None:
    """Give back the memory of earlier work, and begin a new peak."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory_gib(device: torch.device) -> float | None:
    """Peak of the memory that tensors took since `free`; None where it is not counted."""
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None


def fastest(batches: Sequence[int], row: Callable[[int], dict]) -> dict:
    """The row of the batch size with the most images/s, and as `tried` the images/s of all.

    Args:
        batches: Batch sizes, rising; those that do not fit into the memory are passed over.
        row: Measures one of them; its result has `images_per_s`.

    Raises:
        RuntimeError: If none of them fits.
    """
    rows: dict[int, dict] = {}
    for batch in batches:
        try:
            rows[batch] = row(batch)
        except torch.OutOfMemoryError:
            break  # the larger ones need even more
    if not rows:
        raise RuntimeError(f"not even {batches[0]} images fit into the memory")
    best = max(rows.values(), key=lambda row: row["images_per_s"])
    return best | {"tried": {batch: row["images_per_s"] for batch, row in rows.items()}}


def compile_afresh(network: nn.Module, **options: object) -> None:
    """Let torch.compile compile a network at its next call; what was compiled before, or half of it, is forgotten."""
    torch.compiler.reset()
    network.compile(**options)


class Replay:
    """work() as one CUDA graph, launched as a whole; every call overwrites the result of the one before."""

    def __init__(self, work: Callable[[], Tensor]) -> None:
        self.work, self.graph = work, torch.cuda.CUDAGraph()  # the work keeps alive what the graph reads
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose kernels and take workspaces before the capture
            work()
            work()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph, stream=stream):
            self.result = work()

    def __call__(self) -> Tensor:
        self.graph.replay()
        return self.result


def captured(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """work() as one CUDA graph; on a CPU, which has none, work itself.

    What it reads must stay where it is, and nothing in it may wait for the device or bring anything from the CPU.
    """
    return Replay(work) if device.type == "cuda" else work
