"""A shard: one of `count` parts of a job, the work of a command of its own that knows of no other.

    chunk k of the images (a batch of a test, a part of a purified set)  ->  shard k mod count

Shards share a folder and nothing else, so whatever starts commands can run them: in any order, at once, again. A shard
may have several processes, which take its chunks in turn: rank r of w those with k mod (count w) = index + count r.
That number, index + count r, is borne by the files that a process owns in the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["WHOLE", "Shard"]

SHOWN = 8  # shards in a message


@dataclass(frozen=True)
class Shard:
    """Which part of a job.

    Args:
        index: Its number, from 0.
        count: How many parts there are; 1: the job is not parted.

    Raises:
        ValueError: If there is no such part.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            last = self.count - 1
            known = f"those of {self.count} are 0/{self.count} to {last}/{self.count}" if last >= 0 else "0/8 to 7/8"
            raise ValueError(f"there is no shard {self}; they count from 0: {known}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that "3/8" means.

        Raises:
            ValueError: If it means none.
        """
        if not (found := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)):
            raise ValueError(f"a shard is one number of so many, counted from 0, such as 0/8 to 7/8; got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def __bool__(self) -> bool:
        """Whether the job is parted at all."""
        return self.count > 1

    def place(self, rank: int, world: int) -> tuple[int, int]:
        """Number of a process of this shard among those of all shards, and how many these are.

        Args:
            rank: Its rank within the shard.
            world: Processes of the shard.
        """
        return self.index + self.count * rank, self.count * world

    def owners(self, chunks: Iterable[int]) -> str:
        """The shards, of as many as here, that have these chunks: "1/8, 5/8"; of many the first few."""
        names = [f"{index}/{self.count}" for index in sorted({chunk % self.count for chunk in chunks})]
        more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        return ", ".join([*names[:SHOWN], *more])


WHOLE = Shard()
