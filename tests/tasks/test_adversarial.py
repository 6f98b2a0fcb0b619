"""Mixtures of clean, purified and attacked images: their loss in closed form, what the attack leaves alone, whose
randomness it is. Equation 17 is one of them; a resumed adversarial training is an uninterrupted one."""

import json

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from torch.utils.data import DataLoader

from lit_pursamere.attacks import MIM, PGD, RandomSearch
from lit_pursamere.data import ArrayDataset, ImageDataModule
from lit_pursamere.diffusion import FFDNetScore
from lit_pursamere.networks import WideResNet
from lit_pursamere.purifiers import Identity, Purifier, PurSAMERE
from lit_pursamere.tasks import LitClassifier
from lit_pursamere.tasks.adversarial import Mixture, mean_cross_entropy
from lit_pursamere.threat import ThreatModel

LINF = ThreatModel("linf", 0.1)
GRAY = PGD(LINF, "gray", steps=3, start="ball")
X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y, INDEX = torch.arange(6) % 2, torch.arange(10, 16)
COMMON = {"accelerator": "cpu", "logger": False, "inference_mode": False, "enable_progress_bar": False}
COMMON |= {"enable_model_summary": False, "enable_checkpointing": False}


class Noisy(Purifier):
    """Less contrast, and fresh noise."""

    def purify(self, x, noise):
        return 0.9 * x + 0.05 + 0.02 * noise.draw("forward", 0, 1, x)[0]


class Images(ImageDataModule):
    """22 random images, 2 of them for validation."""

    name, num_classes, channels, image_size, class_names = "images", 2, 1, 8, tuple("ab")

    def load(self, split):
        return ArrayDataset(torch.rand((22, 1, 8, 8), generator=torch.Generator().manual_seed(0)), torch.arange(22) % 2)


def network(**options):
    torch.manual_seed(0)
    return WideResNet(10, 1, 2, channels=1, **options)


def pursamere():
    torch.manual_seed(0)
    return PurSAMERE(FFDNetScore(channels=1, width=4, depth=3), rho_pur=0.5, rho_sam=0, draws=1, sigmas=[0.2, 0.1])


def made(net, *, index=INDEX, epoch=0, x=X, **options):
    return Mixture(**options).images(net, x, Y[: len(x)], index, epoch)


# --- the loss


@pytest.mark.parametrize("told", [None, {"clean": 0.5, "purified": 0.5}])
@pytest.mark.parametrize("source", ["pairs", "purifier"])
def test_equation_17_is_a_mixture_with_the_numbers_of_one_batch_of_pairs(told, source):
    """Bit for bit: loss, gradients and batch statistics of the cross-entropy of all halves, image after image."""
    purifier, expected = pursamere(), network()
    pairs = torch.stack([X, purifier(X)], 1)
    F.cross_entropy(expected(pairs.flatten(0, 1)), Y.repeat_interleave(2)).backward()
    task = LitClassifier(network(), parts=told, purifier=purifier if source == "purifier" else None)
    task.log = lambda *args, **kwargs: None
    task.training_step((pairs if source == "pairs" else X, Y, INDEX), 0).backward()
    for mine, theirs in zip(task.classifier.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    for mine, theirs in zip(task.classifier.buffers(), expected.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_parts_of_a_linear_classifier_in_closed_form():
    """Two classes: an attack in linf takes eps |w|_1 from the margin; the purifier halves all pixels."""

    class Half(Purifier):
        def purify(self, x, noise):
            return x / 2

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    x = 0.3 + 0.4 * X.double()
    w, b = net[1].weight[1] - net[1].weight[0], net[1].bias[1] - net[1].bias[0]
    sign = 2.0 * Y - 1
    eps, pixels = 0.1, x.flatten(1)
    losses = {
        "clean": F.softplus(-sign * (pixels @ w + b)),
        "purified": F.softplus(-sign * (pixels @ w / 2 + b)),
        "adversarial": F.softplus(-sign * (pixels @ w + b) + eps * w.abs().sum()),
        "purified_adversarial": F.softplus(-sign * (pixels @ w / 2 + b) + eps * w.abs().sum() / 2),
    }
    for parts in (
        {"clean": 0.25, "adversarial": 0.75},
        {"purified_adversarial": 0.6, "purified": 0.1, "clean": 0.3},
        {"adversarial": 1.0},
        {"clean": 0.1, "purified": 0.2, "adversarial": 0.3, "purified_adversarial": 0.4},
    ):
        task = LitClassifier(net, parts=parts, purifier=Half(), adversary=PGD(LINF, "exact", steps=2))
        task.log = lambda *args, **kwargs: None
        loss = task.training_step((x, Y, INDEX), 0)
        expected = sum(weight * losses[name].mean() for name, weight in parts.items())
        torch.testing.assert_close(loss, expected)
        mine, theirs = (torch.autograd.grad(one, net.parameters(), retain_graph=True) for one in (loss, expected))
        torch.testing.assert_close(mine, theirs)


def test_weights_of_parts_may_differ():
    logits, y = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2])
    each = F.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(mean_cross_entropy(logits, y, [0.2, 0.8]), (0.2 * each[::2] + 0.8 * each[1::2]).mean())
    torch.testing.assert_close(mean_cross_entropy(logits, y, [0.5, 0.5]), each.mean())


@pytest.mark.parametrize(
    ("options", "pairs", "weights"),
    [
        ({}, False, {"clean": 1.0}),
        ({}, True, {"clean": 0.5, "purified": 0.5}),
        ({"purifier": Noisy()}, False, {"clean": 0.5, "purified": 0.5}),
        ({"adversary": GRAY}, True, {"adversarial": 1.0}),
        ({"adversary": GRAY, "purifier": Noisy()}, False, {"purified_adversarial": 1.0}),
    ],
)
def test_what_is_meant_if_no_parts_are_told(options, pairs, weights):
    assert Mixture(**options).weights(pairs) == weights


# --- the attack


@pytest.mark.parametrize(
    ("view", "purifier"), [("gray", Identity()), ("bpda", None), ("first_order", None), ("exact", None)]
)
def test_attacked_images_lie_in_the_ball_and_raise_the_loss_of_the_frozen_classifier(view, purifier):
    net, before = network().eval(), purifier or pursamere()
    attack = PGD(LINF, view, steps=5, start="ball")
    images = made(net, adversary=attack, purifier=before, parts={"clean": 0.5, "adversarial": 0.5})
    assert torch.equal(images[:, 0], X) and images.min() >= 0 and images.max() <= 1
    distance = LINF.distance(images[:, 1], X)
    assert (distance <= LINF.eps * (1 + 1e-5)).all() and (distance > 0.5 * LINF.eps).all()
    clean, attacked = (F.cross_entropy(net(before(half)), Y, reduction="none") for half in images.unbind(1))
    assert (attacked > clean).all()


@pytest.mark.parametrize("attack", [GRAY, PGD(LINF, "exact", steps=1), RandomSearch(LINF, "bpda", draws=2)])
def test_the_attack_leaves_classifier_and_purifier_as_they_were(attack):
    net, purifier = network(dropout=0.3), pursamere()
    net.train()
    net.fc.eval()  # a part that is in a mode of its own
    net.conv1.weight.requires_grad_(False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    images = made(net, adversary=attack, purifier=purifier)
    assert images.shape == (6, 1, 1, 8, 8) and not images.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in (*net.parameters(), *purifier.parameters()))
    assert [name for name, parameter in net.named_parameters() if not parameter.requires_grad] == ["conv1.weight"]
    assert {name for name, part in net.named_modules() if not part.training} == {"fc"}


def test_the_classifier_is_attacked_in_evaluation_mode():
    modes = []
    net = network(dropout=0.3).train()
    net.register_forward_hook(lambda module, inputs, output: modes.append(any(m.training for m in module.modules())))
    made(net, adversary=GRAY)
    assert modes == [False] * 3


@pytest.mark.parametrize(
    "attack", [GRAY, PGD(LINF, "exact", steps=2, start="ball"), MIM(LINF, "bpda", steps=2, start="ball")]
)
def test_randomness_belongs_to_epoch_and_image(attack):
    """Whatever stands beside an image, and wherever; another start in another epoch, another seed, another image."""
    net, options = network().double().eval(), {"adversary": attack, "purifier": Noisy()}
    x = X.double()
    one = made(net, x=x, **options)
    order = torch.tensor([4, 1])
    few = Mixture(**options).images(net, x[order], Y[order], INDEX[order], 0)
    torch.testing.assert_close(few, one[order], rtol=1e-10, atol=1e-12)
    torch.manual_seed(5)
    assert torch.equal(made(net, x=x, **options), one), "not by global generators"
    same = x[:1].expand_as(x)
    starts = [made(net, x=same, epoch=epoch, **options) for epoch in (0, 1)]
    assert not torch.equal(*starts)
    y = torch.zeros(6, dtype=torch.long)
    twice = Mixture(**options).images(net, same, y, INDEX, 0)
    assert len({tuple(image.flatten().tolist()) for image in twice}) == 6


# --- training and validation


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_adversarial_training_repeats_the_uninterrupted_one(tmp_path, every_step):
    """Random starts, fresh noise of the purifier, dropout, average; stopped in an epoch and at its end."""

    def curve(folder, resume=None):
        pl.seed_everything(3)
        every = every_step(folder)
        parts = {"clean": 0.3, "purified": 0.3, "purified_adversarial": 0.4}
        attack = PGD(LINF, "exact", steps=2, start="ball")
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(108, 2)
        task = LitClassifier(
            nn.Sequential(*layers),
            adversary=attack,
            attack=attack,
            purifier=Noisy(),
            parts=parts,
            ema_decay=0.9,
            lr=0.02,
        )
        options = {**COMMON, "max_epochs": 2, "enable_checkpointing": True, "callbacks": [every]}
        trainer = pl.Trainer(default_root_dir=folder, **options)
        trainer.fit(task, Images(batch_size=4, val_size=2), ckpt_path=resume)
        return every.losses, task.state_dict(), dict(trainer.callback_metrics)

    losses, weights, metrics = curve(tmp_path / "whole")
    assert sorted(losses) == list(range(10)) and len(set(losses.values())) == 10
    for step in (3, 5):
        again, others, measured = curve(tmp_path / f"from{step}", tmp_path / f"whole/step={step}.ckpt")
        assert again == {k: v for k, v in losses.items() if k >= step}
        assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
        assert all(measured[name] == metrics[name] for name in metrics if name.startswith("val/"))


def test_validation_attacks_the_whole_defence(tmp_path):
    """The purifier makes all images bright: alone the classifier falls, behind it nothing can happen to it."""

    class Bright(Purifier):
        def purify(self, x, noise):
            return 0.9 + 0 * x

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))  # is the image brighter than half?
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 64))
        net[1].bias.copy_(torch.tensor([32.0, -32.0]))
    y = (X.mean((1, 2, 3)) > 0.5).long()
    loader = DataLoader(list(zip(X, y, INDEX, strict=True)), 4)
    attack = PGD(ThreatModel("linf", 1.0), "bpda", steps=2)
    found = {}
    for name, options in {
        "alone": {"attack": PGD(ThreatModel("linf", 1.0), "gray", steps=2)},
        "behind": {"attack": attack, "purifier": Bright()},
        "purified": {"purifier": Bright(), "attacked_images": 5},
    }.items():
        trainer = pl.Trainer(default_root_dir=tmp_path, **COMMON)
        found[name] = trainer.validate(LitClassifier(net, **options), loader, verbose=False)[0]
    bright = float(y.float().mean())
    assert (found["alone"]["val/accuracy_clean"], found["alone"]["val/accuracy_attacked"]) == (1, 0)
    assert found["behind"]["val/accuracy_attacked"] == found["behind"]["val/accuracy_purified"] == pytest.approx(bright)
    assert found["purified"]["val/accuracy_purified"] == pytest.approx(float(y[:5].float().mean()))
    assert "val/accuracy_attacked" not in found["purified"] and "val/accuracy_purified" not in found["alone"]


def test_the_card_tells_adversary_purifier_and_parts_and_no_network_of_theirs_is_saved(tmp_path):
    file = tmp_path / "net.safetensors"
    task = LitClassifier(
        network(), adversary=GRAY, attack=PGD(LINF, "exact", steps=1), purifier=pursamere(), export=str(file),
        parts={"clean": 0.25, "adversarial": 0.75},
    )  # fmt: skip
    trainer = pl.Trainer(default_root_dir=tmp_path, max_steps=1, max_epochs=-1, **COMMON)
    trainer.fit(task, Images(batch_size=4, val_size=2))
    with safe_open(file, "pt") as content:
        card, names = content.metadata(), {*content.keys()}
    assert card["loss"] == "cross-entropy, 0.25 on clean + 0.75 on adversarial images"
    assert json.loads(card["adversary"]) == GRAY.settings and json.loads(card["attack"])["view"] == "exact"
    assert card["purifier"].startswith("PurSAMERE(") and card["purifier_weights"].startswith("sha256 ")
    assert names == {*network().state_dict()}
    assert {name.partition(".")[0] for name in task.state_dict()} <= {"classifier", "accuracy", "seen", "loss"}


def test_images_that_nobody_can_purify_are_told_of_at_the_first_step():
    task = LitClassifier(network(), parts={"purified": 1.0})
    with pytest.raises(ValueError, match=r"'purified' needs pairs \(`data.purified`\), or a purifier"):
        task.training_step((X, Y, INDEX), 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"adversary": PGD(view="gray")}, "the adversary of a training names no threat.*`model.adversary.threat`"),
        ({"adversary": PGD(LINF, "bpda")}, "no purifier in this training: its adversary must have the view 'gray'"),
        ({"attack": PGD(LINF, "exact")}, "its attack must have the view 'gray'; got 'exact'"),
        ({"attack": PGD(LINF, "surrogate"), "purifier": Noisy()},
         "behind Noisy the attack may have the views gray, bpda, first_order, exact; got 'surrogate'"),
        ({"adversary": GRAY, "parts": {"clean": 0.5, "adversarial": 0.6}}, "above 0 and sum to 1; got .*0.6"),
        ({"adversary": GRAY, "parts": {"clean": 0.0, "adversarial": 1.0}}, "above 0 and sum to 1; got .*0.0"),
        ({"parts": {}}, "above 0 and sum to 1"),
        ({"parts": {"noisy": 1.0}}, "parts must be some of clean, purified, adversarial.*got 'noisy'"),
        ({"parts": {"adversarial": 1.0}}, "'adversarial' needs an attack: name it as `model.adversary`"),
        ({"adversary": GRAY, "parts": {"clean": 1.0}}, "an adversary is for the parts adversarial and purified_advers"),
        ({"adversary": GRAY, "parts": {"purified_adversarial": 1.0}}, "needs a purifier: name it as `model.purifier`"),
        ({"purifier": PurSAMERE}, "PurSAMERE needs a score model"),
        ({"score_model": FFDNetScore()}, "a score model is for a purifier: name one as `model.purifier`"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LitClassifier(network(), **wrong)
