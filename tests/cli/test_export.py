"""Adversarial images travel in one file, and others judge them; whatever a stranger's file holds is told in a line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_pursamere.cli.experiment import last_line
from lit_pursamere.cli.main import main
from lit_pursamere.data.resident import to_levels
from lit_pursamere.evaluation.exported import exported, read_exported, write_exported
from lit_pursamere.networks import WideResNet
from lit_pursamere.store import read_rows
from lit_pursamere.store.images import read_images
from lit_pursamere.weights import save_weights

CONFIG = """
seed_everything: 0
model:
  class_path: LitRobustness
  init_args:
    purifier: {class_path: Identity}
    classifier:
      class_path: lit_pursamere.weights.trained
      init_args:
        network: {class_path: lit_pursamere.networks.WideResNet, init_args: {depth: 10, width: 1, channels: 1}}
        checkpoint: null
    attacks:
      PGD: {class_path: PGD, init_args: {view: exact, threat: {norm: linf, eps: 8/255}, steps: 2}}
      L2: {class_path: PGD, init_args: {view: exact, threat: {norm: l2, eps: 0.5}, steps: 2}}
    pictures: 0
data: {class_path: Digits, init_args: {eval_batch_size: 4, test_size: 6}}
trainer: {accelerator: cpu, logger: false, enable_progress_bar: false, enable_model_summary: false}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run with images, its export, and another classifier."""
    folder = tmp_path_factory.mktemp("export")
    for seed, name in enumerate(("net", "other")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            save_weights(WideResNet(10, 1, channels=1), folder / f"{name}.safetensors")
    (folder / "test.yaml").write_text(CONFIG)
    assert main(["test", *own(folder), f"--model.output={folder}/run", "--model.save_images=true"]) == 0
    assert main(["export", str(folder / "run"), str(folder / "out/adv.npz")]) == 0
    return folder


def own(folder, name="net"):
    return [f"--config={folder}/test.yaml", f"--model.classifier.checkpoint={folder}/{name}.safetensors",
            f"--trainer.default_root_dir={folder}"]  # fmt: skip


@pytest.fixture
def content(world):
    """The arrays of the file, to be changed."""
    with np.load(world / "out/adv.npz") as file:
        return dict(file)


def error_of(capsys, *words):
    capsys.readouterr()
    assert main([*map(str, words)]) == 1
    (line, _) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_images_are_those_that_were_judged(world):
    found, rows = read_exported(world / "out/adv.npz"), read_rows(world / "run")
    attacked = [row for row in rows if row["attack"] != "clean"]
    _, any_ = read_images(world / "run", attacked)
    assert found.images.dtype == np.float32 and np.array_equal(found.images, any_.numpy())
    assert found.clean.shape == (6, 1, 8, 8) and len(found.images) == 12
    clean = [row for row in rows if row["attack"] == "clean"]
    assert np.array_equal(found.clean.astype(np.float32), read_images(world / "run", clean)[0].numpy())
    for k, row in enumerate(attacked):
        told = [found.systems[k], found.attacks[k], found.positions[k], found.labels[k]]
        assert told == [row["system"], row["attack"], row["index"], row["label"]]
        assert found.accuracy[k] == row["votes_any"]
    assert found.manifest["iterate"] == "any" and found.manifest["attacks"]["L2"]["threat"]["eps"] == 0.5


def levels(images):
    return to_levels(images).numpy()


def test_whole_grey_levels_are_bytes():
    grey = torch.arange(256).reshape(1, 1, 16, 16) / 255
    assert levels(grey).dtype == np.uint8 and levels(grey).flatten().tolist() == list(range(256))
    assert levels(grey + 1e-3).dtype == np.float32
    assert levels(torch.arange(256).reshape(1, 1, 16, 16).double() / 255).dtype == np.float64, "another number"


def test_the_last_iterates_may_be_meant(world):
    found = exported(world / "run", "last")
    last, _ = read_images(world / "run", [row for row in read_rows(world / "run") if row["attack"] != "clean"])
    assert np.array_equal(found.images, last.numpy()) and found.manifest["iterate"] == "last"


def test_nothing_is_overwritten(world, capsys):
    before = (world / "out/adv.npz").read_bytes()
    assert "adv.npz is there already" in error_of(capsys, "export", world / "run", world / "out/adv.npz")
    assert (world / "out/adv.npz").read_bytes() == before
    assert "must be called ... .npz" in error_of(capsys, "export", world / "run", world / "out/adv.txt")
    assert [file.name for file in (world / "out").iterdir()] == ["adv.npz"]


def test_a_run_without_images_says_how_to_get_them(world, tmp_path, capsys):
    for file in (world / "run").glob("*.json*"):
        text = file.read_text()
        if file.suffix == ".jsonl" and file.name.startswith("records"):
            text = "".join(json.dumps(json.loads(line) | {"stored": None}) + "\n" for line in text.splitlines())
        (tmp_path / file.name).write_text(text)
    assert "--model.save_images true" in error_of(capsys, "export", tmp_path, tmp_path / "adv.npz")
    assert not (tmp_path / "adv.npz").exists()
    assert "no run in" in error_of(capsys, "export", tmp_path / "none", tmp_path / "adv.npz")


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def test_the_very_defence_says_again_what_it_said(world, capsys):
    assert main(["judge", str(world / "out/adv.npz"), *own(world)]) == 0
    text = capsys.readouterr().out
    table = cells(text)
    assert [row[:4] for row in table[1:]] == [
        ["Identity", "", "clean", ""], ["Identity", "Identity", "L2", "l2 0.5"],
        ["Identity", "Identity", "PGD", "linf 8/255"], ["Identity", "", "worst case", ""],
    ]  # fmt: skip
    assert all(row[4].split(" [")[0] == row[5] for row in table[2:4])
    assert "Made for the very defence that judges: Identity." in text and "transfer" not in text
    assert text.splitlines()[-1].startswith("12 images of ") and "next: lit-pursamere test --config" in text


def test_another_defence_is_told_that_images_transfer(world, capsys):
    assert main(["judge", str(world / "out/adv.npz"), *own(world, "other")]) == 0
    text = capsys.readouterr().out
    assert "transfer to this one" in text and "very defence" not in text
    found, right = read_exported(world / "out/adv.npz"), {}
    network = WideResNet(10, 1, channels=1).eval()
    from lit_pursamere.weights import load_weights

    load_weights(network, world / "other.safetensors")
    with torch.no_grad():
        right = network(torch.from_numpy(found.images)).argmax(1).numpy() == found.labels
    (row,) = [row for row in cells(text) if row[2] == "PGD"]
    assert float(row[4].split(" [")[0]) == pytest.approx(100 * right[found.attacks == "PGD"].mean(), abs=0.05)


def with_manifest(change):
    def changed(text):
        manifest = json.loads(str(text))
        change(manifest)
        return np.array(json.dumps(manifest))

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {k: v for k, v in c.items() if k != "which"}, "lacks which"),
        (lambda c: {"a": c["which"]}, "no file of `lit-pursamere export`"),
        (lambda c: c | {"images": c["images"] + np.float32(0.3)}, "images leave [0, 1]"),
        (lambda c: c | {"images": np.full_like(c["images"], np.nan)}, "images leave [0, 1]"),
        (lambda c: c | {"images": c["images"][:, :, :4]}, "clean is"),
        (lambda c: c | {"images": c["images"].astype(">c8").reshape(12, 1, 8, 8)}, "images is"),
        (lambda c: c | {"clean": c["clean"][:0]}, "clean is"),
        (lambda c: c | {"labels": c["labels"].astype(float)}, "labels is float64"),
        (lambda c: c | {"labels": c["labels"] - 100}, "labels must lie in 0"),
        (lambda c: c | {"labels": c["labels"] + 10}, "and the configuration has 10 classes"),
        (lambda c: c | {"which": c["which"] + 1}, "which must lie in 0 to 5"),
        (lambda c: c | {"positions": c["positions"] * 0}, "is there twice"),
        (lambda c: c | {"accuracy": c["accuracy"] + 2}, "accuracy leaves [0, 1]"),
        (lambda c: c | {"attacks": np.array(["\x1b[2J"] * 12)}, r"does not describe the attack \x1b[2J"),
        (lambda c: c | {"systems": np.array([None] * 12)}, "pickled|object"),
        (lambda c: c | {"manifest": np.array("[" * 100_000)}, "its manifest is damaged"),
        (lambda c: c | {"manifest": np.array("{}")}, "its manifest is damaged (its format"),
        (lambda c: c | {"manifest": with_manifest(lambda m: m.pop("data"))(c["manifest"])}, "does not state data"),
        (lambda c: c | {"manifest": with_manifest(lambda m: m.update(weights="x"))(c["manifest"])}, "told by system"),
        (lambda c: c | {"manifest": with_manifest(lambda m: m["attacks"]["PGD"].update(threat=None))(c["manifest"])},
         "the attack PGD states no threat model"),
        (lambda c: c | {"manifest": with_manifest(lambda m: m["attacks"]["PGD"]["threat"].update(norm="l9"))(
            c["manifest"])}, "norm must be"),
        (lambda c: c | {"manifest": with_manifest(lambda m: m["attacks"]["PGD"]["threat"].update(eps=4 / 255))(
            c["manifest"])}, "6 of 6 images of PGD are further from the clean ones than the linf 4/255"),
    ],
)  # fmt: skip
def test_a_strangers_file_is_told_in_a_line(change, message, content, world, tmp_path, capsys):
    np.savez(tmp_path / "adv.npz", **change(content))
    error = error_of(capsys, "judge", tmp_path / "adv.npz", *own(world))
    assert any(part in error for part in message.split("|")), error


def test_a_file_that_is_cut_short_or_packed_with_more(world, tmp_path, capsys):
    whole, bad = (world / "out/adv.npz").read_bytes(), tmp_path / "bad.npz"
    bad.write_bytes(whole[: len(whole) // 2])
    assert "is not a whole .npz file" in error_of(capsys, "judge", bad, *own(world))
    assert "there is no file" in error_of(capsys, "judge", tmp_path / "none.npz", *own(world))
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + header((10**9, 3, 32, 32)))
    assert "bytes, which are not there" in error_of(capsys, "judge", bad, *own(world))


def header(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return len(text).to_bytes(2, "little") + text.encode()


def test_images_of_another_size_are_refused(world, content, tmp_path, capsys):
    large = {name: np.repeat(np.repeat(content[name], 2, 2), 2, 3) for name in ("images", "clean")}
    np.savez(tmp_path / "adv.npz", **content | large)
    assert "(1, 16, 16), and the configuration is for (1, 8, 8)" in error_of(
        capsys, "judge", tmp_path / "adv.npz", *own(world)
    )


def test_a_written_file_is_read_as_it_was(world, tmp_path):
    found = read_exported(world / "out/adv.npz")
    write_exported(found, tmp_path / "again.npz")
    again = read_exported(tmp_path / "again.npz")
    assert again.manifest == found.manifest and np.array_equal(again.images, found.images)


def test_an_experiment_ends_with_the_result_of_its_last_test(world):
    stages = [["fit", "--config=x"], ["test", *own(world), f"--model.output={world}/run"]]
    line = last_line(Path("both.yaml"), stages)
    assert line.startswith(f"all 2 stages of both.yaml are done, results in {world}/run; Identity, worst case ")
    assert line.endswith(f" % of 6 images; next: lit-pursamere report {world}/run")
    assert last_line(Path("one.yaml"), [["weights", "list"]]) == (
        "all 1 stages of one.yaml are done; next: lit-pursamere weights list"
    )
