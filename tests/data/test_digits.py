"""The digits are scikit-learn's, each of them once, in one fixed order."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.data import Digits


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits(batch_size=64, eval_batch_size=50, val_size=100)
    data.setup("fit")
    data.setup("test")
    return data


def test_batch(digits):
    x, y, index = next(iter(digits.test_dataloader()))
    assert x.shape == (50, 1, 8, 8) and x.dtype == torch.float32
    assert x.min() == 0 and x.max() == 1 and torch.equal(x * 16, (x * 16).round())
    assert index.tolist() == list(range(50)) and set(y.tolist()) == set(range(10))


def test_sizes_and_classes(digits):
    assert len(digits.sources["train"]) == 1400 and len(digits.sources["test"]) == 397
    assert (len(digits.indices("train")), len(digits.indices("val"))) == (1300, 100)
    assert digits.num_classes == len(digits.class_names) == 10


def test_every_original_image_is_used_once(digits):
    from sklearn.datasets import load_digits

    raw = torch.from_numpy(load_digits().images).float().flatten(1)
    ours = torch.cat([digits.sources[split].images.flatten(1) * 16 for split in ("train", "test")])
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, raw.tolist()))


def test_the_order_is_mixed_and_fixed(digits):
    again = Digits()
    again.setup("test")
    assert torch.equal(again.sources["test"].images, digits.sources["test"].images)
    # The original starts 0, 1, 2, ..., 9, 0, 1, ...
    assert digits.sources["test"].labels[:20].tolist() != [k % 10 for k in range(20)]
    assert digits.sources["test"].labels.bincount().min() >= 25
