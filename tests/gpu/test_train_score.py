"""A training that ends with its time, loses at most what came after the last export, and goes on from there."""

import json
import os
import signal

import pytest
import torch
from safetensors import safe_open

from lit_pursamere.diffusion import EDMScore
from lit_pursamere.weights import inspect_weights


@pytest.fixture
def module(script):
    return script("train_score")


@pytest.fixture
def train(module, tmp_path):
    """Run the script at toy size, without compiling; returns its report."""

    def run(*arguments, out="out"):
        before = signal.getsignal(signal.SIGTERM)
        try:
            return module.main(["--toy", "--no-compile", f"--out={tmp_path / out}", *arguments])
        finally:
            signal.signal(signal.SIGTERM, before)

    return run


def prepared(module, *arguments):
    options = module.parse(["--toy", "--no-compile", *arguments])
    run = module.Run(module.Session("train_score", options), options)
    run.prepare()
    return run


def stored(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)


def test_the_exported_model_loads_and_denoises_as_reported(train, module, tmp_path):
    report = train()
    assert report["faults"] == {} and report["left_out"] == []
    assert report["training"]["steps"] == 12 and report["training"]["images"] == 96
    card = inspect_weights(tmp_path / "out/score.safetensors").metadata
    assert card["images"] == "96" and card["weights"] == "ema" and float(card["psnr_25"]) > 10
    run = prepared(module, f"--out={tmp_path / 'other'}")
    network = json.loads(card["network"])
    run.averaged = EDMScore(**network, checkpoint=str(tmp_path / "out/score.safetensors"))
    assert run.psnr() == pytest.approx(report["psnr"][-1]["psnr"], abs=0.05), "float16 costs nothing that shows"
    for name in ("score.safetensors", "state.safetensors"):
        assert {tensor.dtype for tensor in stored(tmp_path / "out" / name).values()} == {torch.float16}
    assert all((tmp_path / "out" / name).stat().st_size > 1000 for name in ("samples.png", "denoised.png"))
    assert json.loads((tmp_path / "out/train_score.json").read_text())["results"]["finish"]["images"] == 96


def test_it_learns(train):
    rows = train("--steps=25", "--batch=16", "--every=0")["psnr"]
    assert [row["steps"] for row in rows] == [10, 20, 25, 25], "an evaluation at every look, and at the end"
    assert rows[-1]["psnr"][25] > rows[0]["psnr"][25] + 0.15


def test_a_resumed_run_starts_from_both_sets_of_weights_and_counts_on(train, module, tmp_path):
    train()
    state = tmp_path / "out/state.safetensors"
    run = prepared(module, f"--out={tmp_path / 'unused'}", f"--resume={state}")
    for name, model in {"state": run.task.score_model, "score": run.averaged}.items():
        written = stored(tmp_path / f"out/{name}.safetensors")
        assert all(torch.equal(tensor, written[key].float()) for key, tensor in model.state_dict().items())
    raw, averaged = (stored(tmp_path / f"out/{name}.safetensors") for name in ("state", "score"))
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)
    fresh = prepared(module, f"--out={tmp_path / 'unused'}")
    assert not torch.equal(next(run.batches), next(fresh.batches)), "not the same images in the same order"
    report = train(f"--resume={state}", out="second")
    assert report["training"]["images"] == 192 and report["training"]["steps"] == 24
    assert inspect_weights(tmp_path / "second/state.safetensors").metadata["images"] == "192"


def test_a_state_that_is_none_is_refused(train, tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"no weights")
    report = train(f"--resume={path}")
    assert "state.safetensors" in report["faults"]["prepare"] and report["results"] == {}


def test_a_loss_that_is_no_number_ends_it_and_the_last_export_stays(train, module, tmp_path, monkeypatch):
    loss, steps = module.LitScoreModel.loss, []

    def breaking(self, x, sigma, noise):
        steps.append(len(x))
        return loss(self, x, sigma, noise) * (1.0 if len(steps) <= 15 else float("nan"))

    monkeypatch.setattr(module.LitScoreModel, "loss", breaking)
    report = train("--steps=1000", "--every=0")
    assert report["faults"]["train"].startswith("FloatingPointError: the loss is nan at step 20")
    assert "is not finite; the last export is kept" in report["faults"]["finish"]
    assert [row["steps"] for row in report["psnr"]] == [10]
    for name in ("score", "state"):
        assert inspect_weights(tmp_path / f"out/{name}.safetensors").metadata["steps"] == "10"
    assert json.loads((tmp_path / "out/train_score.json").read_text())["psnr"][0]["steps"] == 10


def test_a_termination_costs_what_came_after_the_last_export(train, module, tmp_path, monkeypatch):
    draw, steps = module.LitScoreModel.draw, []

    def killing(self, x):
        steps.append(len(x))
        if len(steps) == 15:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, x)

    monkeypatch.setattr(module.LitScoreModel, "draw", killing)
    report = train("--steps=1000", "--every=0")
    assert report["faults"]["train"].startswith("broken off") and report["left_out"] == ["finish"]
    assert inspect_weights(tmp_path / "out/state.safetensors").metadata["steps"] == "10"
    assert report["training"]["steps"] == 10, "what is known of it is kept too"


@pytest.mark.slow
def test_it_ends_with_its_time(train, tmp_path):
    report = train("--steps=1000000", "--minutes=0.2")
    assert report["faults"] == {} and report["left_out"] == []
    assert 1 < report["training"]["steps"] < 1000000 and (tmp_path / "out/score.safetensors").is_file()


def test_the_learning_rate_rises_and_falls_to_nothing_with_the_time(module, tmp_path):
    run = prepared(module, f"--out={tmp_path}", "--steps=1000000", "--warmup=1", "--lr=0.5")
    now = run.began
    run.clock, run.until = lambda: now, run.began + 100
    rates = []
    for now in (run.began, run.began + 0.001, run.began + 50, run.began + 100, run.began + 105):  # noqa: B007
        run.step()
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.25, 0.5, 0.25, 0.0, 0.0], abs=1e-4)


def test_a_compilation_that_fails_is_noted_and_the_training_goes_on(module, tmp_path, monkeypatch):
    def broken(*unused, **options):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    before = signal.getsignal(signal.SIGTERM)
    report = module.main(["--toy", f"--out={tmp_path}"])
    signal.signal(signal.SIGTERM, before)
    assert report["faults"]["compile"].startswith("RuntimeError: no compiler here (")
    assert report["training"]["steps"] == 12 and report["training"]["compiled"] is False


@pytest.mark.slow
def test_compiled_it_takes_the_same_steps(module, train, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    report = module.main(["--toy", f"--out={tmp_path / 'compiled'}"])
    signal.signal(signal.SIGTERM, before)
    assert report["faults"] == {} and report["training"]["compiled"] is True
    assert report["psnr"][-1]["psnr"] == pytest.approx(train()["psnr"][-1]["psnr"], abs=0.2)


def test_batches_hold_every_image_once_an_epoch_and_half_of_them_mirrored(module):
    images = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1).repeat(1, 3, 4, 4)
    images[:, :, :, 0] = 255
    batches = module.shuffled(images, 50, seed=1)
    x = torch.cat([next(batches) for _ in range(4)])
    plain = x[:, 0, 0, 0] == 1
    seen = torch.where(plain, x[:, 0, 0, 3], x[:, 0, 0, 0]).mul(255).round().int()
    assert sorted(seen.tolist()) == list(range(200)) and seen.tolist() != list(range(200))
    assert 70 < plain.sum() < 130 and torch.all(x[~plain][:, :, :, 3] == 1)
    second = torch.cat([next(batches) for _ in range(4)])
    assert not torch.equal(x, second) and second.is_contiguous(memory_format=torch.channels_last)


def test_the_networks_are_those_that_the_help_names_and_their_files_can_come_back(module):
    counts = {
        name: sum(weight.numel() for weight in EDMScore(**network).parameters())
        for name, (network, _) in module.NETWORKS.items()
    }
    assert counts["small"] == 1_227_011 and counts["large"] == 4_889_091
    assert max(counts.values()) <= 5e6 and 2 * max(counts.values()) < 16 * 2**20
