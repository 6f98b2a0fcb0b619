"""What the engines that start shards share: the commands of a job, and a function that runs one of them.

SLURM, Ray and their like place, start, requeue and count; a shard knows by itself what is done, and goes on there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from lit_pursamere.cli.spelling import check_words
from lit_pursamere.ending import command
from lit_pursamere.sharding import Shard

__all__ = ["Job", "commands"]


def commands(verb: str, options: Sequence[str], shards: int) -> list[list[str]]:
    """The words of the commands of a job, one a shard.

    Args:
        verb: `predict`, `test` or `certify`.
        options: Its options.
        shards: How many parts the job has.

    Raises:
        ValueError: If there are no shards, or an option is certainly mistyped, before anything is started.
        FileNotFoundError: If a file of a configuration is not there.
    """
    if shards < 1:
        raise ValueError(f"--shards must be at least 1; got {shards}")
    if any(word.partition("=")[0] == "--shard" for word in options):
        raise ValueError("every shard gets its --shard from here; leave that option out")
    check_words(verb, options)
    return [[verb, *options, f"--shard={Shard(index, shards)}"] for index in range(shards)]


class Job:
    """Runs a command within a process that an engine has started."""

    def __call__(self, folder: str, words: list[str]) -> None:
        """Run it.

        Args:
            folder: The folder that its paths are relative to.
            words: Verb and options.

        Raises:
            RuntimeError: If it did not end well; what was wrong stands in the log before.
        """
        from lit_pursamere.cli.main import main

        os.chdir(folder)
        if status := main(words):
            raise RuntimeError(f"`{command(*words)}` ended with status {status}; its log says why")

    def checkpoint(self, folder: str, words: list[str]) -> object:
        """What submitit submits again when the time of a job is up, or another one takes its place: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, folder, words)
