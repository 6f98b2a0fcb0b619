"""Whether a batch fits, said before it is tried: the memory of a few images, and a line through it.

most(n) = the most bytes of tensors that are alive at once while n images are worked on
a batch of B:  most(2) + (B - 2) * (most(4) - most(2)) / 2,  against what the device has free
"""

from __future__ import annotations

import resource
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Live", "Need", "free_bytes", "most_of", "need_of"]

CGROUP = Path("/sys/fs/cgroup")


class Live(TorchDispatchMode):
    """Bytes of the tensors that were made inside: `now`, and the `most` at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.note(leaf.untyped_storage())
        return result

    def note(self, storage: Any) -> None:
        """Count a storage from now until it is given back."""
        if storage not in self.known:
            self.known.add(storage)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.forget, storage.nbytes())

    def forget(self, count: int) -> None:
        self.now -= count


@dataclass(frozen=True)
class Need:
    """Bytes that two images need, and every further one."""

    two: int
    each: float

    def of(self, size: int) -> float:
        """Bytes of so many images."""
        return self.two + (size - 2) * self.each


def need_of(work: Callable[[int], object]) -> Need:
    """What batches need of a work that is done with so many images."""
    work(1)  # what is made once and kept, such as gradients of weights
    two, four = most_of(work, 2), most_of(work, 4)
    return Need(two, (four - two) / 2)


def most_of(work: Callable[[int], object], count: int) -> int:
    """The most bytes of tensors that were alive at once while so many images were worked on."""
    with Live() as live:
        work(count)
    return live.most


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a device has free, as far as that is known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [limit for limit in (available(), left_in_group(), left_of_limit()) if limit is not None]
    return min(found, default=None)


def available() -> int | None:
    """What the kernel calls available."""
    lines = read(Path("/proc/meminfo")).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def left_in_group() -> int | None:
    """What is left to the container."""
    most, used = (read(CGROUP / f"memory.{name}").strip() for name in ("max", "current"))
    return int(most) - int(used) if most.isdecimal() and used.isdecimal() else None


def left_of_limit() -> int | None:
    """What is left of a limit on addresses, `ulimit -v`."""
    most, pages = resource.getrlimit(resource.RLIMIT_AS)[0], read(Path("/proc/self/statm")).split()
    return most - int(pages[0]) * resource.getpagesize() if most != resource.RLIM_INFINITY and pages else None


def read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""
