"""An estimate counts what a run would do from its configuration alone, and leaves no trace."""

import re
from datetime import date

import pytest
import torch
import yaml
from torch import nn

from lit_pursamere import estimate
from lit_pursamere.attacks import PGD, AutoAttack, Boundary, RandomSearch, Restarts
from lit_pursamere.attacks.gradients import loss_gradient
from lit_pursamere.cli.estimate import runs
from lit_pursamere.cli.main import main
from lit_pursamere.data import CIFAR10, MNIST, Digits
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import (
    ADBMObjective,
    ADDTObjective,
    AutoencoderScore,
    FFDNetScore,
    NCSNv2Score,
    SDAEObjective,
)
from lit_pursamere.estimate.asking import Asking, Cost
from lit_pursamere.estimate.calls import Queries, count_calls, count_queries
from lit_pursamere.estimate.devices import Device, devices_of, read, speed
from lit_pursamere.estimate.prices import FlopCount, Price
from lit_pursamere.estimate.stages import Stage, limited, stages_of, training_batches
from lit_pursamere.estimate.table import duration, told
from lit_pursamere.evaluation.judge import judge
from lit_pursamere.networks import DenoisingAutoencoder, WideResNet
from lit_pursamere.purifiers import ADP, COUP, DP_EDM, MALADE, Identity, Langevin, PurSAMERE
from lit_pursamere.tasks import LitClassifier, LitScoreModel
from lit_pursamere.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)
X, Y = torch.full((1, 1, 8, 8), 0.5), torch.tensor([3])


# --- FLOP: as many as torch counts when it is really done


@pytest.mark.parametrize("sam", [0, 1.5])
def test_pursamere_asks_for_2_m_l_gradients(tiny_score, sam):
    (calls,) = count_calls(PurSAMERE(tiny_score, rho_sam=sam, draws=3, sigmas=[1.0, 0.5, 0.1, 0.05]), X, 10)
    assert calls.forward == calls.backward == 3 * 4 * (2 if sam else 1) and calls.together == 3
    assert not tiny_score._forward_hooks


def test_an_ascent_that_is_reused_costs_one_gradient_more_than_none(tiny_score):
    (calls,) = count_calls(PurSAMERE(tiny_score, draws=3, sigmas=[1.0, 0.5, 0.1, 0.05], ascent="reused"), X, 10)
    assert calls.forward == calls.backward == 3 * (4 + 1)


def small(scores=None):
    """A score model whose shapes are soon counted."""
    return FFDNetScore(channels=1, width=4, depth=3)


WORLDS = {
    "PurSAMERE": lambda scores: PurSAMERE(small(), draws=2, sigmas=[0.2, 0.1, 0.05]),
    "PurSAMERE on NCSNv2": lambda scores: PurSAMERE(scores("NCSNv2"), draws=2, sigmas=[2.0**-k for k in range(4)]),
    "ADP": lambda scores: ADP(scores("NCSNv2"), steps=3, tau=0, seed=0),
    "MALADE": lambda scores: MALADE(scores("NCSNv2"), steps=5, seed=0),
    "MALADE, autoencoder": lambda scores: MALADE(
        AutoencoderScore(DenoisingAutoencoder(channels=1, width=2)), steps=4, delta=0.0
    ),
    "Langevin": lambda scores: Langevin(small(), [0.2, 0.1], 1e-5, 2, seed=0),
    "Heun": lambda scores: DP_EDM(scores("EDM"), steps=4),
    "COUP": lambda scores: COUP(scores("DDPM++"), WideResNet(10, 1, channels=1), t_star=0.005),
    "Identity": lambda scores: Identity(),
}


QUICK = ("PurSAMERE", "MALADE, autoencoder", "Langevin", "Identity")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in WORLDS]
)
def test_what_is_counted_is_what_is_computed(name, tiny_scores):
    """Purification, verdict and the gradient of every view, second derivatives included."""
    defense = Defense(WORLDS[name](tiny_scores).under("fixed"), WideResNet(10, 1, channels=1))
    asking = Asking(defense, Digits())
    asking.module = None  # the real one is not to be asked
    for view in (None, *(view for view in defense.views if view != "surrogate")):
        x = asking.x.clone()
        with FlopCount() as real:
            if view is None:
                judge(defense, x, asking.y, 1, 1)
            else:
                loss_gradient(defense.view(view), x, asking.y)
        cost = asking.verdict() if view is None else asking.gradient(view)
        assert cost.flop == pytest.approx(real.total, rel=0.01), view


def test_a_purifier_that_wants_more_of_its_network_asks_the_network_itself(tiny_score):
    class Nosy(Identity):
        def __init__(self, score_model):
            super().__init__()
            self.score_model = score_model

        def purify(self, x, noise):
            return self.score_model.denoise(x, 0.1 * len([*self.score_model.network.children()]))

    asking = Asking(Nosy(tiny_score), Digits())
    with FlopCount() as real:
        tiny_score.denoise(asking.x, 0.1)
    assert asking.purified().flop == real.total > 0


def test_a_network_that_looks_at_numbers_is_asked_on_the_cpu():
    class Looking(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) if x.sum().item() else x

    assert Price(Looking(1, 1, 3), (1, 8, 8)).flop("call") == 2 * 9 * 36


def test_ncsnv2_of_the_paper_in_no_time():
    """19.8 GFLOP a call, and as many for a gradient; 73 TFLOP for a purification of 232 levels with 4 draws."""
    model = NCSNv2Score(ngf=128, channels=3, image_size=32).requires_grad_(False)
    cost = Asking(PurSAMERE(model), CIFAR10()).purified()
    assert cost.flop == pytest.approx(73.4e12, rel=0.01) == 2 * 4 * 232 * 2 * Price(model, (3, 32, 32)).flop("call")
    assert cost.together == 4 and cost.price.network is model


@pytest.mark.parametrize("pairs", [1, 2])
def test_a_lesson_is_what_a_step_of_training_computes(pairs):
    tiny_score = small()
    network, data = WideResNet(10, 1, channels=1), Digits(batch_size=4, purified=None if pairs == 1 else "not/there")
    for task in (LitClassifier(network), LitScoreModel(tiny_score)):
        (stage,) = stages_of(task, data, {"max_steps": 3})
        net = network if task.__class__ is LitClassifier else tiny_score
        x = torch.rand(4 * pairs, 1, 8, 8)
        with FlopCount() as real:
            (net(x) if net is network else net.predict_noise(x, 0.2)).square().sum().backward()
        assert stage.cost.flop == 3 * real.total and (stage.images, stage.size) == (12, 4)


@pytest.mark.parametrize("kind", [ADDTObjective, ADBMObjective, SDAEObjective])
def test_a_lesson_on_noise_that_follows_an_attack(kind):
    """FLOP of three batches of four images: that of the noise, and of the step on it."""
    knows_all = FFDNetScore(sigma_max=1e3, channels=1, width=4, depth=3)
    score = AutoencoderScore(DenoisingAutoencoder(1, 2)) if kind is SDAEObjective else knows_all
    task = LitScoreModel(score, kind(classifier=WideResNet(10, 1, channels=1)))
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    with FlopCount() as real:
        task.loss(x, *task.draw(x, y)[:2], y).backward()
    (stage,) = stages_of(task, Digits(batch_size=4), {"max_steps": 3})
    assert stage.cost.flop == 3 * real.total and stage.cost.kind == "lesson"


@pytest.mark.parametrize("view", ["gray", "bpda", "exact"])
def test_a_lesson_on_attacked_images(view):
    """FLOP of three batches of four images: of the attack, of purifications, and of the step on both parts."""
    purifier = PurSAMERE(small(), rho_sam=0, draws=1, sigmas=[0.2, 0.1])
    options = {"purifier": purifier, "adversary": PGD(THREAT, view, steps=2, start="ball")}
    task = LitClassifier(WideResNet(10, 1, channels=1), parts={"purified_adversarial": 0.7, "purified": 0.3}, **options)
    task.log = lambda *args, **kwargs: None
    with FlopCount() as real:
        task.training_step((torch.rand(4, 1, 8, 8), torch.arange(4), torch.arange(4)), 0).backward()
    (stage,) = stages_of(task, Digits(batch_size=4), {"max_steps": 3})
    assert stage.cost.flop == 3 * real.total and task.classifier.training


def test_a_validation_behind_a_purifier():
    """Of ten images: purified once, attacked in two steps, and purified again; the classifier sees each."""
    purifier, net = PurSAMERE(small(), rho_sam=0, draws=1, sigmas=[0.2, 0.1]), WideResNet(10, 1, channels=1)
    task = LitClassifier(net, purifier=purifier, attack=PGD(THREAT, "bpda", steps=2), attacked_images=10)
    _, stage = stages_of(task, Digits(batch_size=100, val_size=300), {"max_epochs": 1})
    price, pure = Price(net, (1, 8, 8)), Asking(purifier, Digits()).purified().flop
    call, slope = price.flop("call"), price.flop("gradient")
    assert stage.cost.flop == pytest.approx(300 * call + 10 * (2 * (pure + call) + 2 * (pure + call + slope)))


def test_validations():
    """A round after every second epoch; five bands of a score model; both halves, and an attack, of a classifier."""
    score = small()
    data = Digits(batch_size=100, val_size=300, eval_batch_size=70)
    _, stage = stages_of(LitScoreModel(score, psnr_at=[0.1]), data, {"max_epochs": 4, "check_val_every_n_epoch": 2})
    call = Price(score, (1, 8, 8)).flop("call")
    assert (stage.images, stage.size, stage.cost.flop) == (600, 70, 600 * 6 * call)
    net = WideResNet(10, 1, channels=1)
    task = LitClassifier(net, attack=PGD(THREAT, "gray", steps=5), attacked_images=10)
    _, stage = stages_of(task, Digits(batch_size=100, val_size=300, purified="x"), {"max_epochs": 1})
    price = Price(net, (1, 8, 8))
    slope = price.flop("call") + price.flop("gradient")
    assert stage.cost.flop == 600 * price.flop("call") + 10 * (5 * slope + price.flop("call"))


# --- queries, counts, ends


@pytest.mark.parametrize(
    ("attack", "queries"),
    [
        (PGD(THREAT, steps=7, eot=3), Queries(0, 21)),
        (RandomSearch(THREAT, draws=9), Queries(19, 0)),
        (Restarts(PGD(THREAT, steps=4, start="ball"), count=2), Queries(4, 8)),
        (Boundary(ThreatModel("l2", 1)), None),
        (Restarts(Boundary(ThreatModel("l2", 1)), count=2), None),
    ],
    ids=["pgd", "random", "restarts", "boundary", "nested"],
)
def test_queries(attack, queries):
    assert count_queries(attack, X, Y, 10) == queries


def test_autoattack_is_counted_to_its_bitter_end():
    queries = count_queries(AutoAttack(THREAT, steps=3, queries=20, evaluations=1), X, Y, 10)
    apgd = 4 + 9 * 4  # cross-entropy once, nine targets; a start and three steps each
    assert queries.gradients >= apgd and queries.values >= 20


def test_the_end_of_a_training():
    assert training_batches({"max_epochs": 3}, 17) == 51
    assert training_batches({"max_steps": 10, "accumulate_grad_batches": 4}, 17) == 40
    assert training_batches({"max_epochs": 3, "max_steps": 10}, 17) == 10
    with pytest.raises(ValueError, match=r"max_epochs or trainer\.max_steps"):
        training_batches({"max_epochs": -1}, 17)


def test_a_trainer_that_is_limited_to_some_batches():
    assert [limited(105, 10, limit) for limit in (None, 1.0, 0.5, 3, 99)] == [105, 105, 50, 30, 105]


def test_counts_that_are_known_without_files_are_those_of_the_files():
    data = Digits()
    data.setup()
    assert {split: len(source) for split, source in data.sources.items()} == data.counts
    assert (CIFAR10.counts["train"], MNIST.counts["train"], MNIST.counts["test"]) == (50_000, 60_000, 10_000)


# --- devices


def test_every_device_of_the_table_says_where_its_numbers_are_from():
    table = read()
    assert 0 < table["utilisation"] <= 1
    for name, row in table["devices"].items():
        measured = {"measured", "command"} & row.keys()
        assert {"name", "page", "float32"} <= row.keys() and len(measured) in (0, 2), name
        assert isinstance(row.get("measured", date.today()), date)
        assert row["page"].startswith("docs/" if measured else "https://")


def test_flop_become_hours(monkeypatch):
    stage = Stage("all", 1, 1, Cost(1e15))
    table = {"utilisation": 0.5, "devices": {
        "fast": {"float32": 1, "tf32": 10, "bf16": 100}, "slow": {"measured": 1, "float32": 1, "bf16": 2},
    }}  # fmt: skip
    monkeypatch.setattr("lit_pursamere.estimate.devices.read", lambda: table)
    assert [device.seconds(stage) for device in devices_of("fast, slow,10xslow")] == [200, 1000, 100]
    half = Stage("all", 1, 1, Cost(1e15), precision="bf16-mixed")
    assert [device.seconds(half) for device in devices_of("fast,slow")] == [20, 500]
    assert devices_of("slow")[0].seconds(Stage("all", 1, 1, Cost(1e15), precision="64-true")) is None
    assert devices_of("slow")[0].seconds(Stage("all", 1, 1, None)) is None
    with pytest.raises(ValueError, match=r"no device 'fsat' in the table; did you mean fast\?"):
        devices_of("fsat")
    with pytest.raises(ValueError, match="known: fast, slow, several as 8x"):
        devices_of("8")


def test_the_table_sums_what_is_known():
    known, unknown = Stage("known", 40, 4, Cost(1e13)), Stage("unknown", 40, 4, None, note="why")
    lines = [" ".join(line.split()) for line in told([known, unknown], [Device("d", 1, True, 1.0, 1.0)]).splitlines()]
    assert lines[0] == "| stage | images x batch | FLOP | memory | d (measured) | note |"
    assert lines[2] == "| known | 40 x 4 | 10 TFLOP | | 10.0 s | |"
    assert lines[3] == "| unknown | 40 x 4 | ? | | not estimated | why |"
    assert lines[4] == "| **all** | | 10 TFLOP | | 10.0 s | without 1 that could not be estimated |"
    assert duration(2 * 86400 + 1) == "2.0 d" and duration(7200) == "2.0 h"


class Timed(nn.Module):
    """A convolution that takes a second per image, on a clock of its own."""

    time, largest = 0.0, 0

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        if not x.is_meta:
            self.time, self.largest = self.time + len(x) / 8, max(self.largest, len(x))
        return self.convolution(x)


@pytest.mark.parametrize(("most", "largest"), [(1, 1), (3, 3), (100, 8)])
def test_this_machine_is_clocked_for_as_long_as_it_takes(most, largest, monkeypatch):
    from pytorch_lightning import Trainer

    network = Timed()
    monkeypatch.setattr("lit_pursamere.estimate.devices.now", lambda device: network.time)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert speed(Price(network, (1, 8, 8)), "call", most, trainer) == 2 * 64 * 8
    assert network.largest == largest


# --- commands


def rows(printed):
    return [re.split(r" *\| *", line)[1:-1] for line in printed.splitlines() if line.startswith("|")]


RUNS = {
    "score": (["--model.score_model.ngf=2", "--trainer.max_epochs=30"], ["training", "validation"]),
    "classifier": (["--model.classifier.width=1", "--model.ema_decay=0.9",
                    "--model.attack={root}/configs/attack/pgd20_gray.yaml",
                    "--model.attack.threat={{norm: linf, eps: 0.15}}"], ["training", "validation"]),
    "purify": (["--model.purifier.sigmas.stride=12"], ["purification"]),
    "robustness": (["--model.purifier.sigmas.stride=12", "--data.eval_batch_size=5", "--data.test_size=10"],
                   [f"{system}, {attack}" for system in ("PurSAMERE", "undefended")
                    for attack in ("clean", "gPGD20", "BPDA20-det")]),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name == "robustness" else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_every_kind_of_run_is_estimated_and_nothing_is_read_or_written(
    name, repository_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Digits, "load", None)
    options, stages = RUNS[name]
    options = [option.format(root=repository_root) for option in options]
    config = repository_root / f"configs/digits/{name}.yaml"
    assert main(["estimate", f"--config={config}", *options, "--estimate.devices=8xh100"]) == 0
    table = rows(capsys.readouterr().out)
    assert table[0][:5] == ["stage", "images x batch", "FLOP", "memory", "8xh100"]
    assert [row[0].strip("-") for row in table] == ["stage", "", *stages, "**all**"]
    assert all("FLOP" in row[2] and row[4].endswith(" s") for row in table[2:])
    assert not [*tmp_path.iterdir()]


def test_a_whole_experiment_is_one_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["estimate", "experiment", "digits/experiment", "--data.eval_batch_size=7"]) == 0
    printed = capsys.readouterr().out
    names = [row[0] for row in rows(printed)[2:]]
    assert names[:3] == ["1 predict: purification", "2 fit: training", "2 fit: validation"] and len(names) == 10
    assert names[3].startswith("3 test: PurSAMERE, clean") and "1,400 x 7" in printed
    assert "Not there yet: runs/digits/classifier/classifier.safetensors" in printed


@pytest.mark.slow
def test_so_is_a_comparison_and_verbs_without_a_trainer_are_told(repository_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = {"undefended": "Identity", "ADP": "adp"}
    plan = {"output": "runs/x", "test": f"{repository_root}/configs/digits/attacks.yaml", "purifiers": few}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"stages": ["compare plan.yaml", "report runs/x"]}))
    assert main(["estimate", "experiment", "all.yaml"]) == 0
    printed = capsys.readouterr().out
    assert {row[0].split(": ")[1] for row in rows(printed)[2:-1]} == {*few}
    assert "Not estimated: report" in printed


def test_a_comparison_is_estimated_as_it_would_be_run(repository_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = {"output": "runs/x", "test": f"{repository_root}/configs/digits/attacks.yaml"}
    plan["purifiers"] = {"plain": "Identity", "ADP 2": "adp", "MagNet": "magnet_digits"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    stage = "compare plan.yaml --output runs/y --only plain 'ADP 2' --data.test_size 3"
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"stages": [stage]}))
    found = dict(runs(["experiment", "all.yaml", "--data.eval_batch_size=7"]))
    assert {*found} == {"1 compare: plain: ", "1 compare: ADP 2: "}
    assert found["1 compare: ADP 2: "][-3:] == ["--data.test_size", "3", "--data.eval_batch_size=7"]
    assert "--model.output=runs/y/ADP 2" in found["1 compare: ADP 2: "]


@pytest.mark.slow
def test_this_machine_is_a_column(capsys):
    few = ["--data.train_size=40", "--model.purifier.sigmas.stride=12", "--estimate.devices="]
    assert main(["estimate", "predict", "--config=digits/purify", *few, "--estimate.measure=true"]) == 0
    table = rows(capsys.readouterr().out)
    assert table[0][4] == "this machine (measured)" and re.fullmatch(r"[\d.]+ s", table[2][4])


def test_what_is_wrong_is_one_line(tmp_path, capsys):
    for words, line in (
        (
            ["--config=digits/purify", "--estimate.devices=h1000"],
            r"no device 'h1000' in the table; did you mean h100\?",
        ),
        (["--config=digits/purify", "--data=folder", f"--data.root={tmp_path}/none"], r"set `--data\.root` to the"),
        (["--config=digits/purify", "--data=npz", f"--data.path={tmp_path}/none"], r"set `--data\.path`"),
        (["--config=digits/score", "--trainer.max_epochs=-1"], r"set trainer\.max_epochs or trainer\.max_steps"),
        (["experiment"], "estimate experiment needs the file of the experiment"),
    ):
        assert main(["estimate", *words]) == 1
        (told_line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert re.search(line, told_line), told_line


@pytest.mark.slow
def test_a_batch_that_does_not_fit_here_is_told_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(estimate.table, "free_bytes", lambda device: 10**6)
    few = ["--model.purifier.sigmas.stride=30", "--data.eval_batch_size=64"]
    assert main(["estimate", "--config=digits/robustness", *few]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "are free" in line]
    assert re.search(r"a batch of 64 images needs about [\d.]+ .B, and 1 MB are free here; lower data.eval_batch", line)
