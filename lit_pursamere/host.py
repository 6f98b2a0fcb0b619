"""What passes between host and device, so that a GPU never stands still until Python has had a look.

A read (`.item()`, `bool(tensor)`, a boolean index) makes the host wait until the device has done all that it was asked
for, and the device then waits for the host. Checks of every evaluation would do that thousands of times an attack. So
the numbers that they look at are noted where they arise, and read together:

    note(complain, low, high)       calls complain(low, high) with Python's numbers: at once, but
    with deferred():                within, at its end, in the order of the notes
        settle()                    and here
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice

import torch
from torch import Tensor

__all__ = ["Docket", "deferred", "docket", "note", "onto", "settle"]

Complain = Callable[..., None]


class Docket:
    """Numbers that are on a device still, and who wants to see them; while it is closed, nobody has to wait.

    Args:
        open: Whether notes wait for `settle`.
    """

    def __init__(self, open: bool) -> None:
        self.open = open
        self.notes: list[tuple[Complain, list[Tensor]]] = []

    def note(self, complain: Complain, *numbers: Tensor) -> None:
        """See `note`."""
        if any(number.is_meta for number in numbers):  # there is nothing to read
            return
        scalars = [number.detach().reshape(()) for number in numbers]
        if self.open:
            self.notes.append((complain, scalars))
        else:
            complain(*read(scalars))

    def settle(self) -> None:
        """Read what is noted, and call who noted it."""
        notes, self.notes = self.notes, []
        found = iter(read([number for _, numbers in notes for number in numbers]))
        for complain, numbers in notes:
            complain(*islice(found, len(numbers)))


CURRENT: ContextVar[Docket] = ContextVar("docket", default=Docket(open=False))  # noqa: B039 (closed, it keeps nothing)


def docket() -> Docket:
    """Where notes are made at present; the way back may need to know, for autograd has threads of its own."""
    return CURRENT.get()


def note(complain: Complain, *numbers: Tensor) -> None:
    """Call complain(*numbers) with Python's numbers, as soon as they are read.

    Args:
        complain: Raises or warns if the numbers are bad.
        numbers: Tensors of one element each. On the meta device there are none, and nobody is called.
    """
    docket().note(complain, *numbers)


def settle() -> None:
    """Read all that was noted within the present `deferred`."""
    docket().settle()


@contextmanager
def deferred() -> Iterator[None]:
    """Notes that are made within are read together at its end, or by `settle`.

    If the block fails, what was noted before is complained of first: it may be the reason.
    """
    own = Docket(open=True)
    token = CURRENT.set(own)
    try:
        try:
            yield
        except Exception:
            own.settle()
            raise
        own.settle()
    finally:
        own.open = False
        CURRENT.reset(token)


def read(numbers: list[Tensor]) -> list[float]:
    """Values of tensors without dimensions; one read for each type among them."""
    places: defaultdict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for place, number in enumerate(numbers):
        places[number.device, number.dtype].append(place)
    values = [0.0] * len(numbers)
    for alike in places.values():
        for place, value in zip(alike, torch.stack([numbers[place] for place in alike]).tolist(), strict=True):
            values[place] = value
    return values


def onto(values: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Values that were made on the CPU, on a device, without waiting for what that device is doing.

    A copy from pageable memory waits; one from pinned memory does not. Into a CUDA graph none is captured (torch
    refuses it): its replays would read memory that has served others since.
    """
    values = values.to(dtype or values.dtype)
    if device.type == "cuda" and not values.is_cuda and not torch.cuda.is_current_stream_capturing():
        values = values.pin_memory()
    return values.to(device, non_blocking=device.type not in ("cpu", "mps"))
