"""Sweeps of a comparison: a row for every combination of values, each an ordinary `test`; mistakes are told before."""

from __future__ import annotations

import pytest
import yaml

from lit_pursamere.cli.plan import read_plan

MALADE = {"class_path": "MALADE"}
ATTACK = {"class_path": "PGD", "init_args": {"threat": {"norm": "linf", "eps": 0.1}, "eot": 2}}
TASK = {"class_path": "lit_pursamere.tasks.LitRobustness", "init_args": {"attacks": {"A": ATTACK, "B": ATTACK}}}


@pytest.fixture
def plan(tmp_path):
    """Read a comparison of these purifiers and this sweep."""

    def read(purifiers, sweep=None):
        content = {"output": "out", "test": {"model": TASK, "data": "Digits"}, "purifiers": purifiers}
        file = tmp_path / "comparison.yaml"
        file.write_text(yaml.safe_dump(content | ({} if sweep is None else {"sweep": sweep}), sort_keys=False))
        return read_plan(file)

    return read


def test_rows_are_all_combinations_and_say_their_values(plan):
    found = plan({"X": MALADE}, {"model.purifier.steps": [1, 5], "model.purifier.alpha": [0.1, 0.2]})
    assert [*found.purifiers] == [f"X steps={steps} alpha={alpha}" for steps in (1, 5) for alpha in (0.1, 0.2)]
    assert found.arguments("X steps=5 alpha=0.1")[2:] == [
        "--model.undefended=false", "--model.output=out/X steps=5 alpha=0.1",
        '--model.purifier={"class_path": "MALADE"}', "--model.purifier.steps=5", "--model.purifier.alpha=0.1",
    ]  # fmt: skip


def test_a_named_axis_sets_several_options_at_once(plan):
    points = {"few": {"model.purifier.steps": 1, "model.evaluations": 1}, "many": {"model.purifier.steps": 9}}
    found = plan({"X": MALADE}, {"N": points})
    assert {row: place.options for row, place in found.places.items()} == {
        "X N=few": points["few"], "X N=many": points["many"],
    }  # fmt: skip


def test_a_sweep_of_an_entry_stands_in_the_place_of_the_files(plan):
    own = {"model.purifier": MALADE, "sweep": {"seed_everything": [0, 1]}}
    found = plan({"X": MALADE, "Y": own, "Z": own | {"sweep": {}}}, {"model.purifier.steps": [1]})
    assert [*found.purifiers] == ["X steps=1", "Y seed_everything=0", "Y seed_everything=1", "Z"]
    assert "Z" not in found.places and found.purifiers["Z"] == {"model.purifier": MALADE}


def test_options_that_end_alike_are_told_apart(plan):
    found = plan({"X": MALADE}, {"model.attacks.A.eot": [1], "model.attacks.B.eot": [4], "model.evaluations": [2]})
    assert [*found.purifiers] == ["X A.eot=1 B.eot=4 evaluations=2"]


def test_what_is_swept_stays_when_an_attack_is_replaced(plan):
    found = plan({"X": MALADE}, {"model.attacks.A.eot": [1, 4]})
    assert found.arguments("X eot=4", ["--model.attacks.A=a.yaml"])[-2:] == [
        "--model.attacks.A=a.yaml", "--model.attacks.A.eot=4",
    ]  # fmt: skip
    assert "model.attacks.A.eot" in found.own


def test_the_name_of_an_entry_means_all_its_rows(plan):
    found = plan({"X": MALADE, "Y": MALADE}, {"model.purifier.steps": [1, 2]})
    assert found.choose(["Y", "X steps=2"]) == ["X steps=2", "Y steps=1", "Y steps=2"]
    with pytest.raises(ValueError, match="no purifier 'Z'"):
        found.choose(["Z"])


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ([1], r"^sweep in .* must be a mapping"),
        ({"model.purifier.steps": 3}, "must be a list of values, or options of `test` by value; got 3"),
        ({"model.purifier.steps": []}, r"sweep.model.purifier.steps in .* names no value"),
        ({"model.purifier.steps": [1, 1]}, "a value stands there twice"),
        ({"model.purifier.sigmas": [[1, 2]]}, "cannot be part of a row's name; write NAME"),
        ({"model.purifier": ["COUP"]}, "name every purifier under `purifiers`"),
        ({"model.output": ["a"]}, "model.output is given by the comparison itself"),
        ({"purifier.steps": [1]}, "options of `test` begin with"),
        ({"model.attacks.C.eot": [1]}, "is about no attack of `test`, which has A, B"),
        ({"N": {"few": 3}}, "must be a mapping"),
        ({"N": {"few": {"steps": 3}}}, "options of `test` begin with"),
        ({"model.threat.eps": ["8/255"]}, "cannot be part of a row's name"),
        ({"model.purifier.alpha": ["*"]}, "a name is a folder's"),
        ({"model.purifier.alpha": [0.1]}, "model.purifier.alpha is told twice"),
    ],
)
def test_mistakes_name_the_place_and_the_mend(sweep, message, plan):
    with pytest.raises(ValueError, match=message):
        plan({"X": {"model.purifier": MALADE, "model.purifier.alpha": 0.3}}, sweep)


def test_a_row_that_has_the_name_of_another_entry_is_refused(plan):
    with pytest.raises(ValueError, match=r"X steps=1 in .* stands there twice"):
        plan({"X steps=1": {"model.purifier": MALADE, "sweep": {}}, "X": MALADE}, {"model.purifier.steps": [1]})
