"""Resident batches: the same images, crops and flips whatever the device count, and a place that can be restored."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.data import ArrayDataset, Digits, ImageDataModule
from lit_pursamere.data.resident import ResidentLoader, to_float
from lit_pursamere.data.training import LazyLoader, TrainingLoader, cut, random_places
from lit_pursamere.seeding import generator

COUNT = 22
IMAGES = torch.randint(0, 256, (COUNT, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(COUNT) % 4


def loader(batch_size=4, versions=(IMAGES,), **options) -> ResidentLoader:
    return ResidentLoader(list(versions), LABELS, torch.arange(COUNT) + 100, batch_size, **options)


def test_batches_are_float_images_labels_and_source_indices():
    x, y, index = next(iter(loader()))
    assert x.shape == (4, 3, 5, 5) and x.dtype == torch.float32 and y.dtype == index.dtype == torch.int64
    assert torch.equal(x, IMAGES[index - 100].float() / 255) and torch.equal(y, LABELS[index - 100])


def test_an_epoch_visits_every_image_once_and_epochs_differ():
    batches = loader(batch_size=11)
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        orders.append([int(i) for _, _, index in batches for i in index])
        assert sorted(orders[-1]) == list(range(100, 100 + COUNT))
    assert orders[0] != orders[1] != orders[2] != orders[0] and orders[0] != sorted(orders[0])


def test_the_last_partial_batch_is_dropped_unless_it_is_the_only_one():
    assert [len(y) for _, y, _ in loader(batch_size=8)] == [8, 8]
    assert [len(y) for _, y, _ in loader(batch_size=64)] == [COUNT]
    assert len(loader(batch_size=8)) == 2 and len(loader(batch_size=64)) == 1


@pytest.mark.parametrize("world", [2, 4])
def test_the_number_of_processes_does_not_matter(world):
    one = list(loader(batch_size=8, crop=2, flip=True))
    shards = [list(loader(batch_size=8, crop=2, flip=True, rank=rank, world=world)) for rank in range(world)]
    assert len({len(shard) for shard in shards}) == 1 and len(shards[0]) == len(one) == 2
    for number, whole in enumerate(one):
        for part in range(3):
            assert torch.equal(torch.cat([shard[number][part] for shard in shards]), whole[part])


def test_processes_share_a_single_batch_evenly():
    shards = [list(loader(batch_size=64, rank=rank, world=2)) for rank in range(2)]
    assert [len(shard) for shard in shards] == [1, 1] and {len(shard[0][1]) for shard in shards} == {COUNT // 2}
    assert sorted(int(i) for shard in shards for i in shard[0][2]) == list(range(100, 100 + COUNT))


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_crops_and_flips_are_those_of_each_image_alone(padding, flip):
    x = to_float(IMAGES).unsqueeze(1)
    rows, columns = random_places(COUNT, 5, padding, flip, generator(0))
    moved = cut(x, padding, rows, columns)
    mirrored = columns[:, 0] > columns[:, -1]
    assert mirrored.any().item() == flip and not mirrored.all()
    for i in range(COUNT):
        padded = torch.nn.functional.pad(x[i, 0], [padding] * 4)
        top, left = int(rows[i, 0]), int(columns[i].min())
        expected = padded[:, top : top + 5, left : left + 5]
        assert torch.equal(moved[i, 0], expected.flip(2) if mirrored[i] else expected)
        assert 0 <= top <= 2 * padding and 0 <= left <= 2 * padding
    if padding:
        assert rows[:, 0].unique().numel() == columns.amin(1).unique().numel() == 5


def test_pairs_get_the_same_crop_and_flip():
    twins = to_float(IMAGES).half()
    x, _, index = next(iter(loader(versions=(IMAGES, twins), crop=2, flip=True)))
    assert x.shape == (4, 2, 3, 5, 5)
    assert torch.allclose(x[:, 0], x[:, 1], atol=1e-3)
    assert not torch.allclose(x[:, 0], to_float(IMAGES[index - 100]))


def test_a_restored_loader_continues_with_the_next_batch():
    whole, first = loader(crop=1, flip=True), loader(crop=1, flip=True)
    whole.set_epoch(3)
    first.set_epoch(3)
    expected, started = list(whole), iter(first)
    seen = [next(started), next(started)]
    second = loader(crop=1, flip=True)
    second.load_state_dict(first.state_dict())
    second.set_epoch(3)
    for got, want in zip([*seen, *second], expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert len(list(second)) == len(expected), "the next epoch is whole again"


def test_a_loader_restored_at_the_end_of_an_epoch_starts_the_next_one():
    first = loader()
    list(first)
    for epoch in (0, 1):
        second = loader()
        second.load_state_dict(first.state_dict())
        second.set_epoch(epoch)
        assert len(list(second)) == len(second)


def test_augmentation_leaves_the_global_generator_alone_and_follows_the_seed():
    before = torch.get_rng_state()
    first = next(iter(loader(crop=2, flip=True, seed=1)))[0]
    assert torch.equal(first, next(iter(loader(crop=2, flip=True, seed=1)))[0])
    assert not torch.equal(first, next(iter(loader(crop=2, flip=True, seed=2)))[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_mismatched_lengths_are_refused():
    with pytest.raises(ValueError, match="21 labels"):
        ResidentLoader([IMAGES], LABELS[:21], torch.arange(21), 4)


@pytest.mark.parametrize(
    ("batch_size", "world", "message"),
    [
        (8, 3, "a batch of 8 images cannot be shared equally among 3 processes; .* to 6 or 9, or use another number"),
        (64, 3, "a batch of 22 images .* 3 processes; .* to 21, or"),
        (2, 4, "a batch of 2 images .* to 4, or"),
        (64, 23, "a batch of 22 images .* 23 processes; use another number of devices"),
    ],
)
def test_a_batch_without_equal_shares_is_refused(batch_size, world, message):
    with pytest.raises(ValueError, match=message):
        loader(batch_size=batch_size, world=world)


class Lazy(ImageDataModule):
    """Images that are made one by one, as those of a folder."""

    name, num_classes, channels, image_size, class_names = "lazy", 4, 3, 5, tuple("abcd")

    def load(self, split):
        class Source(torch.utils.data.Dataset):
            def __len__(self):
                return COUNT

            def __getitem__(self, i):
                return to_float(IMAGES[i]), int(LABELS[i])

        return Source()


def test_images_in_memory_are_resident_by_default_and_others_are_not():
    lazy, digits = Lazy(batch_size=8), Digits(batch_size=8)
    for data in (lazy, digits):
        data.setup("fit")
    assert isinstance(digits.train_dataloader(), ResidentLoader)
    assert not isinstance(lazy.train_dataloader(), ResidentLoader)
    digits.resident = False
    assert not isinstance(digits.train_dataloader(), ResidentLoader)
    lazy.resident = True
    with pytest.raises(ValueError, match=r"lazy .*--data.resident false"):
        lazy.train_dataloader()


def digits(resident: bool, **options) -> TrainingLoader:
    data = Digits(batch_size=100, crop=2, flip=True, resident=resident, **options)
    data.setup("fit")
    return data.train_dataloader()


def equal(ours, theirs) -> bool:
    return all(
        torch.equal(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_lazy_batches_are_the_resident_ones(workers):
    resident, lazy = digits(True), digits(False, num_workers=workers)
    assert isinstance(lazy, LazyLoader) and len(lazy) == len(resident) == 14
    state = torch.get_rng_state()
    for epoch in range(2):
        resident.set_epoch(epoch)
        lazy.set_epoch(epoch)
        assert equal(lazy, resident)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_restored_lazy_loader_continues_with_the_next_batch(workers):
    whole, first, second = (digits(False, num_workers=workers) for _ in range(3))
    for loader in (whole, first):
        loader.set_epoch(3)
    expected, started = list(whole), iter(first)
    seen = [next(started), next(started)]
    second.load_state_dict(first.state_dict())
    second.set_epoch(3)
    assert equal([*seen, *second], expected)
    assert len(list(second)) == len(expected), "the next epoch is whole again"


def test_lazy_images_are_shuffled_anew_in_every_epoch_by_the_seed():
    data = Lazy(batch_size=8)
    data.setup("fit")
    batches = data.train_dataloader()
    first = [int(i) for _, _, index in batches for i in index]
    batches.sampler.set_epoch(1)
    second = [int(i) for _, _, index in batches for i in index]
    assert len(first) == 16 and first != second and first == [int(i) for _, _, n in data.train_dataloader() for i in n]


@pytest.mark.parametrize("kind", [Lazy, Digits])
def test_training_images_for_statistics(kind):
    data = kind(val_size=4)
    data.setup("fit")
    images = data.training_images()
    assert len(images) == len(data.indices("train")) and images.min() >= 0 and images.max() <= 1
    assert torch.equal(images[0], data.sources["train"][data.indices("train")[0]][0])
    assert len(data.training_images(7)) == 7 and torch.equal(data.training_images(7), data.training_images(7))
    with pytest.raises(ValueError, match="cannot take 5000"):
        data.training_images(5000)


def test_an_array_set_beyond_the_limit_is_not_resident(monkeypatch):
    monkeypatch.setattr("lit_pursamere.data.base.RESIDENT_BYTES", 1000)
    data = Digits(batch_size=8)
    data.setup("fit")
    assert isinstance(data.sources["train"], ArrayDataset)
    assert not isinstance(data.train_dataloader(), ResidentLoader)
