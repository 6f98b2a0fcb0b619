"""Equation 17: pairs count both halves equally; without pairs the loss is plain cross-entropy."""

import pytest
import torch
import torch.nn.functional as F

from lit_pursamere.networks import WideResNet
from lit_pursamere.tasks import LitClassifier


@pytest.fixture
def task():
    torch.manual_seed(0)
    task = LitClassifier(WideResNet(10, 1, channels=1))
    task.log = lambda *args, **kwargs: None
    return task.eval()  # fixed normalisation statistics, so that the two halves can be computed apart


def test_pairs_give_equation_17(task):
    x, twins, y = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8), torch.arange(6)
    loss = task.training_step((torch.stack([x, twins], 1), y, torch.arange(6)), 0)
    expected = 0.5 * F.cross_entropy(task(x), y) + 0.5 * F.cross_entropy(task(twins), y)
    torch.testing.assert_close(loss, expected)


def test_without_pairs_plain_cross_entropy(task):
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6)
    loss = task.training_step((x, y, torch.arange(6)), 0)
    torch.testing.assert_close(loss, F.cross_entropy(task(x), y))


def test_batch_norm_sees_the_mixture():
    task = LitClassifier(WideResNet(10, 1, channels=1)).train()
    task.log = lambda *args, **kwargs: None
    seen = []
    task.classifier.conv1.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    task.training_step((torch.rand(3, 2, 1, 8, 8), torch.arange(3), torch.arange(3)), 0)
    assert seen == [6]


def test_recipe_of_the_paper():
    task = LitClassifier(WideResNet(10, 1, channels=1))
    settings = task.configure_optimizers()
    group = settings["optimizer"].param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.1, 0.9, 5e-4, False)
    rates = []
    for _ in range(200):
        rates.append(group["lr"])
        settings["optimizer"].step()
        settings["lr_scheduler"].step()
    drops = [epoch for epoch in range(1, 200) if rates[epoch] < rates[epoch - 1]]
    assert drops == [60, 120, 160]
    assert rates[-1] == pytest.approx(0.1 * 0.2**3)


def test_bad_arguments():
    with pytest.raises(ValueError, match="lr > 0"):
        LitClassifier(WideResNet(10, 1), lr=-1)
