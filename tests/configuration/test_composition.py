"""One configuration out of files and options: what is given as a whole replaces, everything else changes."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path

import pytest
import yaml

from lit_pursamere import attacks as attacks_of_package
from lit_pursamere.cli.main import main
from lit_pursamere.configuration.composition import compose, overlay, read_yaml
from lit_pursamere.threat import ThreatModel

ROOT = Path(__file__).resolve().parents[2]
TEST = "configs/cifar10/tables_1_2.yaml"
PROTOCOLS, PURIFIERS, CLASSIFIERS = (
    sorted((ROOT / "configs" / kind).glob("*.yaml")) for kind in ("protocol", "purifier", "classifier")
)
PAIRS = list(product(PROTOCOLS, PURIFIERS))


@pytest.fixture(autouse=True)
def repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def composed(*args: str) -> dict:
    verb, config, *rest = compose(["test", f"--config={TEST}", *args])
    assert verb == "test" and rest == []
    return json.loads(config.removeprefix("--config="))


def settings(*args: str) -> dict:
    """The settings of the task."""
    return composed(*args)["model"]["init_args"]


CLASS = "lit_pursamere.networks.WideResNet"
OTHER = {"class_path": CLASS, "init_args": {"depth": 28, "width": 10}}


@pytest.mark.parametrize("how", ["option", "file", "overlay", "word"])
def test_a_classifier_on_a_classifier_leaves_nothing_of_it(how, tmp_path):
    """RobustBench's network takes pixels as they are: neither normalisation nor dropout may be inherited."""
    before = settings()["classifier"]
    assert before["init_args"]["network"]["init_args"].keys() > OTHER["init_args"].keys()
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(OTHER))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"classifier": OTHER}}}))
    args = {
        "option": f"--model.classifier={json.dumps(OTHER)}",
        "file": f"--model.classifier={tmp_path}/net.yaml",
        "overlay": f"--config={tmp_path}/test.yaml",
        "word": f"--model.classifier={CLASS}",
    }
    assert settings(args[how])["classifier"] == (CLASS if how == "word" else OTHER)


@pytest.mark.parametrize("first, last", product(CLASSIFIERS, repeat=2), ids=lambda path: path.stem)
def test_of_two_classifiers_the_last_one_is_meant(first, last):
    assert settings(f"--model.classifier={first}", f"--model.classifier={last}")["classifier"] == read_yaml(last)


def test_a_dotted_option_changes_one_setting():
    before = settings()
    now = settings("--model.score_model.ngf", "8", "--model.threat.eps=1/255", "--model.classifier.network.depth=10")
    for setting, value in (
        (lambda task: task["score_model"]["init_args"], {"ngf": "8"}),
        (lambda task: task["threat"], {"eps": "1/255"}),
        (lambda task: task["classifier"]["init_args"]["network"]["init_args"], {"depth": "10"}),
    ):
        assert setting(now).items() >= value.items()
        setting(before).update(value)
    assert now == before


def test_a_name_takes_options_of_its_own():
    assert settings("--model.purifier=ADP", "--model.purifier.steps=3")["purifier"] == {
        "class_path": "ADP",
        "init_args": {"steps": "3"},
    }


def test_a_class_may_be_changed_alone():
    before, now = composed(), composed("--model.class_path=mine.Robustness", "--data", "NPZ")
    assert now["model"] == {"class_path": "mine.Robustness", "init_args": before["model"]["init_args"]}
    assert now["data"] == "NPZ", "a name, as a whole, replaces"


@pytest.mark.parametrize("key, names", [("attacks", ["mine"]), ("attacks+", ["gPGD20", "BPDA20-det", "mine"])])
def test_attacks_of_an_overlay_replace_or_add(key, names, tmp_path):
    attack = {"class_path": "PGD", "init_args": {"threat": {"norm": "linf", "eps": 0.1}}}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"model": {"init_args": {key: {"mine": attack}}}}))
    assert list(settings(f"--config={tmp_path}/more.yaml")["attacks"]) == names
    assert list(settings(f"--model.{key}={json.dumps({'mine': attack})}")["attacks"]) == names


def test_what_is_added_has_names():
    with pytest.raises(ValueError, match=r"attacks\+ takes a mapping, name by name, of what is added; got 'PGD'"):
        settings("--model.attacks+=PGD")


def test_nothing_is_nothing_wherever_it_stands():
    network = "--model.classifier.network"
    found = settings(f"{network}.mean", "null", f'{network}.init_args={{"std": null}}')["classifier"]["init_args"]
    assert found["network"]["init_args"]["mean"] is None and found["network"]["init_args"]["std"] is None


def test_a_new_attack_may_be_a_file(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["test", "--config", TEST, "--model.attacks.New", "configs/attack/bpda200_l2.yaml", "--print_config"])
    assert exit_.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert list(printed["attacks"]) == ["gPGD20", "BPDA20-det", "New"]
    assert printed["attacks"]["New"]["init_args"]["threat"]["norm"] == "l2"


@pytest.mark.parametrize(
    "protocol, purifier",
    [pair if i % 13 == 0 else pytest.param(*pair, marks=pytest.mark.slow) for i, pair in enumerate(PAIRS)],
    ids=lambda path: path.stem,
)
def test_a_protocol_and_a_purifier_meet_in_either_order(protocol, purifier):
    """The purifier is the file's, nothing of the one before is left, and what attackers know stays the protocol's."""
    options = f"--config={protocol}", f"--model.purifier={purifier}"
    one, other = composed(*options), composed(*options[::-1])
    assert one == other
    assert one["model"]["init_args"]["purifier"] == read_yaml(purifier)
    stated = yaml.safe_load(protocol.read_text())["model"]["init_args"]
    assert one["model"]["init_args"].get("noise") == stated.get("noise")


@pytest.mark.parametrize("name", ["coup-aa-l2", "fixed-aa-l2", "liu-l2", "leekim-l2", "adbm-l2"])
def test_no_order_of_options_takes_its_budget_from_a_protocol_in_l2(name):
    """Its attacks name their own, so that the threat model of the experiment or of an option is not theirs."""
    protocol = ROOT / f"configs/protocol/{name}.yaml"
    options = f"--config={protocol}", "--model.threat={norm: linf, eps: 8/255}", "--model.purifier=coup"
    for order in permutations(options):
        attacks = composed(*order)["model"]["init_args"]["attacks"]
        assert attacks == read_yaml(protocol)["model"]["init_args"]["attacks"]
        assert all(attack["init_args"]["threat"]["norm"] == "l2" for attack in attacks.values())
    for attack in attacks.values():
        kind = getattr(attacks_of_package, attack["class_path"].rpartition(".")[2])
        own = kind(threat=ThreatModel("l2", 0.5))
        assert own.within(ThreatModel("linf", 8 / 255)).threat.norm == "l2"


def test_overlays_are_associative_and_change_nothing_that_they_are_given():
    a = {"x": {"class_path": "A", "init_args": {"p": 1, "q": {"r": 1}}}, "attacks": {"one": 1}, "l": [1]}
    b = {"x": {"init_args": {"q": {"s": 2}}}, "attacks+": {"two": 2}}
    c = {"x": {"class_path": "B"}, "l": [2]}
    copies = [json.dumps(value) for value in (a, b, c)]
    assert overlay(a, b) == {
        "x": {"class_path": "A", "init_args": {"p": 1, "q": {"r": 1, "s": 2}}},
        "attacks": {"one": 1, "two": 2},
        "l": [1],
    }
    assert overlay(overlay(a, b), c)["x"] == {"class_path": "B"} and overlay(overlay(a, b), c)["l"] == [2]
    assert [json.dumps(value) for value in (a, b, c)] == copies


def test_files_name_others_relative_to_themselves_and_mistakes_name_both(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.yaml").write_text("part: deep/b.yaml\nrate: 1e-3\n")
    (tmp_path / "deep/b.yaml").write_text("other: ../c.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"no file .*deep/\.\./c\.yaml, which .*deep/b\.yaml names"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("value: 3\n")
    assert read_yaml(tmp_path / "a.yaml") == {"part": {"other": {"value": 3}}, "rate": 0.001}
    (tmp_path / "c.yaml").write_text("back: a.yaml\n")
    with pytest.raises(ValueError, match=r"a\.yaml names itself, by way of .*b\.yaml"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("value: [1\n")
    with pytest.raises(ValueError, match=r"c\.yaml is no YAML"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(ValueError, match="--config lacks its value"):
        compose(["test", "--config"])


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))]),
        "a: &a [*a]",
        "[" * 100_000,
        "a: " + "{a: " * 5_000 + "1" + "}" * 5_000,
    ],
    ids=["aliases", "circle", "open", "deep"],
)
def test_little_text_that_stands_for_very_much_is_refused(text, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"a\.yaml is no YAML: .*(entries|deeply)"):
        read_yaml(tmp_path / "a.yaml")


def test_ordinary_aliases_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: *a\nc: [*a, *a]")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 1}]}


def test_what_is_not_of_model_or_data_is_left_to_the_parser():
    args = ["test", "--trainer.devices=2", "--print_config", "--trainer.logger", "false"]
    assert compose(args) == args
    assert compose(["test", "--help"]) == ["test", "--help"]


@pytest.mark.parametrize("last", ["file", "option"])
def test_whatever_comes_later_wins_for_the_trainer_too(last, tmp_path):
    (tmp_path / "more.yaml").write_text("seed_everything: 7\ntrainer: {devices: 3}\n")
    options = ["--trainer.devices", "2", "--seed_everything=5", "--trainer.max_epochs", "4"]
    file = [f"--config={tmp_path}/more.yaml"]
    verb, config, *rest = compose(["fit", *(options + file if last == "file" else file + options)])
    assert verb == "fit" and json.loads(config.removeprefix("--config=")) == {
        "seed_everything": 7,
        "trainer": {"devices": 3},
    }
    assert rest == (options[3:] if last == "file" else options)


def test_a_value_that_is_no_yaml_is_named():
    with pytest.raises(ValueError, match=r"^\{depth: \[28\} is no YAML"):
        compose(["test", "--model.classifier", "{depth: [28}"])


@pytest.mark.parametrize(
    "text, message",
    [
        (b"a: 1\nb: 2\na: 3\n", "line 3: two entries 'a' in one mapping, the first in line 1"),
        (b"x:\n  PGD: {y: 1}\n  PGD: {y: 2}\n", "line 3: two entries 'PGD' in one mapping, the first in line 2"),
        (b"attacks:\n  on: 1\n", "line 2: the key on is no word to YAML; put it in quotes: 'on'"),
        (b"attacks:\n  8: 1\n", "line 2: the key 8 is no word"),
        (b"attacks: {0.15: 1}\n", "line 1: the key 0.15 is no word"),
        (b"? [a, b]\n: 1\n", "line 1: a key is a list or a mapping"),
        (b"~: 1\n", "line 1: the key ~ is no word"),
        (b"a:\n\tb: 1\n", "line 2: found a tab that cannot start any token; indent with spaces"),
        ("a: 1\n".encode("utf-16"), "no text in UTF-8, see its byte 0; save it as UTF-8"),
        ("a: ä\n".encode("latin-1"), "no text in UTF-8, see its byte 3"),
        (b"a: \x00\n", "special characters are not allowed"),
        (b"a: [1\n", "line 2: expected ',' or ']'"),
        (b"[" * 5000, "is no YAML"),
    ],
)  # fmt: skip
def test_what_yaml_reads_otherwise_than_written_is_named_with_file_and_line(text, message, tmp_path):
    (tmp_path / "deep.yaml").write_bytes(text)
    (tmp_path / "top.yaml").write_text("part: deep.yaml\n")
    with pytest.raises(ValueError) as error:
        read_yaml(tmp_path / "top.yaml")
    assert str(error.value).startswith(f"{tmp_path / 'deep.yaml'} is no ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_class_is_named_by_a_word(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {class_path: 5}")
    with pytest.raises(ValueError, match=r"a\.yaml: class_path must be the name of a class; got 5"):
        read_yaml(tmp_path / "a.yaml")


def test_a_mark_of_utf_8_at_the_start_is_none_of_the_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes("\ufeffa: ä\n".encode())
    assert read_yaml(tmp_path / "a.yaml") == {"a": "ä"}


def test_merged_mappings_may_say_again_what_they_change(tmp_path):
    (tmp_path / "a.yaml").write_text("base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\n")
    assert read_yaml(tmp_path / "a.yaml")["mine"] == {"a": 1, "b": 3}


def test_tilde_is_the_home_folder_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data.yaml").write_text("class_path: ImageFolder\ninit_args: {root: ~/photos, name: a~/b, none: ~}\n")
    (tmp_path / "test.yaml").write_text("model: {class_path: X, init_args: {output: ~/out}}\ndata: ~/data.yaml\n")
    _, config, *rest = compose(
        ["test", "--config=~/test.yaml", "--model.classifier.checkpoint", "~/net.pth", "--model.x={y: ~/z}",
         "--trainer.default_root_dir=~/logs"]
    )  # fmt: skip
    given = json.loads(config.removeprefix("--config="))
    model = given["model"]["init_args"]
    assert (model["output"], model["classifier"]["checkpoint"]) == (f"{tmp_path}/out", f"{tmp_path}/net.pth")
    assert model["x"] == {"y": f"{tmp_path}/z"}
    assert given["data"]["init_args"] == {"root": f"{tmp_path}/photos", "name": "a~/b", "none": None}
    assert rest == [f"--trainer.default_root_dir={tmp_path}/logs"]


def test_tilde_is_the_home_folder_for_the_words_of_every_verb(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["report", "--output=~/there", "~/run"]) == 1
    assert f"{tmp_path}/run" in capsys.readouterr().err


# --- weights by name


def test_the_name_of_weights_stands_for_what_is_built_around_them():
    given = settings("--model.score_model", "cifar10/edm-small", "--model.classifier=cifar10/standard")
    file = read_yaml(Path("configs/score_model/cifar10_denoiser.yaml"))
    assert given["score_model"] == {**file, "init_args": {**file["init_args"], "checkpoint": "cifar10/edm-small"}}
    assert given["classifier"] == read_yaml(Path("configs/classifier/standard.yaml"))


def test_the_name_of_weights_in_a_file(tmp_path):
    (tmp_path / "test.yaml").write_text("model: {init_args: {score_model: cifar10/edm, output: cifar10/edm}}")
    given = settings("--config", str(tmp_path / "test.yaml"))
    assert given["score_model"] == read_yaml(Path("configs/score_model/edm.yaml"))
    assert given["output"] == "cifar10/edm"  # a folder


def test_the_name_of_weights_of_the_other_kind(capsys):
    assert main(["test", "--config", TEST, "--model.score_model", "cifar10/standard"]) == 1
    assert "score_model: cifar10/standard is the name of a classifier" in capsys.readouterr().err


def test_a_mistyped_name_of_weights(capsys):
    assert main(["test", "--config", TEST, "--model.score_model", "digits/ncsnv"]) == 1
    assert "score_model: no weights are called digits/ncsnv; did you mean digits/ncsnv2?" in capsys.readouterr().err


def test_settings_beside_a_name():
    given = settings("--model.score_model", "cifar10/ncsnv2", "--model.score_model.weights", "raw")
    assert given["score_model"]["init_args"] == {"ngf": 128, "checkpoint": "cifar10/ncsnv2", "weights": "raw"}


@pytest.mark.parametrize(
    ("text", "line"),
    [("", "it is empty"), ("just words", "it says 'just words'"), ("[1, 2]", r"it says '\[1, 2\]'")],
    ids=["nothing", "words", "list"],
)
def test_a_file_without_entries_is_no_configuration(text, line, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"x\.yaml is no configuration, entries such as .*; {line}"):
        compose(["test", f"--config={tmp_path}/x.yaml"])


def test_a_date_is_a_word(tmp_path):
    (tmp_path / "x.yaml").write_text("model: {eps: 2026-01-01, steps: 2026-01-01 10:00:00, lr: 1e-3}\n")
    _, config = compose(["test", f"--config={tmp_path}/x.yaml"])
    assert json.loads(config.removeprefix("--config="))["model"] == {
        "eps": "2026-01-01", "steps": "2026-01-01 10:00:00", "lr": 0.001,
    }  # fmt: skip


@pytest.mark.parametrize("tag", ["!!binary aGVsbG8=", "!!set {a, b}", "!!timestamp 2026-01-01", "!!omap [a: 1]"])
def test_what_json_cannot_say_is_refused_with_its_line(tag, tmp_path):
    (tmp_path / "x.yaml").write_text(f"model:\n  eps: {tag}\n")
    with pytest.raises(ValueError, match=r"x\.yaml is no YAML, see line 2: could not determine a constructor"):
        compose(["test", f"--config={tmp_path}/x.yaml"])


def test_the_configuration_of_a_run_is_one_for_who_only_builds_its_parts(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("data: {class_path: Digits}\nckpt_path: null\nverbose: false\nweights_only: true\n")
    (word,) = compose([f"--config={file}"])
    assert json.loads(word.removeprefix("--config=")) == {"data": {"class_path": "Digits"}}
    verb, word = compose(["test", f"--config={file}"])
    assert (verb, json.loads(word.removeprefix("--config="))["verbose"]) == ("test", False)
    file.write_text("ckpt_path: some.ckpt\n")
    assert "some.ckpt" in compose([f"--config={file}"])[0], "the parser refuses it"
