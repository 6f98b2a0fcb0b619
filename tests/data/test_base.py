"""Batches are (x in [0, 1], y, index); splits are disjoint and seeded; evaluation sees each image exactly once."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lit_pursamere.data import ArrayDataset, ImageDataModule, PurifiedSet, ShardSampler
from lit_pursamere.data.purified_checks import probe

TRAIN, TEST = 20, 11


class Ramp(ImageDataModule):
    """Image i of a split is grey, (1, 6, 6), and tells its own index: its first pixel is i / 255, its label i % 3."""

    name = "ramp"
    num_classes, channels, image_size = 3, 1, 6
    class_names = ("a", "b", "c")

    def load(self, split: str) -> Dataset:
        index = torch.arange(TRAIN if split == "train" else TEST)
        images = torch.arange(36).reshape(1, 1, 6, 6) * 2 + index.reshape(-1, 1, 1, 1)
        return ArrayDataset(images.to(torch.uint8), index % 3)


def ready(stage: str, **arguments) -> Ramp:
    data = Ramp(**arguments)
    data.setup(stage)
    return data


def seen(loader) -> list[int]:
    return [int(i) for _, _, index in loader for i in index]


def test_uint8_is_scaled_so_that_255_is_one():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    values = [x.item() for x, _ in (ArrayDataset(images, torch.zeros(3))[i] for i in range(3))]
    assert values == [0.0, pytest.approx(0.2), 1.0]


def test_floats_pass_unchanged_and_labels_become_integers():
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x, y = ArrayDataset(images, torch.tensor([1.0, 2.0]))[1]
    assert torch.equal(x, images[1]) and y == 2 and isinstance(y, int)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 3), torch.zeros(2), "N, C, H, W"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(3), "N labels"),
        (torch.full((1, 1, 2, 2), 255.0), torch.zeros(1), "divide by 255"),
        (torch.full((1, 1, 2, 2), -0.1), torch.zeros(1), "range from -0.1"),
        (torch.full((1, 1, 2, 2), torch.nan), torch.zeros(1), r"must lie in \[0, 1\]"),
    ],
)
def test_bad_arrays_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(images, labels)


def test_batches_are_images_labels_and_indices():
    x, y, index = next(iter(ready("test", eval_batch_size=4).test_dataloader()))
    assert x.shape == (4, 1, 6, 6) and x.dtype == torch.float32 and y.dtype == index.dtype == torch.int64
    assert x.min() >= 0 and x.max() <= 1
    assert index.tolist() == [0, 1, 2, 3] and y.tolist() == [0, 1, 2, 0]
    assert torch.equal(x[:, 0, 0, 0] * 255, index.float())


def test_validation_is_disjoint_from_training_and_seeded():
    data = ready("fit", val_size=6, seed=3)
    train, val = data.indices("train"), data.indices("val")
    assert len(val) == 6 and sorted(train + val) == list(range(TRAIN))
    assert val == sorted(val) == ready("fit", val_size=6, seed=3).indices("val")
    assert val != ready("fit", val_size=6, seed=4).indices("val")


def test_validation_loader_gives_the_validation_images_in_order():
    data = ready("fit", val_size=6)
    assert seen(data.val_dataloader()) == data.indices("val")
    assert ready("fit").val_dataloader() == []


def test_training_visits_every_training_image_once_in_random_order():
    data = ready("fit", val_size=5, batch_size=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        order = seen(data.train_dataloader())
    assert sorted(order) == data.indices("train") and order != sorted(order)


def test_training_drops_a_last_partial_batch_but_never_the_only_one():
    assert len(seen(ready("fit", batch_size=8).train_dataloader())) == 16
    assert len(seen(ready("fit", batch_size=64).train_dataloader())) == TRAIN


def test_train_size_takes_some_of_the_images_that_are_not_held_out():
    def training(**settings):
        return ready("fit", **settings).indices("train")

    everything, few = training(val_size=4), training(val_size=4, train_size=5)
    assert len(few) == 5 and set(few) < set(everything)
    assert training(train_size=9) == sorted([*few, *ready("fit", val_size=4).indices("val")]), "purified sets nest"
    assert training(train_size=5, seed=1) != training(train_size=5)
    with pytest.raises(ValueError, match=f"has {TRAIN} training images, but val_size=4, train_size={TRAIN}"):
        training(val_size=4, train_size=TRAIN)
    with pytest.raises(ValueError, match="train_size >= 1; got 0"):
        Ramp(train_size=0)


def test_test_size_takes_the_first_images_or_seeded_ones():
    assert seen(ready("test").test_dataloader()) == list(range(TEST))
    assert seen(ready("test", test_size=4).test_dataloader()) == [0, 1, 2, 3]
    drawn = ready("test", test_size=4, test_seed=1).test_indices()
    assert len(set(drawn)) == 4 and drawn == sorted(drawn) != [0, 1, 2, 3]
    assert drawn == ready("test", test_size=4, test_seed=1).test_indices()
    assert drawn != ready("test", test_size=4, test_seed=2).test_indices()


def test_the_old_generator_gives_the_subsets_of_published_evaluations():
    class Many(Ramp):
        def load(self, split: str) -> Dataset:
            return ArrayDataset(torch.zeros((10_000, 1, 1, 1), dtype=torch.uint8), torch.zeros(10_000))

    def chosen(size: int, seed: int) -> list[int]:
        data = Many(test_size=size, test_seed=seed, test_generator="RandomState")
        data.setup("test")
        return data.test_indices()

    assert chosen(5, 0) == sorted([9394, 898, 2398, 5906, 2343])  # RandomState(0).choice(10000, 5, replace=False)
    for size, seed in ((512, 0), (64, 3), (64, 7)):
        assert chosen(size, seed) == sorted(np.random.RandomState(seed).choice(10_000, size, replace=False))


def test_an_unknown_generator_is_refused():
    with pytest.raises(ValueError, match="'default_rng' or 'RandomState'; got 'dice'"):
        Ramp(test_generator="dice")


@pytest.mark.parametrize("evaluate", ["val", "train"])
def test_evaluate_chooses_which_images_test_and_predict_see(evaluate):
    data = ready("test", evaluate=evaluate, val_size=6)
    assert seen(data.test_dataloader()) == seen(data.predict_dataloader()) == data.indices(evaluate)


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
def test_shards_cover_each_position_once_without_padding(world, chunk):
    shards = [ShardSampler(TEST, rank, world, chunk) for rank in range(world)]
    assert sorted(i for shard in shards for i in shard) == list(range(TEST))
    assert [len(list(shard)) for shard in shards] == [len(shard) for shard in shards]


def batches(loader) -> list[list[int]]:
    return [index.tolist() for _, _, index in loader]


def of_process(data: Ramp, rank: int, world: int) -> Ramp:
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, testing=True)
    return data


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_any_number_of_processes_tests_the_same_batches(world):
    found = [batches(of_process(ready("test", eval_batch_size=3), rank, world).test_dataloader())
             for rank in range(world)]  # fmt: skip
    assert sorted(itertools.chain(*found)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
    assert all(sorted(mine) == mine for mine in found)


def test_too_few_batches_for_the_processes_is_an_error_that_names_the_mend():
    with pytest.raises(ValueError, match=r"11 images in batches of 6 make 2, too few for 3 .*eval_batch_size"):
        of_process(ready("test", eval_batch_size=6), 0, 3).test_dataloader()


@pytest.mark.parametrize("world", [2, 3, 5])
def test_validation_is_shared_however_large_the_batches(world):
    data = ready("fit", val_size=7, eval_batch_size=100)
    shares = [seen(of_process(data, rank, world).val_dataloader()) for rank in range(world)]
    assert sorted(itertools.chain(*shares)) == data.indices("val") and all(shares)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_number_of_processes_purifies_the_same_batches(world):
    data = ready("fit", val_size=7, eval_batch_size=3, evaluate="val")
    found = [batches(of_process(data, rank, world).predict_dataloader()) for rank in range(world)]
    chosen = data.indices("val")
    assert sorted(itertools.chain(*found)) == [chosen[0:3], chosen[3:6], chosen[6:]]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_evaluation_without_repeats(world):
    data = ready("test", eval_batch_size=2)
    found = []
    for rank in range(world):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world, testing=True)
        found += seen(data.test_dataloader())
    assert sorted(found) == list(range(TEST))


def test_processes_share_the_training_images():
    data = ready("fit", batch_size=10)
    found = []
    for rank in range(2):
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, testing=False, strategy=strategy)
        found += seen(data.train_dataloader())
    assert sorted(found) == list(range(TRAIN))


@pytest.mark.parametrize("resident", [True, False])
def test_a_pair_gets_the_same_crop_and_flip(resident):
    data = ready("fit", crop=2, flip=True, resident=resident)
    source = data.sources["train"]
    data.twins = Halves(source)
    pairs, _, index = next(iter(data.train_dataloader()))
    assert pairs.shape == (TRAIN, 2, 1, 6, 6)
    assert torch.equal(pairs[:, 0] / 2, pairs[:, 1])
    moved = [not torch.equal(pair[0], source[int(i)][0]) for pair, i in zip(pairs, index, strict=True)]
    assert sum(moved) > TRAIN // 2


@pytest.mark.parametrize("resident", [True, False])
def test_augmentation_crops_and_flips_as_told(resident):
    def batch(**arguments):
        data = ready("fit", resident=resident, **arguments)
        x, _, index = next(iter(data.train_dataloader()))
        return zip(x, (data.sources["train"][int(i)][0] for i in index), strict=True)

    flipped = list(batch(flip=True))
    assert {torch.equal(x, original) for x, original in flipped} == {True, False}
    assert all(torch.equal(x, original) or torch.equal(x, original.flip(-1)) for x, original in flipped)
    assert all(torch.equal(x, original) for x, original in batch())


class Halves:
    """In the place of a purified set: images at half their brightness."""

    def __init__(self, source: Dataset) -> None:
        self.source = source

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.source[index][0] / 2

    def take(self, indices: list[int]) -> np.ndarray:
        return torch.stack([self[i] for i in indices]).numpy()


def test_evaluation_is_not_augmented():
    data = ready("validate", crop=3, flip=True, val_size=6)
    x, _, index = next(iter(data.val_dataloader()))
    assert all(torch.equal(image, data.sources["train"][int(i)][0]) for image, i in zip(x, index, strict=True))


def test_a_purified_set_turns_training_batches_into_pairs(tmp_path):
    data = ready("fit", batch_size=5, val_size=4, purified=str(tmp_path))
    source, chosen = data.sources["train"], data.indices("train")
    told = {"data": "ramp", "split": "train", "source": {"count": TRAIN, "means": probe(source, chosen)},
            "purifier": {}, "weights": ""}  # fmt: skip
    purified = PurifiedSet.create(tmp_path, chosen, (1, 6, 6), told, part=5)
    clean = torch.stack([source[i][0] for i in chosen])
    for number in (0, 2, 3):
        purified.write(number, clean[5 * number : 5 * number + 5] / 2)
    with pytest.raises(ValueError, match=f"lacks 5 of {len(chosen)} images"):
        data.train_dataloader()
    purified.write(1, clean[5:10] / 2)
    x, _, index = next(iter(data.train_dataloader()))
    assert x.shape == (5, 2, 1, 6, 6) and set(index.tolist()) <= set(chosen)
    torch.testing.assert_close(x[:, 0] / 2, x[:, 1], rtol=1e-3, atol=1e-3)
    assert set(data.indices("val")) <= set(chosen), "of the images that are purified"


@pytest.mark.parametrize("asked", [{}, {"val_size": 3}, {"val_size": 3, "train_size": 4}, {"seed": 1}])
def test_a_fit_splits_the_images_that_are_purified(asked, tmp_path, capsys):
    purified = ready("predict", evaluate="train", val_size=4, train_size=9)
    source, chosen = purified.sources["train"], purified.indices("train")
    told = {"data": "ramp", "split": "train", "source": {"count": TRAIN, "means": probe(source, chosen)},
            "purifier": {}, "weights": ""}  # fmt: skip
    made = PurifiedSet.create(tmp_path, chosen, (1, 6, 6), told, part=9)
    made.write(0, torch.stack([source[i][0] for i in chosen]))
    data = ready("fit", batch_size=2, purified=str(tmp_path), **asked)
    train, val = data.indices("train"), data.indices("val") if asked.get("val_size") else []
    assert set(train) | set(val) <= set(chosen) and not set(train) & set(val) and len(val) == asked.get("val_size", 0)
    assert len(train) == asked.get("train_size", 9 - len(val))
    judged = ready("test", evaluate="val", val_size=3, seed=asked.get("seed", 0)).test_indices()
    assert not asked.get("val_size") or not set(judged) & set(train), "what a test calls val was not trained on"
    assert next(iter(data.train_dataloader()))[0].shape[1] == 2
    with pytest.raises(ValueError, match=rf"{TRAIN} training images, of which 9 are purified in .*val_size=9"):
        ready("fit", purified=str(tmp_path), val_size=9).indices("train")


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"eval_batch_size": 0},
        {"num_workers": -1},
        {"val_size": -1},
        {"test_size": 0},
        {"crop": -1},
        {"seed": -1},
        {"test_seed": -1},
    ],
)
def test_arguments_out_of_range_are_refused_with_their_value(arguments):
    (key, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{key} >= .*; got {value}"):
        Ramp(**arguments)


def test_images_before_the_start_are_left_out():
    assert seen(ready("test", test_size=3, test_start=2).test_dataloader()) == [2, 3, 4]
    assert ready("test", test_start=4).test_indices() == list(range(4, TEST))
    assert min(ready("test", test_start=4, test_size=2, test_seed=1).test_indices()) >= 4
    with pytest.raises(ValueError, match="exceeds the 2 test images of ramp from test_start="):
        ready("test", test_start=TEST - 2, test_size=3).test_dataloader()
    with pytest.raises(ValueError, match="test_size=1 exceeds the 0 test images"):
        ready("test", test_start=TEST).test_dataloader()


def test_sizes_beyond_the_data_are_refused():
    with pytest.raises(ValueError, match=f"val_size={TRAIN}"):
        ready("fit", val_size=TRAIN).indices("train")
    with pytest.raises(ValueError, match=f"test_size=12 exceeds the {TEST} test images of ramp"):
        ready("test", test_size=12).test_dataloader()


def test_what_images_look_like_must_be_said():
    class Bare(ImageDataModule):
        name, channels = "bare", 1
        load = Ramp.load

    with pytest.raises(ValueError, match="Bare must say its num_classes, image_size, class_names, as attributes"):
        Bare().setup("test")
