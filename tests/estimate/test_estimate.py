"""An estimate counts what a run would do, clocks the beginning of it, and leaves no trace."""

import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lit_pursamere.attacks import PGD, AutoAttack, Boundary, RandomSearch, Restarts
from lit_pursamere.cli.main import main
from lit_pursamere.diffusion import AutoencoderScore, FFDNetScore, ScoreModel
from lit_pursamere.estimate import timing
from lit_pursamere.estimate.calls import Queries, count_calls, count_queries, forward_flop
from lit_pursamere.estimate.stages import Stage, duration, table
from lit_pursamere.estimate.timing import purification_cost
from lit_pursamere.estimate.training import training_batches
from lit_pursamere.networks import DenoisingAutoencoder, WideResNet
from lit_pursamere.purifiers import ADP, COUP, DP_EDM, MALADE, Identity, Langevin, PurSAMERE
from lit_pursamere.purifiers.base import STEP
from lit_pursamere.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)
X, Y = torch.full((1, 1, 8, 8), 0.5), torch.tensor([3])


@pytest.mark.parametrize("sam", [0, 1.5])
def test_pursamere_asks_for_2_m_l_gradients(tiny_score, sam):
    (calls,) = count_calls(PurSAMERE(tiny_score, rho_sam=sam, draws=3, sigmas=[1.0, 0.5, 0.1, 0.05]), X, 10)
    assert calls.forward == calls.backward == 3 * 4 * (2 if sam else 1)
    assert not tiny_score._forward_hooks


def test_an_ascent_that_is_reused_costs_one_gradient_more_than_none(tiny_score):
    (calls,) = count_calls(PurSAMERE(tiny_score, draws=3, sigmas=[1.0, 0.5, 0.1, 0.05], ascent="reused"), X, 10)
    assert calls.forward == calls.backward == 3 * (4 + 1)


def test_an_autoencoder_is_counted_though_no_noise_is_asked_for():
    purifier = MALADE(AutoencoderScore(DenoisingAutoencoder(channels=1, width=2)), steps=4, delta=0.0)
    (calls,) = count_calls(purifier, X, 10)
    assert (calls.forward, calls.backward) == (4, 0)
    cost = purification_cost(purifier, X, 10, False, limit=0.0)
    assert cost.flop == 4 * forward_flop(purifier, X)[0] > 0 and cost.ratio == pytest.approx(1)


class Counted(TorchDispatchMode):
    """FLOP of everything inside, second derivatives included."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        self.total += formula(*args, **(kwargs or {}), out_val=out) if formula else 0
        return out


@pytest.mark.slow
def test_flop_of_a_purification_and_of_its_derivative(tiny_score):
    """Extrapolated from three of six levels, they are what the whole takes."""
    purifier = PurSAMERE(tiny_score, draws=1, sigmas=[2.0**-k for k in range(6)])
    x = torch.rand(2, 1, 8, 8)
    forward, derivative = (purification_cost(purifier, x, 10, kind, limit=0.0) for kind in (False, True))
    with Counted() as counted:
        purifier(X)
    assert forward.flop == counted.total == 2 * 6 * 2 * forward_flop(purifier, X)[0]
    assert forward.ratio == pytest.approx(1)
    with Counted() as counted:
        z = X.clone().requires_grad_()
        purifier(z).sum().backward()
    assert derivative.flop == pytest.approx(counted.total)
    assert not STEP._forward_hooks and not STEP._forward_pre_hooks


@pytest.mark.parametrize(
    "build",
    [
        lambda model: ADP(model, steps=3, tau=0, seed=0),
        lambda model: MALADE(model, steps=5, seed=0),
        lambda model: Langevin(FFDNetScore(channels=1, width=4, depth=3), [0.2, 0.1], 1e-5, 2, seed=0),
    ],
    ids=["ADP", "MALADE", "FFDNet"],
)
def test_steps_that_ask_about_their_very_state_are_differentiated(build, tiny_score):
    """A derivative takes a step, the same again, and as much on the way back."""
    forward, derivative = (purification_cost(build(tiny_score), X, 10, kind, limit=0.0) for kind in (False, True))
    assert derivative.flop == pytest.approx(3 * forward.flop) and forward.ratio == pytest.approx(1)


class Slow(ScoreModel):
    """Takes ten milliseconds a call, half a second for the first, on a clock of its own."""

    time, calls = 0.0, 0

    def forward(self, y, sigma):
        self.time, self.calls = self.time + (0.01 if self.calls else 0.5), self.calls + 1
        return torch.nn.functional.conv2d(y, torch.ones(1, 1, 1, 1))


def test_the_time_of_a_purification_is_told_from_its_beginning(monkeypatch):
    """Without the first step, in which a device warms up; the other 40 of 50 levels are never computed."""
    model = Slow()
    monkeypatch.setattr(timing, "now", lambda device: model.time)
    purifier = PurSAMERE(model, rho_sam=0, draws=1, sigmas=[1 / k for k in range(1, 51)])
    clock = timing.walk(purifier, X, derivative=False, limit=0.55)
    assert not clock.complete and model.calls < 10
    assert clock.per_call() == pytest.approx(0.01)
    assert purification_cost(purifier, X, 10, False, 0.05).seconds == pytest.approx(0.5)


def test_networks_and_steps_of_unequal_cost(tiny_scores):
    """Heun's last step asks the network once, all others twice; COUP asks a classifier for gradients as well."""
    (calls,) = count_calls(DP_EDM(tiny_scores("EDM"), steps=4), X, 10)
    assert (calls.forward, calls.backward) == (7, 0)
    coup = COUP(tiny_scores("DDPM++"), WideResNet(10, 1, channels=1), t_star=0.01)
    score, guide = count_calls(coup, X, 10)
    assert (score.forward, score.backward, guide.forward, guide.backward) == (10, 0, 10, 10)
    assert purification_cost(coup, X, 10, False, 0.0).ratio == pytest.approx(1, abs=0.01)


def test_the_identity_costs_nothing():
    cost = purification_cost(Identity(), X, 10, False, 1.0)
    assert (cost.seconds, cost.flop) == (0, 0)


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


def test_batches_are_dealt_whole():
    known = Stage("known", batches=10, size=4, flop=1e9, seconds=2.0)
    assert [known.total_seconds(n) for n in (1, 4, 8)] == [20, 6, 4]
    unknown = Stage("unknown", 10, 4, None, None, note="why")
    lines = [" ".join(line.split()) for line in table([known, unknown], 8).splitlines()]
    assert lines[2] == "| known | 10 x 4 | 10 GFLOP | 20.0 s | 4.0 s | |"
    assert "not estimated | not estimated | why" in lines[3]
    assert "10 GFLOP | 20.0 s | 4.0 s | without 1" in lines[4]
    assert duration(2 * 86400 + 1) == "2.0 d" and duration(7200) == "2.0 h"


def test_the_end_of_a_training():
    assert training_batches({"max_epochs": 3}, 17) == 51
    assert training_batches({"max_steps": 10, "accumulate_grad_batches": 4}, 17) == 40
    assert training_batches({"max_epochs": 3, "max_steps": 10}, 17) == 10
    with pytest.raises(ValueError, match=r"max_epochs or trainer\.max_steps"):
        training_batches({"max_epochs": -1}, 17)


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


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_run_is_estimated_and_nothing_is_written(name, repository_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(repository_root / "checkpoints")
    options, stages = RUNS[name]
    options = [option.format(root=repository_root) for option in options]
    config = repository_root / f"configs/digits/{name}.yaml"
    assert main(["estimate", f"--config={config}", *options, "--estimate.devices=2", "--estimate.seconds=0.1"]) == 0
    printed = capsys.readouterr().out
    rows = [re.split(r" *\| *", line)[1:-1] for line in printed.splitlines() if line.startswith("|")]
    assert [row[0].strip("-") for row in rows] == ["stage", "", *stages, "**all**"]
    assert re.search(r"gives (0\.9\d\d|1\.000) of the formula", printed) and "ideal scaling" in printed
    assert re.search(r"weights [\d.]+ .?B, peak [\d.]+ .B", printed)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("resident", ["true", "false"])
def test_pairs_cost_two_images_before_the_purified_set_exists(resident, repository_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def flop(*options):
        config = f"--config={repository_root}/configs/digits/classifier.yaml"
        assert main(["estimate", config, "--estimate.seconds=0.1", f"--data.resident={resident}", *options]) == 0
        number, unit = re.search(r"\| training .*?([\d.]+) ([GT])FLOP", capsys.readouterr().out).groups()
        return float(number) * {"G": 1, "T": 1000}[unit]

    assert flop() == pytest.approx(2 * flop("--data.purified=null"), rel=0.05)


def test_weights_that_are_not_there_yet_are_named(repository_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config, few = repository_root / "configs/digits/robustness.yaml", "--model.purifier.sigmas.stride=12"
    missing = ["--model.classifier.checkpoint=fashion/net.safetensors"]  # the score model comes with the package
    assert (
        main(
            [
                "estimate",
                "test",
                f"--config={config}",
                few,
                *missing,
                "--data.eval_batch_size=5",
                "--estimate.seconds=0.1",
            ]
        )
        == 0
    )
    assert "Not there yet, random weights stood in: fashion/net.safetensors" in capsys.readouterr().out


def test_wrong_settings_are_one_line(repository_root, monkeypatch, capsys):
    monkeypatch.chdir(repository_root)
    assert main(["estimate", "--config=configs/digits/purify.yaml", "--estimate.devices=0"]) == 1
    assert "devices >= 1" in capsys.readouterr().err
