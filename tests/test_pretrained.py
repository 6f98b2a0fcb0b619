"""Score models, classifiers and purifiers by name, from Python."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

import lit_pursamere
from lit_pursamere import load_classifier, load_purifier, load_score_model
from lit_pursamere.diffusion import AutoencoderScore, EDMScore, NCSNv2Score
from lit_pursamere.purifiers import ADP, COUP, PurSAMERE
from lit_pursamere.weights import read_weights
from lit_pursamere.weights.registry import entries

SHIPPED = {kind: [one.name for one in entries().values() if one.shipped and one.kind == kind]
           for kind in ("score model", "classifier")}  # fmt: skip
SHAPES = {"digits": (1, 8), "mnist": (1, 28), "fashion_mnist": (1, 28), "cifar10": (3, 32)}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder without a checkout, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_PURSAMERE_CACHE", str(tmp_path / "cache"))


def images(name):
    channels, size = SHAPES[name.partition("/")[0]]
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SHIPPED["score model"])
def test_shipped_score_models(name):
    score, x = load_score_model(name), images(name)
    assert not any(module.training for module in score.modules())
    held = {key.rpartition("network.")[2]: tensor.float() for key, tensor in read_weights(name).items()}
    assert all(torch.equal(held[key], tensor) for key, tensor in score.network.named_parameters())
    sigma = score.sigma2**0.5 if isinstance(score, AutoencoderScore) else 0.1
    with torch.no_grad():
        assert score(x, sigma).shape == x.shape


@pytest.mark.parametrize("name", SHIPPED["classifier"])
def test_shipped_classifiers(name):
    classifier = load_classifier(name)
    assert not any(module.training for module in classifier.modules())
    assert classifier(images(name)).shape == (2, 10)


def test_purifiers():
    purify = load_purifier("pursamere_digits")
    assert isinstance(purify, PurSAMERE) and (purify.rho_pur, purify.knowledge) == (1.5, "fixed")
    assert isinstance(purify.score_model, NCSNv2Score)
    assert isinstance(load_purifier("malade_digits").score_model, AutoencoderScore)
    assert load_purifier("identity").settings["class"] == "Identity"


def test_purifiers_with_other_parts_and_settings():
    purify = load_purifier("pursamere", "cifar10/edm-small", rho_pur=1.0, sigmas={"sigma_max": 1.0, "count": 3})
    assert isinstance(purify.score_model, EDMScore) and (purify.rho_pur, len(purify.sigmas)) == (1.0, 3)
    score = load_score_model("digits/ncsnv2")
    adp = load_purifier("adp", score, noise="fixed")
    assert isinstance(adp, ADP) and adp.score_model is score and adp.knowledge == "fixed"
    coup = load_purifier("coup", "digits/ncsnv2", "digits/wrn-10-2-pairs")
    assert isinstance(coup, COUP) and coup.classifier is not None


@pytest.mark.parametrize(
    "load, name, error, told",
    [
        (load_score_model, "cifar10/edm", FileNotFoundError, "lit-pursamere weights get cifar10/edm downloads them"),
        (load_purifier, "pursamere", FileNotFoundError, "lit-pursamere weights get cifar10/ncsnv2 --file FILE"),
        (load_score_model, "cifar10/edn", ValueError, r"did you mean cifar10/edm\?"),
        (load_score_model, "cifar10/standard", ValueError, r"is a classifier: load_classifier\('cifar10/standard'\)"),
        (load_classifier, "cifar10/edm-small", ValueError, "is a score model: load_score_model"),
        (load_purifier, "malade", ValueError, "MALADE needs a score model"),
        (load_purifier, "pursamer", ValueError, "no purifier is called 'pursamer'; known: adbm, .*pursamere"),
    ],
)
def test_what_cannot_be_loaded(load, name, error, told):
    with pytest.raises(error, match=told):
        load(name)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"rho": 1.0}, "'rho' is not accepted"),
        ({"rho_pur": "x"}, "rho_pur"),
        ({"rho_pur": -1}, "at least 0; got rho_pur=-1"),
    ],
)
def test_settings_that_are_refused_are_one_line(settings, told):
    with pytest.raises(ValueError, match=told) as caught:
        load_purifier("pursamere_digits", **settings)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_the_python_of_the_page_about_weights_runs(repository_root):
    (code,) = re.findall(r"```python\n(.*?)```", (repository_root / "docs/weights.md").read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    assert isinstance(names["score"], EDMScore) and names["purify"].rho_pur == 3.0


def test_the_top_of_the_package_is_light():
    """Names are there, and torch comes only with them."""
    code = "import sys, lit_pursamere; dir(lit_pursamere); print('torch' in sys.modules, 'yaml' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False False\n"
    assert {"load_classifier", "load_purifier", "load_score_model", "__version__"} <= set(dir(lit_pursamere))
    with pytest.raises(AttributeError, match="module 'lit_pursamere' has no attribute 'load_attack'"):
        lit_pursamere.load_attack  # noqa: B018
