"""Whatever a part of a configuration refuses, its constructor's own sentence is what is read, and nothing around it."""

import pytest

from lit_pursamere.configuration.building import build
from lit_pursamere.configuration.composition import part_of
from lit_pursamere.diffusion import NCSNv2Score, ScoreModel
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purifiers.base import Recipe, complete

RADIUS = r"PurSAMERE needs radii of at least 0; got rho_pur=-1\.0, rho_sam=1\.5"
LEVELS = "NoiseLevels needs a count from 1 to 1,000,000 and stride >= 1; got 0, 1"
OWN = {"class_path": "lit_pursamere.diffusion.NCSNv2Score", "init_args": {"ngf": 2, "channels": 1, "image_size": 8}}


def score_model(**changed):
    return {**OWN, "init_args": {**OWN["init_args"], **changed}}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rho_pur": -1}, ValueError, RADIUS),
        ({"rho_pur": -1, "score_model": OWN}, ValueError, RADIUS),
        ({"sigmas": {"count": 0}}, ValueError, LEVELS),
        ({"sigmas": {"count": 0}, "score_model": OWN}, ValueError, LEVELS),
        ({"score_model": score_model(ngf=0)}, ValueError, "NCSNv2 needs ngf >= 2 .* got ngf=0, channels=1"),
        ({"score_model": score_model(checkpoint="no.pt")}, FileNotFoundError, r"no weight file at no\.pt .*"),
    ],
)  # fmt: skip
def test_what_a_constructor_says_is_all_that_is_said(settings, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        complete(
            build(Purifier | Recipe, {"class_path": "PurSAMERE", "init_args": settings}),
            NCSNv2Score(ngf=2, channels=1, image_size=8),
        )


def test_a_score_model_of_its_own_is_built():
    made = complete(build(Purifier | Recipe, {"class_path": "PurSAMERE", "init_args": {"score_model": OWN}}))
    assert isinstance(made.score_model, ScoreModel)


@pytest.mark.parametrize(
    ("word", "path", "message"),
    [
        ("pursamre_small", ["purifier"], r"^no purifier is called pursamre_small; did you mean pursamere_small\?$"),
        ("digts", ["model", "score_model"], r"^no score model is called digts; did you mean digits\?$"),
        ("nothing", ["attacks", "mine"], "^no attack is called nothing; known: .*pgd20_bpda"),
    ],
)
def test_a_word_that_names_nothing_is_told_with_what_was_meant(word, path, message):
    with pytest.raises(ValueError, match=message):
        part_of(word, path)
