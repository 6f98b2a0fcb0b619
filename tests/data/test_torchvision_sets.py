"""torchvision's files come out as (x, y, index) in official order; trouble with them is one error that says how on."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets

from lit_pursamere.data import CIFAR10, CIFAR100, MNIST, FashionMNIST
from lit_pursamere.data.torchvision_sets import TorchvisionModule

ALL = [CIFAR10, CIFAR100, MNIST, FashionMNIST]
PER_FILE = 4


def pixels(count: int, size: int, seed: int) -> np.ndarray:
    images = np.random.default_rng(seed).integers(0, 256, (count, size), dtype=np.uint8)
    images[0, 0], images[0, 1] = 255, 0
    return images


def write_cifar(root: Path, module: type[TorchvisionModule], monkeypatch) -> dict[str, np.ndarray]:
    """Write batches in the format of the official python version; returns their pixels by file name."""
    source = module.source
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    written = {}

    def dump(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    key = "labels" if module is CIFAR10 else "fine_labels"
    for attribute in ("train_list", "test_list"):
        sums = []
        for seed, (name, _) in enumerate(getattr(source, attribute)):
            written[name] = pixels(PER_FILE, 3072, seed)
            sums.append(dump(name, {"data": written[name], key: [3, 1, 4, module.num_classes - 1]}))
        monkeypatch.setattr(source, attribute, sums)
    meta = dump(source.meta["filename"], {source.meta["key"]: list(module.class_names)})
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": meta[1]})
    return written


def write_mnist(root: Path, module: type[TorchvisionModule], labels=(3, 1, 4, 9), side: int = 28) -> dict:
    """Write files in the IDX format; returns their pixels by file name."""
    folder = root / module.source.__name__ / "raw"
    folder.mkdir(parents=True)
    written = {}
    for seed, split in enumerate(("train", "t10k")):
        name = f"{split}-images-idx3-ubyte"
        written[name] = pixels(len(labels), side * side, seed)
        header = struct.pack(">IIII", 0x803, len(labels), side, side)
        (folder / name).write_bytes(header + written[name].tobytes())
        header = struct.pack(">II", 0x801, len(labels))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + bytes(labels))
    return written


def ready(module: type[TorchvisionModule], root: Path, *stages: str, **arguments) -> TorchvisionModule:
    data = module(root=str(root), **arguments)
    data.prepare_data()
    for stage in stages:
        data.setup(stage)
    return data


@pytest.mark.parametrize("module", [CIFAR10, CIFAR100])
def test_cifar_keeps_pixels_labels_and_order(module, tmp_path, monkeypatch):
    written = write_cifar(tmp_path, module, monkeypatch)
    data = ready(module, tmp_path, "fit", "test")
    x, y, index = next(iter(data.test_dataloader()))
    test_file = module.source.test_list[0][0]
    assert x.dtype == torch.float32 and x.max() == 1 and x.min() == 0
    expected = torch.from_numpy(written[test_file].reshape(-1, 3, 32, 32)).float() / 255
    assert torch.equal(x, expected) and index.tolist() == [0, 1, 2, 3]
    assert y.tolist() == [3, 1, 4, module.num_classes - 1]
    train = np.concatenate([written[name] for name, _ in module.source.train_list]).reshape(-1, 3, 32, 32)
    assert data.sources["train"].images.dtype == torch.uint8
    assert np.array_equal(data.sources["train"].images.numpy(), train)


@pytest.mark.parametrize("module", [MNIST, FashionMNIST])
def test_mnist_keeps_pixels_labels_and_order(module, tmp_path):
    written = write_mnist(tmp_path, module)
    data = ready(module, tmp_path, "fit", "test")
    x, y, index = next(iter(data.test_dataloader()))
    assert x.shape == (4, 1, 28, 28) and x.dtype == torch.float32 and x.max() == 1
    expected = torch.from_numpy(written["t10k-images-idx3-ubyte"].reshape(4, 1, 28, 28)).float() / 255
    assert torch.equal(x, expected) and y.tolist() == [3, 1, 4, 9] and index.tolist() == [0, 1, 2, 3]
    train = written["train-images-idx3-ubyte"].reshape(4, 1, 28, 28)
    assert np.array_equal(data.sources["train"].images.numpy(), train)


def test_training_augmentation_defaults_to_the_custom_of_each_set():
    assert [(m().crop, m().flip) for m in ALL] == [(4, True), (4, True), (0, False), (0, False)]
    assert (CIFAR10(crop=0, flip=False, batch_size=7).crop, CIFAR10(batch_size=7).batch_size) == (0, 7)


def test_class_names():
    assert [len(set(m.class_names)) for m in ALL] == [m.num_classes for m in ALL] == [10, 100, 10, 10]
    assert CIFAR100.class_names == tuple(sorted(CIFAR100.class_names))
    assert CIFAR10.class_names == tuple(sorted(CIFAR10.class_names))


@pytest.mark.parametrize("module", ALL)
def test_absent_files_are_one_error_with_place_and_mend(module, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        ready(module, tmp_path, "test")
    message = str(caught.value)
    assert str(module(root=str(tmp_path)).folder) in message and "--data.download true" in message
    assert all(name in message for name in module().files()) and "delete" not in message


def test_only_the_missing_files_are_named(tmp_path, monkeypatch):
    write_cifar(tmp_path, CIFAR10, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=r"\(no data_batch_3\)"):
        ready(CIFAR10, tmp_path, "fit")


@pytest.mark.parametrize("module", ALL)
def test_a_failed_download_is_one_error_with_reason_and_mend(module, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    with pytest.raises(OSError, match="cannot be downloaded") as caught:
        module(root=str(tmp_path), download=True).prepare_data()
    assert "no route to host" in str(caught.value) and module().address in str(caught.value)


def test_download_is_asked_for_only_when_told(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: calls.append(self.root))
    write_mnist(tmp_path, MNIST)
    MNIST(root=str(tmp_path)).prepare_data()
    assert calls == []
    MNIST(root=str(tmp_path), download=True).prepare_data()
    assert calls == [tmp_path]


def test_a_damaged_cifar_file_is_named(tmp_path, monkeypatch):
    write_cifar(tmp_path, CIFAR10, monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"damaged: data_batch_2\).*delete that folder"):
        ready(CIFAR10, tmp_path, "fit")


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03", b"<html>not found</html>" * 9, "cut", "other size"])
def test_a_damaged_mnist_file_is_one_error(content, tmp_path):
    write_mnist(tmp_path, MNIST, side=20 if content == "other size" else 28)
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    if isinstance(content, bytes) or content == "cut":
        file.write_bytes(content if isinstance(content, bytes) else file.read_bytes()[:-5])
    with pytest.raises(OSError, match=r"mnist cannot be read from .*raw.*delete that folder"):
        ready(MNIST, tmp_path, "test")


def test_labels_beyond_the_classes_are_refused(tmp_path):
    write_mnist(tmp_path, MNIST, labels=(0, 10))
    with pytest.raises(OSError, match="a label is 10, but there are 10 classes"):
        ready(MNIST, tmp_path, "test")
