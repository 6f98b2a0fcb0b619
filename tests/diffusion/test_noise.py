"""Seeded noise is a constant that every image shares and that touches no global generator; fresh noise is neither."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.diffusion import FreshNoise, NoiseSource, NoiseTables, PartlySeededNoise, SeededNoise
from lit_pursamere.purifiers import PurSAMERE

STREAMS = ("level", "forward", "reverse", "guide", "smoothing")
RECORDED = [1.0617087, 0.0910712, 1.2612344, 0.2901901]  # seed 3, branch (1,), stream reverse, step 7


def test_seeded_noise_is_the_same_at_every_call_and_batch_size():
    one, eight = torch.zeros(1, 3, 4, 4), torch.rand(8, 3, 4, 4)
    draw = SeededNoise(3).draw("level", 2, 5, one)
    assert draw.shape == (5, 1, 3, 4, 4)
    assert torch.equal(draw, SeededNoise(3).draw("level", 2, 5, one))
    assert torch.equal(draw, SeededNoise(3).draw("level", 2, 5, eight))


def test_seed_0_is_torchs_own_generator_with_the_step_as_seed():
    like = torch.zeros(2, 3, 4, 4)
    for number, stream in enumerate(STREAMS[:4]):  # a fifth is beyond the 32 bits of its seed
        for k in (0, 1, 232):
            generator = torch.Generator().manual_seed(k + number * 2**30)
            expected = torch.randn((4, 3, 4, 4), generator=generator)
            assert torch.equal(SeededNoise(0).draw(stream, k, 4, like).squeeze(1), expected)


def test_other_seeds_draw_what_they_always_drew():
    drawn = SeededNoise(3, (1,)).draw("reverse", 7, 1, torch.zeros(1, 1, 1, 4)).flatten()
    assert torch.allclose(drawn, torch.tensor(RECORDED), rtol=0, atol=1e-5)


SOURCES = {
    **{f"seed {seed}": SeededNoise(seed) for seed in (0, 1, 2, 3, 2**14, 2**14 + 1, 2**15, 2**30 - 1)},
    **{f"table {j} of {seed}": NoiseTables(9, seed).table(j) for seed in (0, 1) for j in (1, 2, 8)},
    **{f"copy {j} of table {t} of 0": NoiseTables(3).table(t).copy(j) for t in (1, 2) for j in (1, 2)},
    **{f"copy {j} of partly {seed}": PartlySeededNoise(seed, STREAMS).copy(j) for seed in (4, 5) for j in (0, 1, 2)},
}


def test_no_two_seeds_tables_copies_streams_and_steps_share_a_draw():
    like = torch.zeros(1, 1, 8, 8)
    steps = (0, 1, 2, 3, 2**14 - 1, 2**14, 2**14 + 1, 2**20 - 1)
    draws = torch.cat([source.draw(s, k, 2, like) for source in SOURCES.values() for s in STREAMS for k in steps])
    flat = draws.flatten(1).double()
    cosines = torch.nn.functional.normalize(flat, dim=1) @ torch.nn.functional.normalize(flat, dim=1).T
    cosines.fill_diagonal_(0)
    assert len(flat) == 2 * len(SOURCES) * len(STREAMS) * len(steps)
    assert cosines.abs().max() < 0.8, "independent draws of 64 pixels are as good as orthogonal"


def test_the_first_table_and_copy_is_the_source_itself():
    for seed in (0, 5):
        assert NoiseTables(4, seed).table(0) == SeededNoise(seed).copy(0) == SeededNoise(seed)
        assert NoiseTables(4, seed).table(3) == SeededNoise(seed).copy(3) == SeededNoise(seed, (3,))


def test_seeded_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    SeededNoise(1).draw("forward", 1, 4, torch.zeros(2, 1, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_noise_has_the_type_of_the_images_and_their_precision_does_not_matter():
    for seed in (0, 2):
        single = SeededNoise(seed).draw("level", 1, 3, torch.zeros(1, 1, 8, 8))
        double = SeededNoise(seed).draw("level", 1, 3, torch.zeros(1, 1, 8, 8, dtype=torch.float64))
        assert single.dtype == torch.float32 and double.dtype == torch.float64
        assert torch.equal(single.double(), double)


@pytest.mark.parametrize("source", [SeededNoise(0), SeededNoise(7), FreshNoise()], ids=["seed 0", "seed 7", "fresh"])
def test_noise_is_standard_normal(source):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        xi = source.draw("level", 1, 40, torch.zeros(1, 1, 32, 32))
    assert isinstance(source, NoiseSource)
    assert abs(xi.mean().item()) < 0.02
    assert abs(xi.std().item() - 1) < 0.02


def test_fresh_noise_differs_between_images_and_calls_and_follows_the_global_seed():
    like = torch.zeros(3, 1, 8, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = (FreshNoise().draw("level", 1, 2, like) for _ in range(2))
        torch.manual_seed(0)
        again = FreshNoise().draw("level", 1, 2, like)
    assert first.shape == (2, 3, 1, 8, 8)
    assert (first[:, 0] - first[:, 1]).abs().max() > 0.1
    assert (first - second).abs().max() > 0.1
    assert torch.equal(first, again)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_out_of_range_is_named(seed):
    with pytest.raises(ValueError, match=str(seed)):
        SeededNoise(seed)


def test_an_unknown_stream_is_named():
    with pytest.raises(ValueError, match="sideways"):
        SeededNoise(0).draw("sideways", 1, 1, torch.zeros(1, 1, 2, 2))


def test_partly_seeded_noise_knows_its_streams_and_no_others():
    like = torch.zeros(3, 1, 4, 4)
    noise = PartlySeededNoise(5, ("forward",))
    assert torch.equal(noise.draw("forward", 0, 2, like), SeededNoise(5).draw("forward", 0, 2, like))
    with torch.random.fork_rng(devices=[]):
        first, second = (noise.draw("reverse", 0, 2, like) for _ in range(2))
    assert first.shape == (2, 3, 1, 4, 4) and not torch.equal(first, second)
    with pytest.raises(ValueError, match="backward"):
        PartlySeededNoise(0, ("backward",))


def test_every_image_of_a_purification_uses_one_whole_table_of_the_set():
    like, noise = torch.zeros(40, 1, 3, 3), NoiseTables(4, seed=7)
    tables = [noise.table(j) for j in range(4)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        chosen, again = noise.once(like), noise.once(like)
    used = []
    for i in range(40):
        fits = [
            j for j, table in enumerate(tables)
            if all(torch.equal(chosen.draw(s, k, 2, like)[:, i], table.draw(s, k, 2, like)[:, 0])
                   for s, k in (("forward", 0), ("reverse", 9)))
        ]  # fmt: skip
        assert len(fits) == 1
        used += fits
    assert set(used) == {0, 1, 2, 3} and chosen != again


def test_one_table_is_seeded_noise_and_a_set_must_be_opened():
    like = torch.zeros(2, 1, 3, 3)
    one = NoiseTables(1, seed=3).once(like).draw("level", 1, 2, like)
    assert torch.equal(one, SeededNoise(3).draw("level", 1, 2, like).expand_as(one))
    with pytest.raises(RuntimeError, match="once"):
        NoiseTables(2).draw("level", 1, 2, like)
    with pytest.raises(ValueError, match="got 0"):
        NoiseTables(0)
    with pytest.raises(ValueError, match="2\\^30"):
        NoiseTables(2, seed=2**30)


def test_a_purifier_takes_any_source(mixture, images):
    tables = NoiseTables(2, seed=1)
    build = PurSAMERE(mixture, 0.4, 0.2, draws=2, sigmas=[0.4, 0.2]).drawing_from
    known = [build(tables.table(j))(images) for j in range(2)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        purified = build(tables)(images)
    matches = torch.stack([torch.isclose(purified, k, rtol=0, atol=1e-12).flatten(1).all(1) for k in known])
    assert (matches.sum(0) == 1).all() and matches.any(1).all()
