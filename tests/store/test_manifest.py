"""Settings as JSON values: everything that was chosen, nothing that changes from process to process."""

from __future__ import annotations

import copy
import inspect
import json

import pytest

import lit_pursamere.purifiers as purifiers
from lit_pursamere.diffusion import GaussianMixtureScore, NCSNv2Score
from lit_pursamere.purifiers import COUP, Purifier, PurSAMERE
from lit_pursamere.store.manifest import (
    check_manifest,
    differences,
    differing,
    digest_of,
    read_manifest,
    settings_of,
    write_manifest,
)

CLASSES = [
    kind for name in purifiers.__all__
    if inspect.isclass(kind := getattr(purifiers, name)) and issubclass(kind, Purifier) and not inspect.isabstract(kind)
]  # fmt: skip


def score(width: int) -> NCSNv2Score:
    return NCSNv2Score(ngf=width, channels=1, image_size=8)


def build(kind: type[Purifier]) -> Purifier:
    model = score(4)
    asked = inspect.signature(kind.__init__).parameters.values()
    needs = [p.name for p in list(asked)[1:] if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return kind(*(model for _ in needs))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_settings_of_every_purifier_are_json_that_says_nothing_of_the_process(kind):
    purifier = build(kind)
    settings = settings_of(purifier)
    assert settings["class"] == kind.__name__
    assert settings == json.loads(json.dumps(settings)) == settings_of(copy.deepcopy(purifier))
    assert " at 0x" not in json.dumps(settings)


def test_every_setting_counts():
    def of(**options) -> dict:
        return settings_of(PurSAMERE(GaussianMixtureScore([[[[0.5]]]]), **options))

    levels = [1 - 0.01 * k for k in range(20)]
    plain = of(sigmas=levels)
    assert plain["sigmas"].startswith("20 values, 1.0 to 0.81, sha256 ")
    others = [{"lr_max": 0.2}, {"lr_schedule": "as_printed"}, {"seed": 1}, {"draws": 3}]
    inner = [*levels[:7], 0.9301, *levels[8:]]
    found = [of(sigmas=levels, **options) for options in others] + [of(sigmas=inner), plain | {"noise": "fresh"}]
    assert len({digest_of(settings) for settings in [plain, *found]}) == 7
    told = settings_of(PurSAMERE(score(4)))["score_model"]
    assert told.keys() == {"class", "network"} and told["network"]["class"] == "NCSNv2"
    assert told["network"] == settings_of(PurSAMERE(score(4)))["score_model"]["network"]
    assert told["network"] != settings_of(PurSAMERE(score(8)))["score_model"]["network"]


def test_modules_that_a_purifier_needs_are_part_of_it():
    assert settings_of(COUP(score(4), score(4)))["classifier"]["class"] == "NCSNv2Score"


def test_another_format_is_one_clear_line(tmp_path):
    write_manifest(tmp_path, {"a": 1})
    assert read_manifest(tmp_path) == {"a": 1} and check_manifest(tmp_path, {"a": 1})
    for content, found in (({"a": 1}, "1"), ({"manifest_format": 2, "a": 1}, "2")):
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(
            ValueError, match=f"holds results in format {found}, and this version reads and writes format 3"
        ):
            check_manifest(tmp_path, {"a": 1})
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="is damaged"):
        read_manifest(tmp_path)


def test_differences_are_named_by_their_path():
    there, now = {"a": {"b": 1, "c": 2}, "d": 3, "g": 0}, {"a": {"b": 1, "c": 4}, "e": {"f": 5}, "g": 0}
    assert differences(there, now) == "a.c: there 2, now 4; d: there 3, now None; e: there None, now {'f': 5}"
    assert differing(there, there, now)["a.c"] == [2, 2, 4]
    assert differing(there, there) == differing() == {}


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("attacks", [1]), ("systems", "x"), ("defenses", 1), ("slots", 0), ("part", "two"), ("part", -1),
        ("evaluations", 1.5), ("images", 5), ("images", {"count": "5"}), ("images", {"count": -1}),
        ("images", {"count": 10**12}), ("images", {"shape": "8x8"}), ("images", {"shape": []}),
        ("images", {"shape": [1, 10**9, 10**9]}), ("attacks", {"PGD": "strong"}), ("attacks", {"PGD": {"steps": "20"}}),
        ("attacks", {"PGD": {"threat": [1]}}), ("attacks", {"PGD": {"threat": {"eps": "8/255"}}}),
        ("systems", {"P": 1}), ("defenses", {"P": {"purifier": "PurSAMERE"}}), ("weights", {"P": 5}), ("weights", 5),
        ("source", {"count": "4"}), ("source", {"means": [0.5, "x"]}), ("purifier", "PurSAMERE"), ("data", 1),
        ("threshold", "high"), ("threshold", 1e999), ("split", 1), ("dtype", []),
    ],
)  # fmt: skip
def test_an_entry_of_another_kind_is_named(entry, value, tmp_path):
    write_manifest(tmp_path, {entry: value})
    with pytest.raises(ValueError, match=rf"manifest\.json is damaged \({entry}: "):
        read_manifest(tmp_path)


def test_what_differs_is_short_however_much_differs(tmp_path):
    there, now = ({name: {"class": name * 300} for name in "abcdefghij"[end:]} for end in (0, 1))
    now |= {name: {"class": "x" * 300} for name in now}
    told = differences(there, now)
    assert told.startswith("a: there {'class': 'aaa") and told.endswith("and 4 more") and len(told) < 1500


def test_what_nobody_could_read_to_its_end_is_damaged(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is damaged"):
        read_manifest(tmp_path)
