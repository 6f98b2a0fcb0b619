"""What a manifest says of an attack: every setting, as JSON values, and the same for attacks that are the same."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from inspect import isabstract

import pytest
import torch
from torch import nn

import lit_pursamere.attacks
from lit_pursamere.attacks import (
    PGD,
    Attack,
    DetectorPGD,
    ReconstructionPGD,
    Restarts,
    SelectivePGD,
    Transfer,
    WorstCase,
)
from lit_pursamere.defense.detectors import ScoreNorm
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.threat import Pixels, ThreatModel

THREAT = ThreatModel("linf", Pixels("8/255"))
OTHERS = {
    "threat": ThreatModel("linf", Pixels("4/255")), "view": "exact", "start": "ball", "direction": "sign",
    "loss": "dlr", "eot_mode": "logit_mean", "decision": "original", "version": "rand", "sigmas": [0.3, 0.1],
    "attack": PGD(THREAT, steps=3), "attacks": [PGD(THREAT, steps=3)], "rho": 0.5, "large_eps": False,
    "step_size": 0.5, "wrapped": "foolbox.attacks.LinfPGD", "arguments": {"steps": 3},
}  # fmt: skip


def score_model(mean: float = 0.5) -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.full((1, 1, 2, 2), mean))


def source(weight: float = 0.5) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.init.constant_(network[1].weight, weight)
    nn.init.zeros_(network[1].bias)
    return network


MADE = {
    "DetectorPGD": lambda: DetectorPGD(THREAT, detector=ScoreNorm(score_model(), 0.1)),
    "ReconstructionPGD": lambda: ReconstructionPGD(THREAT, score_model=score_model()),
    "Restarts": lambda: Restarts(PGD(THREAT)),
    "Transfer": lambda: Transfer(PGD(THREAT), source()),
    "WorstCase": lambda: WorstCase([PGD(THREAT)]),
}
MODULES = {"detector": ScoreNorm(score_model(0.7), 0.1), "score_model": score_model(0.7), "source": source(0.7)}
KINDS = [
    kind
    for name in lit_pursamere.attacks.__all__
    if issubclass(kind := getattr(lit_pursamere.attacks, name), Attack) and not isabstract(kind)
]


def made(kind: type[Attack]) -> Attack:
    return MADE.get(kind.__name__, lambda: kind(THREAT))()


def changed(attack: Attack, name: str) -> Attack:
    """The attack with another value of one field."""
    value = getattr(attack, name)
    if isinstance(value, bool):
        other = not value
    elif name in OTHERS:
        other = OTHERS[name]
    else:
        other = 2 if value is None else MODULES.get(name) or value + 1
    return replace(attack, **{name: other})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_counts_and_is_json(kind):
    attack = made(kind)
    settings = attack.settings
    assert next(iter(settings.items())) == ("class", kind.__name__)
    assert settings == made(kind).settings == json.loads(json.dumps(settings))
    assert " at 0x" not in json.dumps(settings)
    names = [field.name for field in fields(kind) if field.init and field.name != "checkpoint"]
    skipped = {"eot_mode"} if kind is SelectivePGD else set()  # which takes no other
    for name in sorted(set(names) - skipped):
        assert changed(attack, name).settings != settings, name


def test_values_are_plain():
    settings = PGD(THREAT, "bpda", 20, step_size=Pixels("2/255")).settings
    assert settings["threat"] == {"class": "ThreatModel", "norm": "linf", "eps": 8 / 255}
    assert (settings["view"], settings["steps"], settings["step_size"]) == ("bpda", 20, 2 / 255)


def test_attacks_and_networks_in_it_are_told_as_well():
    inner = PGD(THREAT, steps=3)
    assert WorstCase([inner]).settings["attacks"] == [inner.settings] and Restarts(inner).settings["attack"] == (
        inner.settings
    )
    detector = DetectorPGD(THREAT, detector=ScoreNorm(score_model(), 0.1, threshold=2.5)).settings["detector"]
    assert (detector["class"], detector["threshold"]) == ("ScoreNorm", 2.5)
    assert detector["score_model"]["class"] == "GaussianMixtureScore"
    transfer = Transfer(inner, source()).settings
    assert transfer["source"]["class"] == "Sequential" and "checkpoint" not in transfer
