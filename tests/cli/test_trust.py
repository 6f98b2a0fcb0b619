"""Looking at a folder never runs what lies there: every way to name a program, for every verb that takes a folder."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jsonargparse._common import parsing_settings
from torch import nn

from lit_pursamere.cli.main import main
from lit_pursamere.cli.trust import Untrusted, build, is_known
from lit_pursamere.data import Digits, PurifiedSet
from lit_pursamere.data.purified_checks import probe
from lit_pursamere.diffusion import NCSNv2Score, ScoreModel
from lit_pursamere.networks import WideResNet
from lit_pursamere.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]
INDICES = [0, 3, 8]
MODEL = """
class_path: LitRobustness
init_args:
  score_model: {class_path: NCSNv2Score, init_args: {ngf: 2, channels: 1, image_size: 8}}
  purifier: {class_path: LikelihoodMaximisation, init_args: {steps: 1}}
  classifier: {class_path: lit_pursamere.networks.WideResNet, init_args: {depth: 10, width: 1, channels: 1}}
  attacks: {PGD: {class_path: PGD, init_args: {threat: {norm: linf, eps: 8/255}, steps: 1}}}
  pictures: 0
  save_images: true
"""


class Opener:
    """Makes a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An honest run, and an honest purified set."""
    folder = tmp_path_factory.mktemp("honest")
    digits = {"class_path": "Digits", "init_args": {"test_size": 2, "eval_batch_size": 2}}
    trainer = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    model = yaml.safe_load(MODEL)
    model["init_args"]["score_model"]["init_args"]["checkpoint"] = str(folder / "score.safetensors")
    model["init_args"]["classifier"] = {
        "class_path": "lit_pursamere.weights.trained",
        "init_args": {"network": model["init_args"]["classifier"], "checkpoint": str(folder / "net.safetensors")},
    }
    save_weights(WideResNet(10, 1, channels=1), folder / "net.safetensors")
    save_weights(NCSNv2Score(ngf=2, channels=1, image_size=8), folder / "score.safetensors")
    content = {"seed_everything": 0, "model": model, "data": digits, "trainer": trainer}
    (folder / "test.yaml").write_text(yaml.safe_dump(content))
    assert main(["test", f"--config={folder}/test.yaml", f"--model.output={folder}/runs/run"]) == 0
    source = Digits().load("train")
    told = {"data": "digits", "split": "train", "source": {"count": 1400, "means": probe(source, INDICES)},
            "purifier": {"class": "Half"}, "weights": "abc"}  # fmt: skip
    made = PurifiedSet.create(folder / "set", INDICES, (1, 8, 8), told, "float32", part=4)
    made.write(0, source.images[torch.tensor(INDICES)] / 2)
    (folder / "set" / "config.yaml").write_text(yaml.safe_dump({"data": {"class_path": "Digits"}}))
    (folder / "compare.yaml").write_text(
        yaml.safe_dump({"output": str(folder / "runs"), "test": content, "purifiers": {"run": "Identity"}})
    )
    return folder


@pytest.fixture
def folder(whole, tmp_path, monkeypatch):
    """A copy to spoil, beside a module that leaves a mark when it is imported."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    text = (copy / "compare.yaml").read_text().replace(str(whole), str(copy))
    (copy / "compare.yaml").write_text(text)
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'MARK')!r}, 'w')\n\ndef run(*a, **k):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: (tmp_path / "MARK").touch())
    yield copy
    assert not (tmp_path / "MARK").exists()
    sys.modules.pop("stranger", None)


def bomb(folder):
    """A part that runs a command where it is built."""
    return {"class_path": "subprocess.Popen", "init_args": {"args": f"touch {folder.parent / 'MARK'}", "shell": True}}


def put(section, value):
    """What a run classifies with, or what a purified set was made by: a value of type Any."""
    run = "classifier" in section["init_args"]
    section["init_args"]["classifier" if run else "purified_by"] = value if run else {"x": value}


def in_any(section, folder):
    section["init_args"]["attacks" if "attacks" in section["init_args"] else "purified_by"] = {"x": bomb(folder)}


def in_layer(section, folder):
    arguments = {"in_features": 1, "out_features": 1, "device": bomb(folder)}
    put(section, {"class_path": "torch.nn.Linear", "init_args": arguments})


def in_words(section, folder):
    """An object that only the parser would read."""
    section["init_args"]["classifier" if "classifier" in section["init_args"] else "seed"] = json.dumps(bomb(folder))


def named(section, folder):
    section["class_path"] = "stranger.Module"


def merely_named(section, folder):
    section["init_args"]["detector" if "attacks" in section["init_args"] else "seed"] = "stranger.run"


def a_function(section, folder):
    section["init_args"]["detector" if "attacks" in section["init_args"] else "seed"] = {"class_path": "stranger.run"}


def elsewhere(section, folder):
    (folder.parent / "other.yaml").write_text(yaml.safe_dump({"class_path": "stranger.Module"}))
    run = "classifier" in section["init_args"]
    section["init_args"]["classifier" if run else "seed"] = f"../../{'../' if run else ''}other.yaml"


def as_text(section, folder):
    """A file that only the parser would open."""
    other = folder.parent / "other.txt"
    other.write_text(yaml.safe_dump(bomb(folder)))
    section["init_args"]["classifier" if "classifier" in section["init_args"] else "seed"] = str(other)


def by_way_of_ours(section, folder):
    put(section, bomb(folder) | {"class_path": "lit_pursamere.cli.experiment.subprocess.Popen"})


def by_way_of_torch(section, folder):
    """A network that is built with what another one would download: nothing may be asked of the net."""
    arguments = {"norm_layer": "torchvision.models.resnet18"}
    put(section, {"class_path": "torchvision.models.resnet18", "init_args": arguments})


def by_default(section, folder):
    """A network that downloads a part of itself unless told otherwise."""
    put(section, {"class_path": "torchvision.models.segmentation.fcn_resnet50"})


WAYS = [
    in_any, in_layer, in_words, named, merely_named, a_function, elsewhere, as_text, by_way_of_ours, by_way_of_torch,
    by_default,
]  # fmt: skip
IGNORED = (as_text, in_words, merely_named)  # by a purified set: they are no numbers, so there are no originals


def spoil(folder, way, run: bool) -> None:
    file = folder / ("runs/run" if run else "set") / "config.yaml"
    content = yaml.safe_load(file.read_text())
    section = content["model" if run else "data"]
    section.setdefault("init_args", {})
    way(section, folder)
    file.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("way", WAYS)
def test_a_purified_set_is_only_looked_at(way, folder, capsys):
    spoil(folder, way, run=False)
    status = main(["purified", "inspect", str(folder / "set")])
    told = capsys.readouterr()
    if way in IGNORED and status == 0:
        assert "originals" in told.out and "not at hand" in told.out
    else:
        line = told.err.splitlines()[0]
        assert status == 1 and "config.yaml names " in line and "--trust " in line and str(folder / "set") in line


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_only_looked_at(way, folder, capsys):
    spoil(folder, way, run=True)
    assert main(["reverify", str(folder / "runs/run")]) == 1
    line = capsys.readouterr().err.splitlines()[0]
    assert "error: " in line
    if way is not as_text:
        assert "config.yaml names " in line and "--trust " in line and str(folder / "runs/run") in line


@pytest.mark.parametrize("verb", ["reverify", "purified inspect"])
def test_a_module_is_let_in_from_the_command_line(verb, folder, capsys):
    spoil(folder, named, run=verb == "reverify")
    args = [*verb.split(), str(folder / ("runs/run" if verb == "reverify" else "set"))]
    assert main(args) == 1 and "--trust stranger" in capsys.readouterr().err
    main([*args, "--trust", "stranger"])
    (folder.parent / "MARK").unlink()  # it was imported
    assert "--trust" not in capsys.readouterr().err


@pytest.mark.parametrize("way", [in_any, named, elsewhere])
def test_reports_build_nothing(way, folder, capsys):
    spoil(folder, way, run=True)
    for format in ("markdown", "html"):
        assert main(["report", str(folder / "runs/run"), "--format", format]) == 0
    assert main(["runs", str(folder)]) == 0
    assert main(["compare", str(folder / "compare.yaml"), "--table"]) == 0
    assert "PGD" in capsys.readouterr().out


GOING_ON = {  # verbs, and what they name when they went on in the folder or refused what lies there
    "fit": "last.ckpt",
    "fit --data.purified": "indices.npy",
    "predict": "indices.npy",
    "test": "worst case",
    "audit": "runs/run",
    "purify": "array.npy",
}


@pytest.mark.parametrize("verb", GOING_ON)
def test_verbs_that_go_on_in_a_folder_run_nothing_that_lies_there(verb, folder, capsys):
    """Neither its configuration, nor pickled objects where arrays or checkpoints should be."""
    made = folder / "set"
    for place in (folder / "runs/run", made):
        tag = f"!!python/object/apply:os.system ['touch {folder.parent / 'MARK'}']"
        (place / "config.yaml").write_text(f"model: {tag}\ndata: {tag}\n")
    for name in ("array", "indices", "part-000000", "last.ckpt"):
        np.save(made / f"{name}.npy", np.array([Opener(folder.parent / "MARK")], dtype=object), allow_pickle=True)
    (made / "last.ckpt.npy").replace(made / "last.ckpt")
    net = {"class_path": "lit_pursamere.networks.WideResNet", "init_args": {"depth": 10, "width": 1, "channels": 1}}
    content = yaml.safe_load((folder / "test.yaml").read_text())
    content |= {"model": {"class_path": "LitClassifier", "init_args": {"classifier": net}}}
    (folder / "fit.yaml").write_text(yaml.safe_dump(content))
    (folder / "identity.yaml").write_text("class_path: lit_pursamere.purifiers.Identity\n")
    fit = [f"--config={folder}/fit.yaml", "--trainer.max_steps=1", f"--trainer.default_root_dir={folder}"]
    args = {
        "fit": [*fit, f"--ckpt_path={made / 'last.ckpt'}"],
        "fit --data.purified": [*fit, f"--data.purified={made}"],
        "predict": ["--model=LitPurification", "--model.purifier=Identity", f"--model.output={made}", *fit[2:],
                    "--data=Digits", "--trainer.accelerator=cpu", "--trainer.logger=false"],
        "test": [f"--config={folder}/test.yaml", f"--model.output={folder}/runs/run"],
        "audit": [f"--config={folder}/test.yaml", f"--audit.output={folder}/runs/run", "--audit.images=1"],
        "purify": [str(made / "array.npy"), str(folder / "runs/run"), f"--config={folder}/identity.yaml"],
    }  # fmt: skip
    main([verb.split()[0], *args[verb]])
    told = capsys.readouterr()
    assert GOING_ON[verb] in told.out + told.err


def test_a_tag_is_no_program(folder, capsys):
    tag = f"!!python/object/apply:os.system ['touch {folder.parent / 'MARK'}']\n"
    for name in ("runs/run", "set"):
        (folder / name / "config.yaml").write_text(f"model: {tag}data: {tag}")
    assert main(["reverify", str(folder / "runs/run")]) == 1
    assert "is no YAML" in capsys.readouterr().err
    main(["purified", "inspect", str(folder / "set")])
    assert "is no YAML" in capsys.readouterr().out
    assert main(["report", str(folder / "runs/run")]) == 0
    assert main(["compare", str(folder / "compare.yaml"), "--table"]) == 0


def test_weights_are_only_looked_at(folder, capsys):
    for name in ("config.json", "model_index.json"):
        (folder / name).write_text(json.dumps({"_class_name": "stranger.Module", **bomb(folder)}))
    assert main(["weights", "inspect", str(folder)]) == 1
    assert capsys.readouterr().err.startswith("lit-pursamere: error: ")


def test_honest_folders_are_looked_at_as_ever(folder, capsys):
    assert main(["reverify", str(folder / "runs/run")]) == 0
    assert " verdicts differ" in capsys.readouterr().out
    assert main(["purified", "inspect", str(folder / "set")]) == 0
    assert "moved" in capsys.readouterr().out


def test_a_module_of_ones_own_is_let_in(tmp_path, monkeypatch):
    (tmp_path / "minetoo.py").write_text(
        "import os\nfrom torch import nn\n\n\nclass Small(nn.Linear):\n    def __init__(self, n: int = 2):\n"
        "        super().__init__(n, n)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    part, file = {"class_path": "minetoo.Small", "init_args": {"n": 3}}, tmp_path / "config.yaml"
    with pytest.raises(Untrusted, match=r"names minetoo\.Small, .* --trust minetoo$"):
        build(nn.Module, part, file)
    assert "minetoo" not in sys.modules
    assert build(nn.Module, part, file, ["minetoo"]).in_features == 3
    for name in ("minetoo.os.system", "minetoo.nn.Bilinear"):
        with pytest.raises(Exception):  # noqa: B017 (what a trusted module imports is not trusted by that)
            build(nn.Module, {"class_path": name}, file, ["minetoo"])


def test_the_parser_is_as_it_was_before_also_after_errors(tmp_path):
    before = dict(parsing_settings)
    assert isinstance(build(ScoreModel, {"class_path": "NCSNv2Score", "init_args": {"ngf": 2}}, tmp_path), ScoreModel)
    for part in ({"class_path": "stranger.X"}, {"class_path": "NCSNv2Score", "init_args": {"ngf": -1}}, "nothing"):
        with pytest.raises(Exception):  # noqa: B017
            build(ScoreModel, part, tmp_path)
    assert dict(parsing_settings) == before


@pytest.mark.parametrize(
    "name",
    ["torch.nn.Linear", "torch.nn.modules.linear.Linear", "torchvision.models.resnet18",
     "lit_pursamere.purifiers.PurSAMERE", "lit_pursamere.purifiers.pursamere.PurSAMERE", "lit_pursamere.data.NPZ",
     "lit_pursamere.weights.trained", "lit_pursamere.attacks.PGD", "lit_pursamere.defense.detectors.ScoreNorm",
     "lit_pursamere.defense.magnet.JensenShannon",
     "lit_pursamere.zoo.ZooClassifier"],
)  # fmt: skip
def test_what_honest_runs_name_is_known(name):
    assert is_known(name)


@pytest.mark.parametrize(
    "name",
    ["os.system", "torch.load", "torch.hub.load", "torch.nn.parallel.DataParallel", "torch.nn.functional.relu",
     "torchvision.models.get_model", "torchvision.models.resnet.load_state_dict_from_url", "builtins.print",
     "lit_pursamere.store.Records", "lit_pursamere.cli.main.main", "lit_pursamere.data.PurifiedSet",
     "lit_pursamere.purifiers.base.torch.load", "torch.nn.modules.module.torch.load", "lit_pursamere.data", "x",
     "lit_pursamere.purifiers.base.Adjoint", "torch.nn.nowhere.Linear", "lit_pursamere.weights.inspect_weights",
     "torchvision.models.ResNet", "torchvision.models.segmentation.fcn_resnet50", "torchvision.models.get_weight",
     "lit_pursamere.attacks.library.LibraryView", "lit_pursamere.tasks.LitClassifier", "torch.jit.ScriptModule",
     "torch.nn.Module.load_state_dict", "lit_pursamere.data.NPZ.load", "torch.nn.DataParallel", "torch.nn.init.normal_",
     "pytorch_lightning.loggers.CSVLogger", "torch.utils.cpp_extension.load", "pydoc.locate"],
)  # fmt: skip
def test_whatever_else_is_not(name):
    assert not is_known(name)


@pytest.mark.parametrize(
    "arguments",
    [{"weights": "DEFAULT"}, {"pretrained": True}, {"weights": 1}, {"norm_layer": "torch.nn.BatchNorm2d"},
     {"norm_layer": {"class_path": "torch.nn.Identity"}}],
)  # fmt: skip
@pytest.mark.parametrize("where", ["init_args", "dict_kwargs"])
def test_networks_of_torchvision_take_numbers(arguments, where, tmp_path):
    """Whatever else they are given they would call, or download."""
    with pytest.raises(Untrusted, match=r"names torchvision\.models\.resnet18 with .*--trust torchvision\.models$"):
        build(nn.Module, {"class_path": "torchvision.models.resnet18", where: arguments}, tmp_path)
    part = {"class_path": "torchvision.models.resnet18", "init_args": {"num_classes": 3, "weights": None}}
    assert build(nn.Module, part, tmp_path).fc.out_features == 3


def test_a_classifier_of_another_library_is_built_empty_unless_that_library_fetches(tmp_path):
    def part(name):
        told = {"class_path": "lit_pursamere.zoo.ZooClassifier", "init_args": {"name": name}}
        return {"class_path": "lit_pursamere.weights.trained", "init_args": {"network": told, "checkpoint": None}}

    assert build(nn.Module, part("torchvision:squeezenet1_1"), tmp_path).name == "torchvision:squeezenet1_1"
    for name in ("robustbench:Standard(cifar10, Linf)", " robustbench:Standard"):
        with pytest.raises(Untrusted, match=r"--trust robustbench$"):
            build(nn.Module, part(name), tmp_path)
    with pytest.raises(Exception, match=r"robustbench is not installed|no weights"):
        build(nn.Module, part("robustbench:Nobody(cifar10, Linf)"), tmp_path, ["robustbench"])


def parts_in(value):
    """Every `class_path` in a configuration."""
    if isinstance(value, dict):
        yield from [value["class_path"]] if "class_path" in value else []
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from parts_in(item)


def test_what_the_configurations_of_tests_name_is_known():
    named = {name for file in (ROOT / "configs").rglob("*.yaml") for name in parts_in(yaml.safe_load(file.read_text()))}
    others = {name for name in named if not is_known(name)}
    training = re.compile(
        r"pytorch_lightning\..*|torch\.optim\.Adam|benchmarks\.variants\.Variant|"
        r"lit_pursamere\.(tasks\.Lit(Certification|Classifier|ScoreModel|Purification)|diffusion\.\w+Objective)"
    )
    assert len(named) > 40 and all(training.fullmatch(name) for name in others), others


def test_what_an_error_quotes_is_text(tmp_path, capsys):
    assert main(["report", str(tmp_path / "\x1b]0;title\x07\x1b[31m\u202e")]) == 1
    told = capsys.readouterr().err
    assert "title" in told and told.replace("\n", "").isprintable()


@pytest.mark.parametrize("shape", [(10**13,), (10**9, 10**9), (2**62,)])
def test_a_header_that_tells_of_more_than_its_file_holds_takes_no_memory(shape, folder, capsys):
    file = folder / "set/indices.npy"
    with open(file, "wb") as opened:
        np.lib.format.write_array_header_1_0(opened, {"descr": "<i8", "fortran_order": False, "shape": shape})
    assert main(["purified", "inspect", str(folder / "set")]) == 1
    assert "indices.npy is missing or damaged" in capsys.readouterr().err


def test_a_split_is_no_place(folder, capsys):
    manifest = json.loads((folder / "set/manifest.json").read_text())
    (folder / "set/manifest.json").write_text(json.dumps(manifest | {"split": "../.."}))
    (folder / "set/config.yaml").write_text(yaml.safe_dump({"data": {"class_path": "Digits"}}))
    main(["purified", "inspect", str(folder / "set")])
    assert "not at hand: the set is of the split '../..'; known are train and test" in capsys.readouterr().out


def test_what_is_written_into_the_folder_follows_no_links(folder, tmp_path):
    """A link in place of a report would have looking write over a file of one's own."""
    run, own = folder / "runs/run", tmp_path / "own.txt"
    own.write_text("mine")
    names = ["report.md", "report.csv", "report.tex", "report.html", "worst-case.png", "reverify.md"]
    for place in [*(run / name for name in names), folder / "set/purified.png", folder / "runs/comparison.md"]:
        place.unlink(missing_ok=True)
        place.symlink_to(own)
    assert main(["report", str(run), "--figures", "--format", "html"]) == main(["reverify", str(run)]) == 0
    assert main(["purified", "inspect", str(folder / "set")]) == 0
    assert main(["compare", str(folder / "compare.yaml"), "--table"]) == 0
    assert own.read_text() == "mine" and "PGD" in (run / "report.md").read_text()


UNREADABLE = ("[" * 5000, "a: [\n", "\xff", "model: 3", "[1, 2]", "model: {init_args: {purifier: 7}}")


@pytest.mark.parametrize("content", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_comparison_needs_no_configuration_that_can_be_read(content, folder, capsys, monkeypatch):
    monkeypatch.setattr("lit_pursamere.cli.compare.save_comparison", lambda *unused: None)  # it draws
    (folder / "runs/run/config.yaml").write_bytes(content.encode("latin1"))
    assert main(["compare", str(folder / "compare.yaml"), "--table"]) == 0
    assert "PGD" in capsys.readouterr().out
