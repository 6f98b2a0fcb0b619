"""Every image is in exactly one shard, whatever their number and that of their processes."""

from __future__ import annotations

import random

import pytest

from lit_pursamere.data import ShardSampler
from lit_pursamere.sharding import WHOLE, Shard


def test_every_position_is_in_exactly_one_process_of_one_shard():
    rng = random.Random(0)
    for _ in range(60):
        count, chunk = rng.randint(1, 40), rng.randint(1, 9)
        processes = [rng.randint(1, 3) for _ in range(count)]  # shards need not have the same number
        length = rng.randint(chunk * count * max(processes), 1000)
        places = [Shard(i, count).place(rank, world) for i, world in enumerate(processes) for rank in range(world)]
        dealt = [p for number, of in places for p in ShardSampler(length, number, of, chunk)]
        assert sorted(dealt) == list(range(length))
        assert len({number for number, _ in places}) == len(places), "no two write to one file"


def test_the_whole_is_one_shard():
    assert not WHOLE and Shard(0, 2) and Shard.parse("0/1") == WHOLE
    assert [WHOLE.place(rank, 4) for rank in range(4)] == [(rank, 4) for rank in range(4)]


@pytest.mark.parametrize("text", ["0/1", "7/8", "11/12"])
def test_a_shard_is_read_as_it_is_written(text):
    assert str(Shard.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "3", "8/8", "1/0", "-1/8", "1/8/2", "a/b", "1 /8", "0x1/8", "1.0/8", "9" * 5000 + "/8"]
)
def test_what_is_no_shard_is_named(text):
    with pytest.raises(ValueError, match=r"count(ed)? from 0"):
        Shard.parse(text)


def test_the_owners_of_chunks_are_named():
    shard = Shard(0, 20)
    assert shard.owners([1, 21, 5]) == "1/20, 5/20"
    assert shard.owners(range(40)) == ", ".join(f"{i}/20" for i in range(8)) + ", and 12 more"
