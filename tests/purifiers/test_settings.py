"""Settings: a purifier tells every argument of its constructor, whoever wrote it."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator

import pytest
from torch import nn

import lit_pursamere.purifiers as purifiers
from lit_pursamere.diffusion import NCSNv2Score, NoiseLevels, PartlySeededNoise
from lit_pursamere.purifiers import COUP, DP_DDPM, MALADE, Identity, Langevin, Purifier, PurSAMERE
from lit_pursamere.store.manifest import digest_of, settings_of


def score(width: int = 4) -> NCSNv2Score:
    return NCSNv2Score(ngf=width, channels=1, image_size=8)


# Of a purifier, for every argument but score model and seed, another value than its default, if `another` finds none.
OTHERS: dict[str, dict[str, object]] = {
    "ADBM": {"noise_level": 50, "steps": 10, "rounds": 2, "schedule": "consistent", "clip": False},
    "ADP": {"sigma": 0.1, "lam": 0.5, "delta": 1e-4, "steps": 9, "tau": 0.0, "rescale": True},
    "COUP": {
        "classifier": nn.Linear(64, 3), "lam": 0.5, "t_star": 0.2,
        "sampler": "ddpm", "dt": 0.01, "stochastic": False,
    },
    "DP_DDIM": {"t_star": 50, "steps": 1000, "clip": False},
    "DP_DDPM": {"t_star": 50, "steps": 500, "clip": False, "variance": "fixed_small"},
    "DP_EDM": {
        "sigma_max": 0.5, "sigma_min": 0.01, "steps": 9, "rho": 5.0, "s_churn": 0.0, "s_min": 0.1, "s_max": 0.2,
        "s_noise": 1.0,
    },
    "DiffPure": {"t_star": 0.2, "sampler": "ode", "dt": 0.01, "t_end": 1e-3, "start": "continuous"},
    "DiffPureLD": {"lam": 0.1, "eta": 1.0, "sigma2": 0.1, "t": 0.1, "horizon": 0.5, "dt": 0.1},
    "ExtraCorrector": {"t_star": 0.2, "snr": 0.1, "dt": 0.01, "start": "continuous"},
    "GDMP": {
        "guide": "mse", "scale": 600.0, "rounds": 2, "t_star": 60, "eps": 0.1, "clip": False, "variance": "fixed_small",
    },
    "Identity": {},
    "Langevin": {"sigmas": [0.2, 0.1], "step_size": 1e-5, "steps_per_level": 2, "denoise": False},
    "LikelihoodMaximisation": {
        "steps": 3, "lr": 0.1, "sigma_min": 0.1, "sigma_max": 0.4, "rho": 10.0,
        "classifier": nn.Linear(64, 3), "lam": 1.0,
    },
    "MALADE": {
        "sigma2": 0.1, "alpha": 0.1, "delta": 0.1, "steps": 3, "alpha_end": 0.2, "delta_end": 0.2, "clip_steps": True,
    },
    "PurSAMERE": {
        "rho_pur": 2.0, "rho_sam": 0.0, "draws": 2, "sigmas": NoiseLevels(first=1.0), "lr_max": 0.2, "lr_min": 0.01,
        "projection": "exact", "lr_schedule": "as_printed", "ascent": "reused", "antithetic": True,
    },
}  # fmt: skip


def concrete() -> Iterator[type[Purifier]]:
    for kind in (getattr(purifiers, name) for name in purifiers.__all__):
        if inspect.isclass(kind) and issubclass(kind, Purifier) and not inspect.isabstract(kind):
            yield kind


def others(kind: type[Purifier]) -> dict[str, object]:
    found = OTHERS.get(kind.__name__)
    if found is None:
        given = inspect.signature(kind).parameters.values()
        found = {one.name: another(one.default) for one in given if one.name not in ("score_model", "seed")}
    return {"score_model": score(8), "seed": 7, **found}


def another(value: object) -> object:
    """Another value than a default; a purifier for which this is out of range, or nothing, needs an entry in OTHERS."""
    if isinstance(value, tuple | list):
        return [another(one) for one in value]
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2


def build(kind: type[Purifier], **changed: object) -> Purifier:
    given = {"score_model": score(), **({"classifier": nn.Linear(64, 2)} if kind is COUP else {})}
    return kind(**{**given, **changed})


every_purifier = pytest.mark.parametrize("kind", list(concrete()), ids=lambda kind: kind.__name__)


@every_purifier
def test_every_argument_is_told_by_its_name(kind):
    arguments = list(inspect.signature(kind).parameters)
    assert arguments[0] == "score_model" and set(arguments) == others(kind).keys()
    assert list(build(kind).settings) == ["class", *arguments, "noise"]


@every_purifier
def test_settings_differ_as_soon_as_one_argument_does(kind):
    plain = build(kind).settings
    for name, value in others(kind).items():
        settings = build(kind, **{name: value}).settings
        assert [key for key in plain if settings[key] != plain[key]] == [name]
        assert digest_of(settings) != digest_of(plain)


@every_purifier
def test_settings_are_json_and_last(kind):
    purifier = build(kind).drawing_from(PartlySeededNoise(3))
    settings = purifier.settings
    assert settings["class"] == kind.__name__ and settings == json.loads(json.dumps(settings)) == settings_of(purifier)
    assert settings["noise"]["class"] == "PartlySeededNoise" and settings["noise"]["streams"] == ["forward"]
    assert copy.deepcopy(purifier).settings == settings != build(kind).settings


@every_purifier
def test_whatever_it_is_built_with_is_frozen_and_in_evaluation_mode(kind):
    purifier = build(kind, score_model=score().train())
    assert not any(module.training for module in purifier.modules())
    assert not any(parameter.requires_grad for parameter in purifier.parameters())


def test_the_text_is_made_of_settings():
    assert str(MALADE(score(), 0.1, seed=3).under("fixed")) == (
        "MALADE(sigma2=0.1, alpha=0.015, delta=0.0055, steps=25, clip_steps=False, seed=3, noise=fixed)"
    )
    text = str(Langevin(score(), NoiseLevels(first=0.1), 1e-5, denoise=False).drawing_from(PartlySeededNoise(3)))
    assert text.startswith("Langevin(sigmas=NoiseLevels(sigma_max=50, sigma_min=0.01, count=232, first=0.1, stride=1)")
    assert (
        "step_size=1e-05" in text and "denoise=False, seed=0, noise=PartlySeededNoise(seed=3, streams=[forward]" in text
    )
    assert str(Identity(score())) == "Identity(seed=0, noise=fixed)"


def test_long_lists_are_told_apart_by_each_entry():
    levels = [1 - 0.01 * k for k in range(20)]
    one, other = (PurSAMERE(score(), sigmas=ladder).settings for ladder in (levels, [*levels[:7], 0.9301, *levels[8:]]))
    assert one["sigmas"] != other["sigmas"] and len(one["sigmas"]) < 60


class Twofold(DP_DDPM):
    """Hands other values on than it is given, and keeps none."""

    def __init__(self, inner: Purifier, speed: int, *classes: type, shape: Shape | None = None, **rest: object) -> None:
        super().__init__(score(), steps=1000 // speed, **rest)


class Shape:
    """An object that JSON does not know."""


def test_a_new_purifier_has_nothing_to_do_for_it():
    purifier = Twofold(Identity(), 10, nn.ReLU, shape=Shape(), clip=False)
    assert purifier.settings == {
        "class": "Twofold",
        "inner": {"class": "Identity", "score_model": None, "seed": 0, "noise": "fixed"},
        "speed": 10,
        "classes": ["ReLU"],
        "shape": "Shape",
        "rest": {"clip": False},
        "noise": "fresh",
    }


def test_a_constructor_that_is_called_wrongly_says_so_as_ever():
    with pytest.raises(TypeError, match=r"^PurSAMERE.__init__\(\) missing 1 required .*: 'score_model'"):
        PurSAMERE()
    with pytest.raises(TypeError, match="unexpected keyword argument 'rho'"):
        PurSAMERE(score(), rho=3)
