"""The CIFAR-10 path on real CIFAR-10 images with tiny networks: fit, predict, fit on pairs, test."""

import os
from pathlib import Path

import numpy as np
import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.data import PurifiedSet
from lit_pursamere.store import read_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(repository_root, tmp_path_factory) -> Path:
    """48 training and 6 test images with their original pixels."""
    source = Path(os.environ.get("LIT_PURSAMERE_DATA", repository_root / "../shared/data")) / "cifar10_lossless.npz"
    if not source.is_file():
        pytest.skip("no CIFAR-10 images; set LIT_PURSAMERE_DATA to the folder of cifar10_lossless.npz")
    with np.load(source) as content:
        train, test = (np.flatnonzero(content["split"] == split) for split in ("train", "test"))
        chosen = np.sort(np.concatenate([test[:6], train[:48]]))
        small = {name: content[name][chosen] for name in ("images", "labels", "split")}
    path = tmp_path_factory.mktemp("cifar10") / "small.npz"
    np.savez(path, **small)
    return path


def test_from_pictures_to_table(images, repository_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    configs = repository_root / "configs/cifar10"
    common = [
        "--data=lit_pursamere.data.NPZ", f"--data.path={images}", "--data.batch_size=16", "--data.eval_batch_size=16",
        "--data.val_size=4", "--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.devices=1",
        "--trainer.enable_progress_bar=false", "--trainer.default_root_dir=.",
    ]  # fmt: skip
    score = ["--model.score_model.ngf=4", "--model.score_model.checkpoint=score.safetensors",
             "--model.purifier.sigmas.stride=60", "--model.purifier.draws=2"]  # fmt: skip
    network = [f"--model.classifier.{name}" for name in ("depth=10", "width=1")]
    judge = [f"--model.classifier.network.{name}" for name in ("depth=10", "width=1")]

    def run(*args):
        assert main([*args[:2], *common, *args[2:]]) == 0, capsys.readouterr().err

    run("fit", f"--config={configs}/score.yaml", "--model.score_model.ngf=4", "--model.export=score.safetensors",
        "--trainer.max_steps=3", "--trainer.logger=false", "--trainer.callbacks=null")  # fmt: skip
    run("predict", f"--config={configs}/purify.yaml", *score, "--model.output=purified", "--data.val_size=0",
        "--data.evaluate=train")  # fmt: skip
    moved = PurifiedSet.open("purified").take(range(48))
    assert moved.min() >= 0 and moved.max() <= 1
    run("fit", f"--config={configs}/classifier.yaml", *network, "--data.purified=purified", "--trainer.max_epochs=2",
        "--model.export=net.safetensors", "--trainer.logger.save_dir=logs", "--data.crop=4",
        "--data.flip=true")  # fmt: skip
    run("test", f"--config={configs}/tables_1_2.yaml", *score, *judge, "--model.classifier.checkpoint=net.safetensors",
        "--model.output=out", "--model.attacks.gPGD20.steps=2", "--model.attacks.BPDA20-det.steps=2")  # fmt: skip
    rows = read_rows("out")
    assert len(rows) == 2 * 3 * 6
    assert max(row["linf"] for row in rows) == pytest.approx(4 / 255, abs=1e-5), "two steps of 2/255"
    for logs in ("logs", "out/logs"):
        assert list(Path(logs).rglob("events.out.tfevents.*")), "TensorBoard files are written"
