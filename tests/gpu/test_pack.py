"""What is packed comes out unchanged, is not made twice, and is refused when it weighs too much to travel."""

import hashlib
import pickle
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from torchvision import datasets

PER_FILE = 4  # images; five files make up the training split


@pytest.fixture
def pixels(tmp_path, monkeypatch):
    """The official files of CIFAR-10 with 20 training and 4 test images, under tmp_path/data; their pixels by split."""
    source = datasets.CIFAR10
    folder = tmp_path / "data" / source.base_folder
    folder.mkdir(parents=True)
    written = {}

    def dump(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    for split, attribute in (("train", "train_list"), ("test", "test_list")):
        names, sums = [name for name, _ in getattr(source, attribute)], []
        images = np.random.default_rng(len(names)).integers(0, 256, (len(names) * PER_FILE, 3072), dtype=np.uint8)
        for part, name in zip(np.split(images, len(names)), names, strict=True):
            sums.append(dump(name, {"data": part, "labels": [3, 1, 4, 9]}))
        monkeypatch.setattr(source, attribute, sums)
        written[split] = torch.from_numpy(images.reshape(-1, 3, 32, 32))
    meta = dump(source.meta["filename"], {source.meta["key"]: list("0123456789")})
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": meta[1]})
    return written


def wheel(folder, name, number):
    """A wheel of one module and some large examples."""
    content = {f"{name}/__init__.py": f"number = '{number}'\n", f"{name}/examples/large.bin": "0" * 5000}
    information = f"{name}-{number}.dist-info"
    content[f"{information}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n"
    record = [f"{path},,{len(text)}" for path, text in content.items()] + [f"{information}/RECORD,,"]
    content[f"{information}/RECORD"] = "\n".join(record) + "\n"
    with zipfile.ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)


@pytest.fixture
def pack(script, tmp_path, pixels, monkeypatch):
    """pack.py in a small repository, with two packages to fetch; `fetched` lists what pip would be asked for."""
    module = script("pack")
    root = tmp_path / "tree"
    (root / "docs").mkdir(parents=True)
    for name, size in {"docs/tracked.md": 300, "new.py": 200, "ignored.bin": 10**6}.items():
        (root / name).write_bytes(bytes(size))
    (root / ".gitignore").write_bytes(b"*.bin\n")
    for command in (["init", "--quiet"], ["add", "docs", ".gitignore"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    fetched = []

    def download(requirements, folder):
        fetched.extend(requirements)
        for requirement in requirements:
            wheel(folder, *requirement.split("=="))

    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "PER_STRIP", 5)
    monkeypatch.setattr(module, "PACKAGES", ("one_package", "another"))
    monkeypatch.setattr(module, "LEFT_OUT", ("another/examples/",))
    monkeypatch.setattr(module, "version", {"one_package": "1.0", "another": "2.5"}.get)
    monkeypatch.setattr(module, "download", download)

    def run(*arguments):
        return module.main([f"--data={tmp_path / 'data'}", f"--out={root / 'pack'}", "--val=4", "--test=3", *arguments])

    run.module, run.folder, run.fetched = module, root / "pack", fetched
    return run


def test_images_labels_and_positions_come_out_unchanged(pack, script, pixels):
    pack("--train=12")
    packed = script("packed")
    assert len(list(pack.folder.glob("train-*.webp"))) == 3, "5, 5 and 2 images"
    positions = {}
    for split in ("train", "val", "test"):
        images, labels, positions[split] = packed.packed_images(pack.folder, split)
        source = pixels["test" if split == "test" else "train"]
        assert images.dtype == torch.uint8 and torch.equal(images, source[positions[split]])
        assert torch.equal(labels, torch.tensor([3, 1, 4, 9])[positions[split] % PER_FILE])
    assert positions["test"].tolist() == [0, 1, 2]
    data = pack.module.CIFAR10(pack.folder.parents[1] / "data", val_size=4)
    data.setup("fit")
    assert positions["val"].tolist() == data.indices("val"), "the images that the package itself holds out"
    assert len(positions["train"]) == 12 and not set(positions["train"].tolist()) & set(positions["val"].tolist())


def test_only_what_is_missing_or_damaged_is_made(pack, script):
    pack("--train=16")
    times = {path.name: path.stat().st_mtime_ns for path in pack.folder.glob("*.webp")}
    damaged = pack.folder / "train-001.webp"
    damaged.write_bytes(damaged.read_bytes()[:100])
    swapped = pack.folder / "train-002.webp"
    swapped.write_bytes((pack.folder / "train-000.webp").read_bytes())
    pack("--train=16")
    for path in pack.folder.glob("*.webp"):
        assert (path.stat().st_mtime_ns == times[path.name]) == (path not in (damaged, swapped))
    assert len(script("packed").packed_images(pack.folder, "train")[0]) == 16
    pack("--train=6")
    assert sorted(path.name for path in pack.folder.glob("train-*")) == ["train-000.webp", "train-001.webp"]
    assert len(script("packed").packed_images(pack.folder, "train")[0]) == 6


def test_packages_are_unpacked_without_what_is_left_out_and_fetched_once(pack):
    pack("--train=12")
    site = pack.folder / "site"
    assert (site / "one_package/examples/large.bin").is_file() and not (site / "another/examples").exists()
    pack("--train=12")
    assert pack.fetched == ["one_package==1.0", "another==2.5"]
    (site / "another/__init__.py").write_text("cut")
    pack("--train=12")
    assert pack.fetched[2:] == ["another==2.5"] and "2.5" in (site / "another/__init__.py").read_text()


def test_another_version_takes_the_place_of_the_old_one(pack, monkeypatch):
    pack("--train=12")
    monkeypatch.setattr(pack.module, "version", {"one_package": "1.1", "another": "2.5"}.get)
    pack("--train=12")
    found = [path.name for path in (pack.folder / "site").glob("one_package-*")]
    assert found == ["one_package-1.1.dist-info"] and pack.fetched[2:] == ["one_package==1.1"]


def test_compiled_packages_are_refused(pack, tmp_path):
    with pytest.raises(ValueError, match=r"fast-1-cp312-cp312-linux_x86_64\.whl is not pure Python"):
        pack.module.unpack(tmp_path / "fast-1-cp312-cp312-linux_x86_64.whl", tmp_path)


def test_pip_is_asked_for_wheels_of_the_other_machine_without_their_needs(script, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.extend(command))
    script("pack").download(["one==1"], tmp_path)
    assert {"--no-deps", "--only-binary=:all:", "--python-version=3.12", f"--dest={tmp_path}", "one==1"} < set(asked)
    assert not any("index" in part for part in asked), "whatever index the user has set"


def test_all_that_travels_is_weighed(pack):
    weights = pack("--train=12")
    assert weights["docs/"] == 300 and weights["new.py"] == 200, "what is tracked, and what is new and not ignored"
    assert not any("ignored" in name for name in weights)
    packed = {name: size for name, size in weights.items() if name.startswith("pack: ")}
    assert sum(packed.values()) == sum(path.stat().st_size for path in pack.folder.rglob("*") if path.is_file())
    assert set(packed) == {"pack: train", "pack: val", "pack: test", "pack: images.npz", "pack: site/"}
    assert list(weights.values()) == sorted(weights.values(), reverse=True)


def test_too_much_is_refused_by_name(pack, monkeypatch, capsys):
    monkeypatch.setattr(pack.module, "LIMIT", 20000)
    with pytest.raises(SystemExit, match="the largest part is pack: train"):
        pack("--train=12")
    assert "| pack: train | 0.04 |" in capsys.readouterr().out, "the table comes all the same"


def test_a_state_travels_when_it_is_asked_for(pack, tmp_path):
    (tmp_path / "state.safetensors").write_bytes(b"raw")
    (tmp_path / "score.safetensors").write_bytes(b"averaged")
    weights = pack("--train=12", f"--state={tmp_path / 'state.safetensors'}")
    assert weights["pack: state/"] == len(b"raw") + len(b"averaged")
    assert (pack.folder / "state/score.safetensors").read_bytes() == b"averaged"
    assert "pack: state/" not in pack("--train=12") and not (pack.folder / "state").exists()


def test_a_pack_that_is_not_there_or_not_whole_is_said(pack, script, tmp_path):
    packed = script("packed")
    with pytest.raises(FileNotFoundError, match=r"pack\.py --data"):
        packed.packed_images(tmp_path, "train")
    with pytest.raises(ValueError, match="'dev'"):
        packed.packed_images(tmp_path, "dev")
    pack("--train=12")
    (pack.folder / "train-001.webp").unlink()
    with pytest.raises(ValueError, match="7 train images and 12 labels"):
        packed.packed_images(pack.folder, "train")


def test_toy_images_are_fixed_by_their_seed_and_tell_their_class(script):
    toy_images = script("packed").toy_images
    images, labels, positions = toy_images(60, seed=3, size=16)
    assert images.shape == (60, 3, 16, 16) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [6] * 10 and positions.tolist() == list(range(60))
    assert torch.equal(images, toy_images(60, seed=3, size=16)[0])
    assert not torch.equal(images, toy_images(60, seed=4, size=16)[0])
    means = torch.stack([toy_images(600, seed=5, size=16)[0].float().flatten(1)[c::10].mean(0) for c in range(10)])
    nearest = torch.cdist(images.float().flatten(1), means).argmin(1)
    assert (nearest == labels).float().mean() > 0.5, "by far more than the tenth that chance gives"
