"""What a batch needs is known before it is tried."""

from __future__ import annotations

import torch

from lit_pursamere.estimate.memory import Live, free_bytes, need_of
from lit_pursamere.estimate.prices import Price
from lit_pursamere.networks import WideResNet


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


def test_a_line_through_few_images_says_what_a_batch_needs():
    tried: list[int] = []

    def work(count: int) -> None:
        tried.append(count)
        torch.zeros(count, 250).add(torch.zeros(250))  # 2 * 1000 bytes an image, and 1000

    assert need_of(work).of(50) == 101_000 and tried == [1, 2, 4], "the batch itself was not tried"


def test_this_machine_says_how_much_is_free():
    assert free_bytes(torch.device("cpu")) is None or free_bytes(torch.device("cpu")) > 2**20


def test_what_a_network_needs_is_told_without_making_it():
    """On the meta device, for a batch: what is alive on the CPU, or a little more."""
    network, x = WideResNet(10, 1, channels=1).requires_grad_(False).eval(), torch.rand(8, 1, 8, 8)
    with Live() as live:
        torch.autograd.grad(network(x.requires_grad_()).square().sum(), x)
    assert live.most <= Price(network, (1, 8, 8)).room("gradient", 8) <= 1.5 * live.most
