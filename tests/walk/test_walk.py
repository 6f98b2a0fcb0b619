"""Looks at purifications on their way: what was judged is what is seen, and the numbers are those of a plain loop."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest

from lit_pursamere.attacks import PGD
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import SeededNoise, expected_reconstruction_error
from lit_pursamere.evaluation.evaluation import Evaluation
from lit_pursamere.evaluation.recording import RecordedEvaluation
from lit_pursamere.progress import Progress
from lit_pursamere.purifiers import COUP, DP_DDPM, MALADE, Identity, PurSAMERE
from lit_pursamere.store import Records
from lit_pursamere.store.images import ImageStore
from lit_pursamere.threat import ThreatModel
from lit_pursamere.walk import Confidence, ReconstructionErrors, Strips, read_kept
from lit_pursamere.walk.confidence import confidence_figure, confidences
from lit_pursamere.walk.errors import signed_rank
from lit_pursamere.walk.kept import Kept
from lit_pursamere.walk.strips import reading

ATTACKS = {f"PGD {eps}": PGD(ThreatModel("linf", eps), "exact", 3) for eps in (0.1, 0.3)}


@pytest.fixture
def keep(images, linear_classifier, tmp_path):
    """Attack a defence as `test` does, keep the images, and read them again."""

    def kept(purifier, attacks=ATTACKS, surrogate=None) -> Kept:
        defense = Defense(purifier, linear_classifier, surrogate=surrogate)
        y = linear_classifier(images).argmax(1)
        y[::3] = (y[::3] + 1) % 3  # so that some are wrong
        manifest = {"images": {"shape": [2, 2, 2]}, "systems": {"it": ""}, "attacks": {name: {} for name in attacks}}
        with Records(tmp_path / "run", manifest) as records:
            evaluation = Evaluation({"it": defense}, dict(attacks), "", 4, 1, 3)
            bar, store = Progress("test", "row", 8, hidden=True), ImageStore(tmp_path / "run")
            recorded = RecordedEvaluation(evaluation, records, bar, store)
            index = torch.arange(8) * 10
            batches = list(zip(images.split(4), y.split(4), index.split(4), strict=True))
            for name in ("clean", *attacks):
                list(recorded.complete("it", name, batches))
        more = {"data": "a set", "class_names": "abc", "batch": 4, "seed": 3, "dtype": torch.float64}
        return read_kept(tmp_path / "run", "it", defense, attacks, **more)

    return kept


@pytest.fixture
def rows(tmp_path):
    """The rows of the test, by attack and position."""

    def read() -> dict:
        lines = (tmp_path / "run/records-0.jsonl").read_text().splitlines()
        return {(row["attack"], row["index"]): row for row in map(json.loads, lines)}

    return read


def test_the_walk_that_is_seen_is_the_one_that_was_judged(mixture, keep, rows):
    """Also of a purifier with fresh noise: where the walk ends, prediction and distance are those of the records."""
    kept, found = keep(DP_DDPM(mixture, steps=100)), rows()
    for attack in ("clean", *ATTACKS):
        states = kept.walk("DP_DDPM", attack, lambda k, state: state)
        assert len(states) == 12 and torch.equal(states[0], kept.images[attack])
        ends = kept.probabilities("DP_DDPM", attack)[-1].argmax(1).tolist()
        moved = (states[-1] - states[0]).flatten(1).norm(dim=1).tolist()
        for position, end, distance in zip(kept.index.tolist(), ends, moved, strict=True):
            assert end == found[attack, position]["prediction_last"]
            assert distance == pytest.approx(found[attack, position]["moved"], rel=1e-5)


def test_a_test_that_is_not_complete_is_refused(mixture, keep, tmp_path):
    kept = keep(MALADE(mixture, steps=2))
    file = tmp_path / "run/records-0.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"is not complete: PGD 0\.3 lack images"):
        read_kept(tmp_path / "run", "it", kept.defense, ATTACKS)


def test_confidences_are_those_of_a_plain_loop(mixture, keep, linear_classifier, tmp_path):
    """COUP as in its paper: the attack looks at the unguided one; where that ends is the adversarial class."""
    guided, bare = (COUP(mixture, lam=lam, dt=0.02, stochastic=False) for lam in (1.0, 0.0))
    attacks = {"PGD": replace(ATTACKS["PGD 0.3"], view="surrogate")}
    kept = keep(guided, attacks, bare)
    assert list(kept.purifiers) == ["COUP lam=1", "COUP lam=0"] and kept.attacked("PGD") == "COUP lam=0"
    curves = confidences(kept, "PGD")
    x, y, each = kept.images["PGD"], kept.y, torch.arange(8)
    ends = {name: linear_classifier(one(x)).softmax(1) for name, one in kept.purifiers.items()}
    wrong = ends["COUP lam=0"].clone()
    wrong[each, y] = 0
    for name, end in ends.items():
        curve = curves[name, "PGD"]
        assert curve.true.shape == (1 + 5, 8)
        torch.testing.assert_close(curve.true[0], linear_classifier(x).softmax(1)[each, y])
        torch.testing.assert_close(curve.true[-1], end[each, y])
        torch.testing.assert_close(curve.adversarial[-1], end[each, wrong.argmax(1)])
        assert torch.equal(curve.right, end.argmax(1) == y)
    answer = Confidence().run(kept, tmp_path)
    assert "COUP lam=0" in answer.text and "p(true) at the end under PGD" in answer.headline
    told = json.loads((tmp_path / "confidence.json").read_text())
    mean = told["curves"]["COUP lam=0, PGD"]["adversarial"][-1][0]
    assert mean == pytest.approx(float(curves["COUP lam=0", "PGD"].adversarial[-1].mean()), rel=1e-5)
    assert told["n"] == 8 and (tmp_path / "confidence.png").stat().st_size > 10_000
    assert len(confidence_figure(curves, "").axes) == 2


def test_broken_images_are_those_on_which_the_attacked_purifier_ends_wrong(mixture, keep, rows):
    kept, found = keep(MALADE(mixture, steps=2)), rows()
    attack, some = Confidence(attack="PGD 0.3", broken=True).chosen(kept)
    wrong = [i for i in kept.index.tolist() if found[attack, i]["prediction_last"] != found[attack, i]["label"]]
    assert 0 < len(wrong) < 8 and some.index.tolist() == wrong and len(some.images["clean"]) == len(wrong)
    with pytest.raises(ValueError, match=r"needs at least 8 images that PGD 0\.3 breaks; there are"):
        Strips(attack="PGD 0.3", broken=True, count=8).chosen(kept, 8)


def test_strips_show_states_and_what_the_classifier_says(mixture, keep, linear_classifier, tmp_path):
    kept = keep(MALADE(mixture, steps=4))
    strips = Strips(count=2, steps=(1, 3, 25))
    strip = strips.strip(kept, 1, "PGD 0.3", "MALADE")
    assert list(strip.pictures) == ["clean", "attacked", "step 1", "step 3", "purified"]
    one = MALADE(mixture, steps=1, delta=0)
    x = kept.images["PGD 0.3"][1:2]
    assert torch.equal(keep(one).walk("MALADE", "PGD 0.3", lambda k, s: s)[1], one(kept.images["PGD 0.3"]))
    torch.testing.assert_close(strip.pictures["attacked"], x[0].float())
    torch.testing.assert_close(strip.probabilities["clean"], linear_classifier(kept.images["clean"][1:2]).softmax(1)[0])
    assert reading(torch.tensor([0.2, 0.1, 0.7]), 0, "abc") == "a 0.20, c 0.70"
    with pytest.raises(ValueError, match="26 strips do not fit on a page of 24"):
        Strips(count=13).run(Kept(**{**vars(kept), **vars(kept.only(torch.arange(16) % 8))}), tmp_path)


def test_errors_are_r_of_the_same_draws_for_all_images(mixture, keep, tmp_path):
    kept = keep(PurSAMERE(mixture, 0.5, 0.0, sigmas=[0.4, 0.2]))
    asked = ReconstructionErrors(attack="PGD 0.3", draws=3)
    answer = asked.run(kept, tmp_path)
    told = json.loads((tmp_path / "reconstruction-errors.json").read_text())
    rows = {(row["sigma"], row["pair"]): row for row in told["levels"]}
    assert {sigma for sigma, _ in rows} == {0.4, 0.2} and len(rows) == 2 * len(asked.pairs)
    clean, attacked = kept.images["clean"], kept.images["PGD 0.3"]
    xi = SeededNoise(1).draw("level", 2, 3, clean)
    r = [expected_reconstruction_error(mixture, x, 0.2, xi) for x in (attacked, clean)]
    row = rows[0.2, "attacked, clean"]
    assert [row["first"][0], row["second"][0]] == pytest.approx([float(one.mean()) for one in r], rel=1e-5)
    larger = int((r[0] > r[1]).sum())
    interval = binomtest(larger, 8).proportion_ci(method="wilson")
    assert row["larger"] == larger and row["wilson"] == pytest.approx([interval.low, interval.high])
    assert row["p"] == pytest.approx(signed_rank(*r)) and f"{row['p']:.1e}" in answer.text
    purified = kept.defense.purifier(attacked)
    row = rows[0.2, "attacked, purified"]
    assert row["second"][0] == pytest.approx(float(expected_reconstruction_error(mixture, purified, 0.2, xi).mean()))


def test_the_signed_ranks_of_pairs_that_one_can_count():
    """All five differences of one sign: 2 of 2^5 assignments of signs are as extreme."""
    first = torch.tensor([1.0, 2, 3, 4, 5])
    assert signed_rank(first, torch.zeros(5)) == pytest.approx(2 / 2**5)
    assert signed_rank(first, first) == 1


def test_what_has_no_levels_or_no_score_model_is_told_in_a_line(mixture, keep, tmp_path):
    with pytest.raises(ValueError, match=r"MALADE has no noise levels; name some with --walk\.sigmas"):
        ReconstructionErrors().run(keep(MALADE(mixture, steps=1)), tmp_path)
    kept = keep(Identity())
    with pytest.raises(ValueError, match="Identity has no score model"):
        ReconstructionErrors(sigmas=[0.1]).run(kept, tmp_path)
    with pytest.raises(ValueError, match="no attack 'PDG'"):
        Confidence(attack="PDG").run(kept, tmp_path)
    with pytest.raises(ValueError, match="steps of at least 1"):
        Strips(steps=(0, 1))
    with pytest.raises(ValueError, match="draws >= 1; got 0"):
        ReconstructionErrors(draws=0)
