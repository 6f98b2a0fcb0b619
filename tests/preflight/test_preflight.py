"""Preflight: every doubt fires on its planted mistake, and none on set-ups that are as they should be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks import PGD, Attack
from lit_pursamere.cli.main import main
from lit_pursamere.data import Digits
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import (
    AutoencoderScore,
    DDPMScore,
    FFDNetScore,
    GaussianMixtureScore,
    NCSNv2Score,
    NoiseLevels,
    NoiseSource,
    ScoreModel,
)
from lit_pursamere.estimate.memory import need_of
from lit_pursamere.networks import DenoisingAutoencoder, WideResNet
from lit_pursamere.preflight import memory as preflight_memory
from lit_pursamere.preflight.examined import few
from lit_pursamere.preflight.levels import asked_levels
from lit_pursamere.preflight.look import Doubt, fitting_batch_size, preflight
from lit_pursamere.preflight.run import check_test
from lit_pursamere.preflight.usual import USUAL, per_channel
from lit_pursamere.purifiers import ADP, DiffPure, Identity, Langevin, Purifier, PurSAMERE
from lit_pursamere.tasks import LitRobustness
from lit_pursamere.threat import ThreatModel
from lit_pursamere.weights import trained

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
THREAT = ThreatModel("linf", 0.15)
ATTACKS: dict[str, Attack] = {"gray": PGD(THREAT, "gray", 20), "bpda": PGD(THREAT, "bpda", 20)}


@dataclass(frozen=True)
class SetUp:
    """What somebody is about to evaluate."""

    purifier: Purifier
    classifier: nn.Module
    x: Tensor
    y: Tensor
    attacks: dict[str, Attack] = field(default_factory=lambda: ATTACKS)
    names: tuple[str, ...] = ()
    normalised: bool = False
    batch_size: int = 50

    def doubts(self) -> list[Doubt]:
        defense = Defense(self.purifier, self.classifier)
        return preflight(defense, self.attacks, self.x, self.y, class_names=self.names, normalised=self.normalised,
                         batch_size=self.batch_size)  # fmt: skip


class Through(nn.Module):
    """A classifier behind a change of pixels, or of logits."""

    def __init__(self, classifier: nn.Module, before=lambda x: x, after=lambda logits: logits) -> None:
        super().__init__()
        self.classifier, self.before, self.after = classifier, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.classifier(self.before(x)))


def digits(channels: int = 1) -> tuple[Tensor, Tensor]:
    source = Digits().load("test")
    return source.images.float().repeat(1, channels, 1, 1), source.labels


class NearestMean(nn.Module):
    """Minus squared distances to the class means of the digits behind a normalisation; without that, always class 0.

    It knows the normalisation by the darkest pixel: all digits have black ones.
    """

    def __init__(self, name: str | None = None, channels: int = 1) -> None:
        super().__init__()
        train = Digits().load("train")
        means = torch.stack([train.images[train.labels == k].float().mean(0) for k in range(10)])
        means = means.repeat(1, channels, 1, 1)
        mean, std = (torch.zeros(1), torch.ones(1)) if name is None else per_channel(name, means)
        self.register_buffer("black", -(mean / std).flatten())
        self.register_buffer("means", (means - mean) / std)

    def forward(self, x: Tensor) -> Tensor:
        logits = -(x.unsqueeze(1) - self.means).square().flatten(2).sum(2)
        known = ((x.amin((2, 3)) - self.black).abs() < 0.01).all(1, keepdim=True)
        return torch.where(known, logits, -torch.arange(10.0))


class Mostly(nn.Module):
    """Knows all digits behind one normalisation, and as they are, or behind another, all but those of some classes."""

    def __init__(self, lost: list[int], whole: str | None = None, partly: str | None = None) -> None:
        super().__init__()
        self.whole, self.partly = NearestMean(whole), NearestMean(partly)
        self.lost = lost

    def forward(self, x: Tensor) -> Tensor:
        whole, partly = self.whole(x), self.partly(x)
        wrong = torch.isin(partly.argmax(1, keepdim=True), torch.tensor(self.lost))
        partly = torch.where(wrong, partly.roll(1, 1), partly)
        known = ((x.amin((2, 3)) - self.whole.black).abs() < 0.01).all(1, keepdim=True)
        return torch.where(known, whole, partly)


class Normalised(nn.Module):
    """Behind a usual normalisation."""

    def __init__(self, classifier: nn.Module, name: str) -> None:
        super().__init__()
        self.classifier, self.name = classifier, name

    def forward(self, x: Tensor) -> Tensor:
        mean, std = per_channel(self.name, x)
        return self.classifier((x - mean) / std)


def shipped(name: str, size: int) -> tuple[ScoreModel, nn.Module]:
    folder = CHECKPOINTS / name
    score_model = NCSNv2Score(ngf=16, channels=1, image_size=size, checkpoint=str(folder / "score.safetensors"))
    return score_model, trained(WideResNet(10, 2, channels=1), str(folder / "classifier.safetensors"))


def shipped_digits() -> SetUp:
    score_model, classifier = shipped("digits", 8)
    sigmas = NoiseLevels(5.0, 0.01, 64, first=1.0, last=0.02, stride=3)
    return SetUp(PurSAMERE(score_model, 1.5, 0.25, 2, sigmas), classifier, *digits(), names=Digits.class_names)


def undefended() -> SetUp:
    return SetUp(Identity(), shipped("digits", 8)[1], *digits())


def stochastic() -> SetUp:
    score_model, classifier = shipped("digits", 8)
    return SetUp(Langevin(score_model, NoiseLevels(5.0, 0.01, 64, first=0.1)), classifier, *digits())


def fashion() -> SetUp:
    """The shipped networks on images that they take for their classes: the set itself is a download."""
    score_model, classifier = shipped("fashion_mnist", 28)
    generator = torch.Generator().manual_seed(0)
    x = F.interpolate(torch.rand((400, 1, 7, 7), generator=generator), size=28, mode="bilinear").clamp(0, 1)
    with torch.no_grad():
        y = classifier.eval()(x).argmax(1)
    chosen = torch.tensor(few(y.tolist(), 0, 100))
    return SetUp(DiffPure(score_model), classifier, x[chosen], y[chosen])


def trained_here() -> SetUp:
    """A small network with a normalisation of its own, trained for a moment."""
    torch.manual_seed(0)
    network = Normalised(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), "MNIST")
    train = Digits().load("train")
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(network(train.images.float()), train.labels).backward()
        optimizer.step()
    return SetUp(Identity(), network, *digits())


def two_colours() -> SetUp:
    """32x32 colour images of two classes, one of them redder, and a classifier that is right on nine of ten."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(2, (200,), generator=generator)
    x = 0.2 + 0.4 * torch.rand((200, 3, 32, 32), generator=generator)
    x[:, 0] += 0.2 * (2 * y - 1)[:, None, None] * (torch.rand(200, generator=generator) < 0.95)[:, None, None]
    head = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[-5.0, 0, 0], [5, 0, 0]])[..., None, None])
        head.bias.copy_(torch.tensor([2.0, -2.0]))
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), head, nn.Flatten())
    mixture = GaussianMixtureScore(torch.stack([x[y == k].mean(0) for k in range(2)]), 0.2)
    return SetUp(PurSAMERE(mixture, 1.0, 0.2, 1, [0.5, 0.1]), classifier, x.clamp(0, 1), y, names=("blue", "red"))


HONEST = [shipped_digits, undefended, stochastic, fashion, trained_here, two_colours]


@pytest.mark.parametrize("set_up", HONEST)
def test_no_doubt_about_a_set_up_that_is_as_it_should_be(set_up):
    assert set_up().doubts() == []


def test_an_honest_set_up_of_few_images_says_nothing(n=3):
    found = shipped_digits()
    assert replace(found, x=found.x[:n], y=found.y[:n]).doubts() == []


def planted(**changes) -> SetUp:
    """The undefended digits, changed."""
    x, y = digits()
    return replace(SetUp(Identity(), NearestMean(), x, y, names=Digits.class_names), **changes)


def behind(name: str, channels: int) -> SetUp:
    return planted(classifier=NearestMean(name, channels), x=digits(channels)[0])


X, Y = digits()
SEVENS = Y == 7
WIDE = NCSNv2Score(ngf=2, channels=3, image_size=8)

STOPS = {
    "uint8": (planted(x=(255 * X).byte()), r"are torch.uint8.*/ 255"),
    "nan": (planted(x=X.clone().index_fill_(0, torch.tensor([0]), torch.nan)), r"1 of 397 images hold NaN"),
    "0..255": (planted(x=255 * X), r"range from 0 to 255,.*look like 0\.\.255.*divide by"),
    "centred": (planted(x=2 * X - 1), r"range from -1 to 1,.*\[-1, 1\]; give \(x \+ 1\) / 2"),
    "overshoot": (planted(x=1.08 * X - 0.04), r"range from -0.04 to 1.04.*clamp"),
    "MNIST already": (planted(x=(X - 0.1307) / 0.3081), r"normalised as MNIST.*\(\(0\.1307,\), \(0\.3081,\)\)"),
    "oddly normalised": (planted(x=(X - 0.5) / 0.01), r"look normalised; give plain"),
    "twice divided": (planted(x=X / 255), r"reach only 0\.0039\d*: divided by 255 twice"),
    "constant": (planted(x=torch.full_like(X, 0.5)), r"each of 397 images has one value"),
    "label is none": (planted(y=Y.clone().index_fill_(0, torch.tensor([5]), 12)), r"label 12 is no class.*10 apart"),
    "negative label": (planted(y=Y - 1), r"label -1 is no class"),
    "labels from one": (planted(y=Y + 1), r"label 10 is no class.*y - 1"),
    "grey for colour": (planted(classifier=WideResNet(10, 1)), r"WideResNet is for 3 channel.* \(1, 8, 8\) have 1:"),
    "score for colour": (planted(purifier=Langevin(WIDE)), r"score model NCSNv2Score is for 3 channel\(s\).*have 1"),
    "size": (
        planted(classifier=nn.Sequential(nn.Flatten(), nn.Linear(784, 10))),
        r"Sequential does not take images \(1, 8, 8\): RuntimeError: mat1",
    ),
    "features": (planted(classifier=nn.Conv2d(1, 4, 3)), r"Conv2d must return logits \(B, K\).*got \(1, 4, 6, 6\)"),
    "score of another shape": (
        planted(purifier=Langevin(GaussianMixtureScore(torch.rand(2, 3, 8, 8)))),
        r"turns images \(1, 8, 8\) into \(3, 8, 8\)",
    ),
    "normalised twice": (
        planted(classifier=Normalised(NearestMean(), "MNIST"), normalised=True),
        r"on 4\d with the normalisation of MNIST undone: it is done twice; leave out",
    ),
    "labels plus one": (
        planted(classifier=Through(NearestMean(), after=lambda z: z.roll(1, 1)), y=Y.clamp_max(8)),
        r"answers are the label plus 1: give y \+ 1",
    ),
    "labels minus one": (
        planted(classifier=Through(NearestMean(), after=lambda z: z.roll(-1, 1)), y=Y.clamp_min(1)),
        r"answers are the label minus 1: give y - 1",
    ),
    "classes in another order": (
        planted(classifier=Through(NearestMean(), after=lambda z: z[:, [2, 3, 4, 0, 1, 7, 8, 9, 5, 6]])),
        r"other numbers of the classes \(0 \(0\) is answered 3,",
    ),
    "beyond FFDNet": (
        planted(purifier=PurSAMERE(FFDNetScore(channels=1), sigmas=[1.0, 0.1])),
        r"from sigma 1 to 0\.1, and .*FFDNetScore were trained from 0\.294 .*start at 0\.294 or lower",
    ),
    "other level": (
        planted(purifier=ADP(AutoencoderScore(DenoisingAutoencoder(1, 4), 0.15), 0.01)),
        r"sigma 0\.01 to 0\.01.*from 0\.387 to 0\.387: let it end at 0\.387 or higher",
    ),
    **{
        name: (
            behind(name, len(USUAL[name][0])),
            rf"on 4\d behind the normalisation of {re.escape(name)}: set normalise=",
        )
        for name in USUAL
    },
}

SAYS = {
    "a normalisation that costs a fifth": (
        planted(classifier=Mostly([3, 7], whole="MNIST")),
        r"right on 3\d of 48 clean images, and on 4\d behind the normalisation of MNIST: set normalise=",
    ),
    "twice, which costs a fifth": (
        planted(classifier=Normalised(Mostly([3, 7], partly="MNIST"), "MNIST"), normalised=True),
        r"right on 3\d of 48 clean images, and on 4\d with the normalisation of MNIST undone: it is done twice",
    ),
    "no weights": (planted(classifier=WideResNet(10, 1, channels=1)), r"as by chance.*look at its weights"),
    "hardly any contrast": (planted(x=0.5 + 0.04 * X, classifier=Through(NearestMean(), lambda x: (x - 0.5) * 25)),
                            r"from 0\.5 to 0\.54 only: stretch"),
    "black ones": (planted(x=X * (torch.arange(len(X)) % 2)[:, None, None, None]), r"images have one value in all of"),
    "one class": (planted(x=X[SEVENS], y=Y[SEVENS]), r"images are of one class out of 10 \(7 \(7\)\): .*test_seed"),
    "few classes": (planted(x=X[Y < 3], y=Y[Y < 3]), r"of 3 classes out of 10 \(0 \(0\), 1 \(1\), 2 \(2\)\)"),
    "other classes": (planted(names=("cat", "dog")), r"the data has 2 classes and the classifier 10 logits.*0 \(cat\)"),
    "another size": (planted(purifier=Langevin(NCSNv2Score(ngf=2, channels=1, image_size=28))),
                     r"NCSNv2Score is for images of 28 pixels, and these have 8: set its image_size to 8"),
    "beyond the card": (planted(purifier=PurSAMERE(shipped("digits", 8)[0])), r"sigma 50 to 0.01.*from 5 to 0\.01"),
}  # fmt: skip


def test_a_difference_that_chance_explains_is_no_doubt():
    assert planted(classifier=Mostly([3], whole="MNIST")).doubts() == []


@pytest.mark.parametrize("mistake", STOPS)
def test_a_planted_mistake_that_makes_no_sense_stops(mistake):
    set_up, pattern = STOPS[mistake]
    doubt = set_up.doubts()[-1]
    assert doubt.stops and re.search(pattern, doubt.what) and "\n" not in doubt.what


@pytest.mark.parametrize("mistake", SAYS)
def test_a_planted_mistake_is_said(mistake):
    set_up, pattern = SAYS[mistake]
    doubts = set_up.doubts()
    assert any(re.search(pattern, doubt.what) for doubt in doubts), doubts
    assert not any(doubt.stops or "\n" in doubt.what for doubt in doubts)


def test_a_line_names_the_first_thing_that_is_wrong_and_ends_there():
    everything = planted(x=255 * X, y=Y + 1, classifier=WideResNet(10, 1), purifier=Langevin(WIDE))
    assert [doubt.what.split(",")[0] for doubt in everything.doubts()] == ["pixels range from 0 to 255"]


def test_images_and_classes_that_are_none_are_refused():
    for x, y in ((X[0], Y[:1]), (X, Y[:3]), (X[:0], Y[:0])):
        with pytest.raises(ValueError, match=r"needs images \(N, C, H, W\) and classes \(N,\); got"):
            planted(x=x, y=y).doubts()


def test_the_few_are_of_all_classes_and_follow_the_seed():
    labels = [0] * 500 + [1] * 30 + [2] * 3
    chosen = few(labels, 0)
    assert [sum(labels[position] == k for position in chosen) for k in range(3)] == [23, 22, 3]
    assert chosen == sorted(set(chosen)) == few(labels, 0) != few(labels, 1)
    assert few([5, 5], 0) == [0, 1]


def test_nothing_is_left_behind():
    set_up = stochastic()
    state = {name: tensor.clone() for name, tensor in set_up.classifier.state_dict().items()}
    defense, x = Defense(set_up.purifier, set_up.classifier), set_up.x.clone().requires_grad_()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    told = preflight(defense, {"exact": PGD(THREAT, "exact", 2)}, x, set_up.y, batch_size=8)
    assert told == [] and torch.equal(torch.get_rng_state(), before) and x.grad is None
    assert all(torch.equal(tensor, state[name]) for name, tensor in set_up.classifier.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in defense.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_looks_under_every_mode(mode):
    set_up = replace(shipped_digits(), attacks={"exact": PGD(THREAT, "exact", 2)})
    with mode():
        assert replace(set_up, x=set_up.x + 0).doubts() == []
        assert [doubt.stops for doubt in replace(set_up, x=255 * set_up.x).doubts()] == [True]


def test_levels_are_those_that_the_score_model_is_asked_at(tiny_score):
    heard: list[float] = []
    tiny_score.register_forward_pre_hook(lambda module, args: heard.extend(torch.as_tensor(args[1]).flatten().tolist()))
    x = X[:1]
    langevin, sigmas = Langevin(tiny_score, [0.1, 0.05]), [0.5, 0.1]
    for purifier in (langevin, DiffPure(tiny_score, dt=0.02), PurSAMERE(tiny_score, sigmas=sigmas), Identity()):
        heard.clear()
        purifier(x)
        asked = [level for _, levels in asked_levels(purifier, x, 10) for level in levels]
        assert sorted(set(asked)) == pytest.approx(sorted(set(heard))), type(purifier).__name__


def test_score_models_say_what_they_were_trained_at():
    assert shipped("fashion_mnist", 28)[0].trained_at == (0.01, 22.2)
    assert WIDE.trained_at == (0.0, torch.inf)
    ddpm = {"block_out_channels": (8, 8), "attention": (False, True), "layers_per_block": 1, "norm_num_groups": 4}
    assert DDPMScore(channels=1, image_size=8, **ddpm).trained_at == (0.0, pytest.approx(78.7, rel=0.01))


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch):
    set_up = replace(undefended(), batch_size=64)
    defense = Defense(set_up.purifier, set_up.classifier)
    need = need_of(lambda count: preflight_memory.attack_once(defense, ATTACKS, X, count))
    monkeypatch.setattr(preflight_memory, "free_bytes", lambda device: int(need.of(20)))
    assert fitting_batch_size(defense, ATTACKS, X, 64) == 16 and fitting_batch_size(defense, ATTACKS, X[:1], 20) == 20
    (doubt,) = set_up.doubts()
    assert re.search(
        r"a batch of 64 images needs about .*B, and .*B are free: set .*eval_batch_size`\) to 16$", doubt.what
    )
    assert not doubt.stops
    monkeypatch.setattr(preflight_memory, "free_bytes", lambda device: 1)
    with pytest.raises(ValueError, match=r"not even a batch of 1 image fits: it needs about .*B, and 1 B are free"):
        fitting_batch_size(defense, ATTACKS, X, 64)
    assert re.search(r"64 images needs about .*: lower what an image needs", set_up.doubts()[0].what)
    monkeypatch.setattr(preflight_memory, "free_bytes", lambda device: None)
    assert fitting_batch_size(defense, ATTACKS, X, 10**9) == 10**9


class Broken(Purifier):
    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        raise KeyError("sigma_data")


def test_a_purifier_that_cannot_begin_is_told():
    (doubt,) = planted(purifier=Broken()).doubts()
    assert doubt.stops and re.fullmatch(r".* an attack on Broken fails: KeyError: 'sigma_data'", doubt.what)


def trainer(folder: Path) -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, inference_mode=False,
                      default_root_dir=folder, enable_model_summary=False)  # fmt: skip


def test_a_test_tells_its_doubts_in_lines(tmp_path, capsys):
    set_up = shipped_digits()
    purifier = PurSAMERE(set_up.purifier.score_model, sigmas=[50.0, 0.1])
    task = LitRobustness(purifier, set_up.classifier, ATTACKS, output=str(tmp_path / "out"))
    check_test(task, Digits(test_size=40), trainer(tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lit-pursamere: doubt: PurSAMERE asks at noise from sigma 50 to 0.1")
    task.preflight = False
    check_test(task, Digits(test_size=40), trainer(tmp_path))
    assert capsys.readouterr().err == "" and not (tmp_path / "out").exists()


class Unlabelled(Digits):
    """Digits whose classes nobody knows before an image is read; counts those that are."""

    def load(self, split):
        source, self.count = super().load(split), 0

        class Read:
            def __len__(inner) -> int:
                return len(source)

            def __getitem__(inner, index):
                self.count += 1
                return source[index]

        return Read()


def test_a_test_reads_a_few_images_only(tmp_path):
    set_up = shipped_digits()
    data = Unlabelled()
    task = LitRobustness(Identity(), set_up.classifier, ATTACKS, output=str(tmp_path / "out"))
    check_test(task, data, trainer(tmp_path))
    assert 0 < data.count <= 96


def test_the_command_ends_before_it_begins_where_it_makes_no_sense(tmp_path, capsys, repository_root, monkeypatch):
    monkeypatch.chdir(repository_root)
    out = tmp_path / "out"
    command = ["test", "--config=configs/digits/robustness.yaml", f"--model.output={out}", "--trainer.logger=false"]
    command += ["--model.classifier.network.mean=[0.9]", "--model.classifier.network.std=[1.0]"]
    command += ["--model.purifier=Identity", "--data.test_size=48"]
    assert main([*command, f"--trainer.default_root_dir={tmp_path}"]) == 1
    line = next(line for line in capsys.readouterr().err.splitlines() if "error:" in line)
    assert re.search(r"behind the normalisation of MNIST: set .*`--model.preflight false`", line)
    assert not out.exists()


def test_what_the_documentation_shows_runs_and_says_what_it_says(repository_root, capsys):
    text = (repository_root / "docs/attacks-and-views.md").read_text(encoding="utf-8").partition("## Preflight")[2]
    code = text.partition("```python\n")[2].partition("```")[0]
    exec(compile(code, "attacks-and-views.md", "exec"), {})
    told, shown = capsys.readouterr().out, code.rstrip().rpartition("# ")[2]
    assert all(part in told for part in shown.split(" ..."))
