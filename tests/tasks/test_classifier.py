"""Equation 17: pairs count both halves equally; without pairs the loss is plain cross-entropy. And the recipe: learning
rates, average, validation under attack, checkpoints; a resumed run is an uninterrupted one."""

import json
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from lit_pursamere.attacks import PGD
from lit_pursamere.data import ArrayDataset, ImageDataModule
from lit_pursamere.data.resident import ResidentLoader
from lit_pursamere.networks import WideResNet
from lit_pursamere.progress import Progress
from lit_pursamere.tasks import LitClassifier, callbacks, training
from lit_pursamere.threat import ThreatModel
from lit_pursamere.weights import load_weights, save_weights


class Pairs(ImageDataModule):
    """22 random images, 2 of them for validation, and their negatives as twins."""

    name, num_classes, channels, image_size, class_names = "pairs", 2, 1, 8, tuple("ab")

    def load(self, split):
        return ArrayDataset(torch.rand((22, 1, 8, 8), generator=torch.Generator().manual_seed(0)), torch.arange(22) % 2)

    def train_dataloader(self):
        source, chosen = self.sources["train"], torch.tensor(self.indices("train"))
        versions = [source.images[chosen], 1 - source.images[chosen]]
        return ResidentLoader(versions, source.labels[chosen], chosen, self.batch_size, crop=1, flip=True)


def network(**options):
    torch.manual_seed(0)
    return WideResNet(10, 1, 2, channels=1, **options)


def trainer(folder, **options):
    return pl.Trainer(**{
        "accelerator": "cpu", "max_epochs": 1, "default_root_dir": folder, "logger": False, "inference_mode": False,
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, **options,
    })  # fmt: skip


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


def rates(task, epochs):
    settings = task.configure_optimizers()
    group, found = settings["optimizer"].param_groups[0], []
    for _ in range(epochs):
        found.append(group["lr"])
        settings["optimizer"].step()
        settings["lr_scheduler"].step()
    return found


def test_recipe_of_the_paper():
    task = LitClassifier(network())
    group = task.configure_optimizers()["optimizer"].param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.1, 0.9, 5e-4, False)
    found = rates(task, 200)
    assert [epoch for epoch in range(1, 200) if found[epoch] < found[epoch - 1]] == [60, 120, 160]
    assert found[-1] == pytest.approx(0.1 * 0.2**3)


def test_cosine_with_warm_up_and_the_linear_rule():
    task = LitClassifier(network(), lr=0.1, schedule="cosine", warmup=2, lr_reference_batch=128)
    settings = {"max_epochs": 10, "world_size": 4, "accumulate_grad_batches": 2, "barebones": False}
    data = Pairs(batch_size=16)
    data.setup("fit")
    task._trainer = type("Trainer", (), {**settings, "datamodule": data})()
    found = rates(task, 11)
    highest = 0.1 * 2 * 16 / 128  # however many processes share a batch
    assert found[:3] == pytest.approx([highest / 3, highest * 2 / 3, highest])
    assert found[6] == pytest.approx(highest / 2) and found[10] == pytest.approx(0)
    task._trainer.max_epochs = -1
    with pytest.raises(ValueError, match=r"trainer\.max_epochs; it is -1"):
        task.lr_factor(5)


@pytest.mark.parametrize(("batch_size", "batch"), [(4, 4), (999999, 20)], ids=["as asked", "all that there are"])
def test_the_effective_batch_is_stated(batch_size, batch, tmp_path, caplog):
    with caplog.at_level("INFO"):
        data = Pairs(batch_size=batch_size, val_size=2)
        trainer(tmp_path, accumulate_grad_batches=3).fit(LitClassifier(network()), data)
    assert f"processes 1 x accumulated batches 3 x images {batch} = {3 * batch} images" in caplog.text


@pytest.mark.parametrize("bar", [True, False])
def test_without_a_terminal_plain_lines_say_how_far_it_is(tmp_path, monkeypatch, capsys, bar):
    monkeypatch.setattr(callbacks, "Progress", partial(Progress, every=0))
    fit = trainer(tmp_path, enable_progress_bar=bar, max_epochs=2)
    fit.fit(LitClassifier(network()), Pairs(batch_size=10))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fit:")]
    assert [line.split(",")[0] for line in lines] == [f"fit: {k} of 4 steps" for k in range(5)] * bar
    assert all(", 00:0" in line and " left, epoch " in line for line in lines[1:-1])


def test_average_of_weights_and_statistics_is_exported(tmp_path):
    start = {name: value.clone() for name, value in network().state_dict().items()}
    finals = {}
    for decay in (None, 0.5):
        file = tmp_path / f"{decay}.safetensors"
        task = LitClassifier(network(), ema_decay=decay, export=str(file))
        trainer(tmp_path, max_steps=1, max_epochs=-1).fit(task, Pairs(batch_size=4, val_size=2))
        finals[decay] = load_file(file)
    for name in ("conv1.weight", "bn1.running_var"):
        mean = (start[name] + finals[None][name]) / 2
        torch.testing.assert_close(finals[0.5][name], mean)
        assert not torch.equal(mean, start[name])


def test_purified_validation_images_are_attacked(tmp_path):
    net, seen = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), []  # is the image brighter than half?
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 64))
        net[1].bias.copy_(torch.tensor([32.0, -32.0]))

    class Spy(PGD):
        def init(self, x, y):
            seen.append(x.clone())
            return super().init(x, y)

    x = torch.rand(6, 2, 1, 8, 8)
    y = (x[:, 1].mean((1, 2, 3)) > 0.5).long()
    loader = DataLoader(list(zip(x, y, range(6), strict=True)), 4)
    task = LitClassifier(net, attack=Spy(ThreatModel("linf", 1.0), "gray", steps=3), attacked_images=5)
    metrics = trainer(tmp_path).validate(task, loader, verbose=False)[0]
    assert torch.equal(torch.cat(seen), x[:5, 1])
    assert metrics["val/accuracy_purified"] == 1 and metrics["val/accuracy_attacked"] == 0
    with pytest.raises(RuntimeError, match="inference_mode=False"):
        trainer(tmp_path, inference_mode=True).validate(task, loader, verbose=False)


def test_layout_precision_and_synchronised_statistics_are_accepted(tmp_path):
    """One step in channels-last bfloat16 with SyncBatchNorm asked for; the file holds plain float32 weights."""
    file = tmp_path / "net.safetensors"
    task = LitClassifier(network(), channels_last=True, export=str(file))
    settings = {"precision": "bf16-mixed", "sync_batchnorm": True}
    trainer(tmp_path, max_steps=1, max_epochs=-1, **settings).fit(task, Pairs(batch_size=4, val_size=2))
    plain = network()
    assert {name: value.dtype for name, value in load_file(file).items()} == {
        name: value.dtype for name, value in plain.state_dict().items()
    }
    load_weights(plain, file)
    images = torch.rand(2, 1, 8, 8)
    synchronised = TorchSyncBatchNorm().apply(plain).eval()  # what Lightning does on several GPUs
    torch.testing.assert_close(synchronised(images), task.eval()(images))
    assert synchronised.state_dict().keys() == network().state_dict().keys()


@pytest.mark.parametrize("part", ["average", "attack"])
@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_in_which_a_part_would_be_lost_is_refused_before_the_first_step(part, precision, tmp_path):
    attack = PGD(ThreatModel("linf", 0.1), "gray", steps=1)
    task = LitClassifier(network(), ema_decay=0.9) if part == "average" else LitClassifier(network(), attack=attack)
    lost = "weights, so that a moving average of them" if part == "average" else "pixels, and with them the budgets"
    fit = trainer(tmp_path, precision=precision, num_sanity_val_steps=0)
    with pytest.raises(ValueError, match=f"precision {precision} rounds {lost}.*take one of 32-true.*bf16-mixed"):
        fit.fit(task, Pairs(batch_size=4, val_size=2))
    assert fit.global_step == 0


def test_compiles_the_network_in_place(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    task = LitClassifier(network(), compile=True)
    trainer(tmp_path, fast_dev_run=1).fit(task, Pairs(batch_size=4, val_size=2))
    assert compiled == [task.classifier]


def test_best_and_last_checkpoint_are_weight_files(tmp_path):
    callbacks = [
        pl.callbacks.ModelCheckpoint(tmp_path, "last", enable_version_counter=False),
        pl.callbacks.ModelCheckpoint(tmp_path, "best", monitor="val/accuracy_clean", mode="max"),
    ]
    task = LitClassifier(network(), ema_decay=0.9)
    options = {"max_epochs": 2, "enable_checkpointing": True, "callbacks": callbacks}
    trainer(tmp_path, **options).fit(task, Pairs(batch_size=4, val_size=2))
    again = network()
    load_weights(again, tmp_path / "last.ckpt")
    for mine, theirs in zip(again.parameters(), task.classifier.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    load_weights(again, tmp_path / "best.ckpt")


def test_files_say_how_pixels_are_normalised(tmp_path):
    net = WideResNet(10, 1, channels=1, mean=[0.3], std=[0.05])
    callback = pl.callbacks.ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    task = LitClassifier(net, export=str(tmp_path / "net.safetensors"))
    options = {"max_steps": 1, "max_epochs": -1, "enable_checkpointing": True, "callbacks": [callback]}
    trainer(tmp_path, **options).fit(task, Pairs(batch_size=4, val_size=2))
    for file in ("net.safetensors", "last.ckpt"):
        load_weights(net, tmp_path / file)
        with pytest.raises(ValueError, match=r"was made for mean \[0\.3\], std \[0\.05\]"):
            load_weights(WideResNet(10, 1, channels=1), tmp_path / file)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_resumed_after_its_last_step_a_run_still_exports_the_average(tmp_path):
    exported = []
    for resume in (None, tmp_path / "last.ckpt"):
        file = tmp_path / f"{len(exported)}.safetensors"
        last = pl.callbacks.ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
        options = {"enable_checkpointing": True, "callbacks": [last]}
        task = LitClassifier(network(), ema_decay=0.9, export=str(file))
        trainer(tmp_path, **options).fit(task, Pairs(batch_size=4, val_size=2), ckpt_path=resume)
        exported.append(load_file(file))
    for name, value in exported[0].items():
        assert torch.equal(value, exported[1][name]), name


def test_the_card_says_how_large_the_batch_was(tmp_path):
    file = tmp_path / "net.safetensors"
    task = LitClassifier(network(), ema_decay=0.9, export=str(file))
    trainer(tmp_path, accumulate_grad_batches=2).fit(task, Pairs(batch_size=4, val_size=2))
    with safe_open(file, "pt") as content:
        card = content.metadata()
    assert (card["effective_batch"], card["batch_size"], card["ema_decay"]) == ("8", "4", "0.9")


def curve(every, schedule, resume=None):
    """Train three epochs of five steps on pairs with everything that has a state, keeping a checkpoint of each step."""
    pl.seed_everything(3)
    task = LitClassifier(
        network(dropout=0.3), schedule=schedule, milestones=[1, 2], warmup=1, ema_decay=0.9, nesterov=True
    )
    options = {"max_epochs": 3, "enable_checkpointing": True, "callbacks": [every]}
    trainer(every.dirpath, **options).fit(task, Pairs(batch_size=4, val_size=2), ckpt_path=resume)
    return every.losses, task


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("schedule", [pytest.param("milestones", marks=pytest.mark.slow), "cosine"])
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path, schedule, every_step):
    losses, whole = curve(every_step(tmp_path / "whole"), schedule)
    assert sorted(losses) == list(range(15)) and len(set(losses.values())) == 15
    # In an epoch, at its end, and from a checkpoint of the run that was itself resumed at an end.
    for source, step in (("whole", 3), ("whole", 5), ("from5", 8)):
        again, resumed = curve(every_step(tmp_path / f"from{step}"), schedule, tmp_path / f"{source}/step={step}.ckpt")
        assert again == {k: v for k, v in losses.items() if k >= step}
        for mine, theirs in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)


class Rates(LitClassifier):
    """Remembers learning rate and weight decay of every step."""

    seen_rates = ()

    def training_step(self, batch, batch_idx):
        (group,) = self.optimizers().param_groups
        self.seen_rates = (*self.seen_rates, (group["lr"], group["weight_decay"]))
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_other_settings_hold_from_the_first_step_on_after_a_checkpoint(tmp_path):
    """The end of one cosine is not the learning rate at which another one goes on."""
    last = pl.callbacks.ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    for epochs, settings in ((2, {}), (6, {"lr": 0.2, "weight_decay": 0.0})):
        task = Rates(network(), schedule="cosine", **settings)
        options = {"enable_checkpointing": True, "callbacks": [last], "max_epochs": epochs}
        resume = tmp_path / "last.ckpt" if settings else None
        trainer(tmp_path, **options).fit(task, Pairs(batch_size=20, val_size=2), ckpt_path=resume)
    expected = [(0.2 * training.cosine(epoch, 0, 6), 0.0) for epoch in range(2, 6)]
    assert list(task.seen_rates) == [pytest.approx(pair) for pair in expected]


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:The dirpath has changed")
@pytest.mark.parametrize(
    "until", [{"max_epochs": 3}, pytest.param({"max_steps": 9, "max_epochs": -1}, marks=pytest.mark.slow)]
)
def test_the_card_tells_the_whole_run_after_it_was_continued(until, tmp_path):
    """In the middle of an epoch of three steps, before and after its validation: as in one go. What changed is told."""

    def result(resume=None, folder="again", **settings):
        pl.seed_everything(3)
        callbacks = [
            pl.callbacks.ModelCheckpoint(tmp_path / folder, "last", enable_version_counter=False),
            pl.callbacks.ModelCheckpoint(tmp_path / folder, "{step}", every_n_train_steps=1, save_top_k=-1),
        ]
        task = LitClassifier(network(), ema_decay=0.9, export=str(tmp_path / "net.safetensors"), **settings)
        options = {**until, "enable_checkpointing": True, "callbacks": callbacks}
        trainer(tmp_path, **options).fit(task, Pairs(batch_size=6, val_size=2), ckpt_path=resume)
        with safe_open(tmp_path / "net.safetensors", "pt") as content:
            return content.metadata(), (tmp_path / "net.safetensors").read_bytes()

    card, content = result(folder="whole")
    assert {"train/accuracy", "train/loss", "val/accuracy_clean"} <= card.keys() and card["steps"] == "9"
    for name in ("step=5", "step=6", "step=9", "last"):
        assert result(tmp_path / f"whole/{name}.ckpt") == (card, content), name
    if until == {"max_epochs": 3}:
        other, _ = result(tmp_path / "whole/step=5.ckpt", lr=0.2)
        assert json.loads(other["begun"]) == [{"steps": "5", "lr": "0.1"}] and other["lr"] == "0.2"


@pytest.mark.parametrize(("rank", "sums"), [(0, (3.0, 4.0)), (1, (0.0, 0.0))])
def test_one_of_several_processes_goes_on_with_the_accuracy_of_all(rank, sums, tmp_path, monkeypatch):
    monkeypatch.setattr(LitClassifier, "global_rank", rank)
    task = LitClassifier(network())
    task.trainer = trainer(tmp_path)
    begun = {"fit_loop": {"epoch_loop.val_loop.batch_progress": {"total": {}}}}
    there = {"mean_value": torch.tensor(3.0), "weight": torch.tensor(4.0)}
    task.on_load_checkpoint({"loops": begun, "train_accuracy": there})
    assert (float(task.seen.mean_value), float(task.seen.weight)) == sums


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_in_double_precision_too_nothing_is_lost_on_the_way(tmp_path):
    found = []
    for resume in (None, tmp_path / "last.ckpt"):
        last = pl.callbacks.ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
        task = LitClassifier(network(), ema_decay=0.9, export=str(tmp_path / "net.safetensors"))
        options = {"enable_checkpointing": True, "callbacks": [last], "precision": "64-true"}
        trainer(tmp_path, **options).fit(task, Pairs(batch_size=4, val_size=2), ckpt_path=resume)
        found.append((tmp_path / "net.safetensors").read_bytes())
    assert found[0] == found[1]


def test_weights_that_are_no_numbers_are_not_exported(tmp_path):
    class Late(LitClassifier):
        def on_train_end(self):
            self.classifier.fc.weight.data[0, 0] = torch.nan

    file = tmp_path / "net.safetensors"
    with pytest.raises(ValueError, match=r"not written: the training diverged, fc\.weight is NaN"):
        trainer(tmp_path).fit(Late(network(), export=str(file)), Pairs(batch_size=4, val_size=2))
    assert not file.exists()


def test_an_export_does_not_replace_what_another_run_wrote_meanwhile(tmp_path):
    file = tmp_path / "net.safetensors"

    class Beside(LitClassifier):
        def on_train_end(self):
            save_weights(network(), file, {"configuration": json.dumps({"lr": 0.3})})

    task = Beside(network(), export=str(file))
    task.configuration = {"lr": 0.1}
    with pytest.raises(ValueError, match=r"another run wrote it in the meantime \(.*lr: there 0\.3, now 0\.1"):
        trainer(tmp_path).fit(task, Pairs(batch_size=4, val_size=2))
    load_weights(network(), file)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": -1}, "lr > 0"),
        ({"warmup": -1}, "warmup >= 0"),
        ({"lr_reference_batch": 0}, "lr_reference_batch >= 1"),
        ({"schedule": "linear"}, "'milestones' or 'cosine'; got 'linear'"),
        ({"milestones": [0, 1]}, r"milestones must be numbers of epochs from 1 up; got \[0, 1\]"),
        ({"milestones": [-1]}, r"milestones must be numbers of epochs from 1 up; got \[-1\]"),
        ({"ema_decay": 1.0}, "ema_decay in"),
        ({"attack": PGD(ThreatModel("linf", 0.1), "bpda")}, "'gray'; got 'bpda'"),
        ({"attack": PGD(view="gray")}, "give it as `model.attack.threat`"),
        ({"export": "net.txt"}, "must be named OUT.safetensors; got net.txt"),
        ({"export": "runs/net"}, "must be named OUT.safetensors; got runs/net"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        LitClassifier(network(), **wrong)
