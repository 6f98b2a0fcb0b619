"""A batch that cannot fit is refused before it is tried, with the size that would fit."""

from __future__ import annotations

import re

import pytest
import torch

from lit_pursamere.cli.main import main
from lit_pursamere.estimate import memory
from lit_pursamere.estimate.memory import Live, free_bytes, require_room


def test_bytes_are_counted_while_tensors_live():
    with Live() as live:
        a = torch.zeros(1000)
        b = a.view(10, 100)  # the same storage
        c = torch.zeros(500, dtype=torch.float64)
        assert (live.now, live.most) == (8000, 8000)
        del a, b
        assert (live.now, live.most) == (4000, 8000)
        d = c + 1
    assert (live.now, live.most) == (8000, 8000) and d.sum() == 500


def test_what_a_graph_keeps_is_counted():
    x = torch.ones(1000, requires_grad=True)
    with Live() as live:
        (x.exp().exp().sum()).backward()
    assert 12_000 <= live.most <= 24_000


def work(count: int) -> None:
    tried.append(count)
    torch.zeros(count, 250).add(torch.zeros(250))  # 2 * 1000 bytes an image, and 1000


tried: list[int] = []


@pytest.mark.parametrize(("size", "free", "fits"), [(50, 100_999, 49), (50, 101_000, None), (10**9, 10**6, 499)])
def test_a_line_through_few_images_says_what_fits(size, free, fits):
    tried.clear()
    if fits is None:
        require_room(work, size, free, "data.batch_size")
    else:
        with pytest.raises(ValueError, match=rf"batch of {size:,} images needs .*; lower data.batch_size to {fits} or"):
            require_room(work, size, free, "data.batch_size")
    assert tried == [1, 2, 4], "the batch itself was not tried"
    require_room(work, 10**9, None, "data.batch_size")


def test_this_machine_says_how_much_is_free():
    assert free_bytes(torch.device("cpu")) is None or free_bytes(torch.device("cpu")) > 2**20


@pytest.mark.parametrize(
    ("name", "options", "setting"),
    [
        ("robustness", ["--data.eval_batch_size=64", "--model.purifier.sigmas.stride=30"], "data.eval_batch_size"),
        ("purify", ["--data.eval_batch_size=64", "--model.purifier.sigmas.stride=30"], "data.eval_batch_size"),
        ("score", ["--data.batch_size=64", "--model.score_model.ngf=2"], "data.batch_size"),
        ("classifier", ["--data.batch_size=64", "--data.purified=null"], "data.batch_size"),
    ],
)
def test_every_kind_of_run_says_so(name, options, setting, repository_root, monkeypatch, capsys):
    monkeypatch.chdir(repository_root)
    command = ["estimate", f"--config=configs/digits/{name}.yaml", *options, "--estimate.seconds=0.01"]
    for module in ("run", "training"):
        monkeypatch.setattr(f"lit_pursamere.estimate.{module}.free_bytes", lambda device: 10**6)
    assert main(command) == 1
    line = capsys.readouterr().err.splitlines()[-2]
    assert re.search(rf"a batch of 64 images needs about [\d.]+ .B, and 1 MB are free; lower {setting} to \d+ or", line)
    assert memory.free_bytes(torch.device("cpu")) != 10**6
