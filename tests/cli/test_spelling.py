"""What is mistyped ends a command before heavy imports and says what was meant; what is right is not refused."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import pytorch_lightning as pl
import pytorch_lightning.callbacks
import pytorch_lightning.loggers
import torch

from lit_pursamere.cli.main import main
from lit_pursamere.cli.parsing import option
from lit_pursamere.cli.signatures import class_names, definitions, function, parameters, trainer_parameters, verbs_of
from lit_pursamere.cli.spelling import check_words
from lit_pursamere.cli.usage import VERBS
from lit_pursamere.names import meant

ROOT = Path(__file__).resolve().parents[2]
TEST = ["test", "--config=configs/digits/robustness.yaml"]
HEAVY = {"torch", "pytorch_lightning", "numpy", "scipy", "matplotlib", "torchvision", "torchmetrics", "foolbox"}


@pytest.fixture(autouse=True)
def repository(monkeypatch):
    monkeypatch.chdir(ROOT)


MISTYPED = [
    ([*TEST, "--model.purifer=ADP"], "model: LitRobustness takes no 'purifer'; did you mean purifier?"),
    ([*TEST, "--model.purifier=PurSAMER"], "model.purifier: there is no class PurSAMER here, and no file of that name; "
                                           "did you mean PurSAMERE?"),
    ([*TEST, "--model.purifier.rho_purr=1"], "model.purifier: PurSAMERE takes no 'rho_purr'; did you mean rho_pur?"),
    ([*TEST, "--model.threat.esp=1"], "model.threat: ThreatModel takes no 'esp'; did you mean eps?"),
    ([*TEST, "--model.attacks.gPGD20.step=3"], "model.attacks.gPGD20: PGD takes no 'step'; did you mean steps?"),
    (["test", "--config={model: {class_paht: LitRobustness}}"],
     "model: the description of a class has no 'class_paht'; did you mean class_path?"),
    ([*TEST, "--model.purifier={class_path: ADP, inti_args: {}}"],
     "model.purifier: the description of a class has no 'inti_args'; did you mean init_args?"),
    ([*TEST, "--data.batchsize=3"], "data: Digits takes no 'batchsize'; did you mean batch_size?"),
    ([*TEST, "--data", "Digit"], "data: there is no class Digit here, and no file of that name; did you mean Digits?"),
    ([*TEST, "--trainer.max_epoch=3"], "the trainer has no 'max_epoch'; did you mean trainer.max_epochs?"),
    ([*TEST, "--trainer.max_epoch", "3"], "the trainer has no 'max_epoch'; did you mean trainer.max_epochs?"),
    ([*TEST, "--modle.purifier=ADP"], "there is no option --modle; did you mean --model?"),
    ([*TEST, "--config={modle: {}}"], "a configuration has no 'modle'; did you mean model?"),
    ([*TEST, "--config={trainer: {device: 2}}"], "the trainer has no 'device'; did you mean trainer.devices?"),
    (["fit", "--config=configs/digits/nope.yaml"], "there is no file configs/digits/nope.yaml"),
    (["compare", "none.yaml"], "there is no file none.yaml"),
    (["experiment", "digits/experimen"], "there is no file digits/experimen; did you mean digits/experiment, which "
                                         "comes with the package?"),
    (["audit", *TEST[1:], "--audti.attack=x"], "there is no option --audti; did you mean --audit?"),
    (["estimate", *TEST[1:], "--estimat.measure=true"], "there is no option --estimat; did you mean --estimate?"),
    (["audit", *TEST[1:], "--audit.query=3"], "audit has no 'query'; did you mean audit.queries?"),
    (["estimate", *TEST[1:], "--estimate.device", "2"], "estimate has no 'device'; did you mean estimate.devices?"),
    ([*TEST, "-config", "x"], "-config is no option; options begin with two hyphens: --config"),
    ([*TEST, "--config", ""], "--config lacks its value"),
    (["report", "x", "--formt", "latex"], "report has no option --formt; did you mean --format?"),
    (["purify", "a", "b", "--purifer", "x"], "purify has no option --purifer; did you mean --purifier?"),
    (["purify", "a", "b", "--purifier=PurSAMER"], "--purifier: there is no class PurSAMER here, and no file of that "
                                                  "name; did you mean PurSAMERE?"),
    (["sigmas", "--data=Digits", "--data.sead=1"], "--data: Digits takes no 'sead'; did you mean seed?"),
    (["weights", "inspect", "x", "--weigths=raw"], "weights inspect has no option --weigths; did you mean --weights?"),
    (["figure", "a", "b", "--zzz"], "figure has no option --zzz; known: config, name, output, print_config"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "line"), MISTYPED, ids=lambda value: value if isinstance(value, str) else " ")
def test_what_is_mistyped_is_named_with_what_was_meant(args, line):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        check_words(args[0], args[1:])
    assert str(error.value) == line


RUN = f"""
import sys
from lit_pursamere.cli.main import main
status = main(sys.argv[1:])
print(status, *sorted({HEAVY} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    "args", [["--help"], ["purfy"], [*TEST, "--model.purifer=ADP"], ["report", "x", "--formt", "y"]]
)
def test_nothing_heavy_is_imported_before_that(args):
    done = subprocess.run([sys.executable, "-c", RUN, *args], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == {"--help": "0", "purfy": "2"}.get(args[0], "1"), done.stdout


WITHOUT_TRAINER = [
    ["report", "nowhere"],
    ["weights", "inspect", "nowhere.pth"],
    ["figure", "proposition-1", "nowhere.zzz"],
    ["purify", "nowhere", "nowhere-purified", "--purifier=Langevin"],
    ["purified", "inspect", "nowhere", "--images=0"],
    ["reverify", "nowhere"],
]
SEVERAL = f"""
import json, sys
from lit_pursamere.cli.main import main
for args in json.loads(sys.argv[1]):
    print(main(args), *sorted({HEAVY | {"scipy.stats", "sklearn"}} & sys.modules.keys()))
"""


def test_verbs_without_a_trainer_begin_without_what_only_others_need():
    words = [sys.executable, "-c", SEVERAL, json.dumps(WITHOUT_TRAINER)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    needed = ["1 numpy scipy", *["1 numpy scipy torch"] * (len(WITHOUT_TRAINER) - 1)]
    assert done.stdout.splitlines() == needed, done.stderr


def test_it_is_what_a_command_says(capsys):
    assert main([*TEST, "--model.purifer=ADP"]) == 1
    assert capsys.readouterr().err.splitlines()[0].endswith("error: " + MISTYPED[0][1])


# --- nothing that is right is refused


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda file: file.stem)
def test_no_configuration_of_ours_is_refused(file):
    if "stages" in file.read_text() or file.parent.name == "compare":
        return
    folder = file.parent.name
    section = {"attack": "model.attacks.A", "network": "model.classifier"}.get(folder, f"model.{folder}")
    if folder in ("attack", "attacks", "network", "purifier", "score_model", "classifier"):
        check_words("test", ["--config=configs/digits/robustness.yaml", f"--{section}={file}"])
    elif folder == "data":
        check_words("test", ["--config=configs/digits/robustness.yaml", f"--data={file}"])
    else:
        check_words("test", [f"--config={file}"])


def test_the_source_says_what_the_classes_say():
    for name in definitions():
        module = ".".join(definitions()[name].relative_to(ROOT).with_suffix("").parts)
        kind = getattr(import_module(module.removesuffix(".__init__")), name)
        told = parameters(f"{module}.{name}")
        if told is None:
            continue
        signature = inspect.signature(kind).parameters
        open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        assert told.keys() >= {one.name for one in signature.values() if one.kind not in open_ended}, name
    assert parameters("ImageFolder").keys() > {"root", "test_size"} and parameters("NCSNv2Score") is None


def test_the_source_says_what_the_verbs_take():
    for name, entry in VERBS.items():
        module = import_module(f"lit_pursamere.cli.{entry.module}")
        verb = getattr(module, name)
        inner = verbs_of(entry.module, name)
        assert (inner is None) == callable(verb) and (inner is None or inner.keys() == verb.keys())
        for word, one in verb.items() if isinstance(verb, dict) else [(name, verb)]:
            known, open_ended = function(entry.module, word)
            signature = dict(inspect.signature(one, eval_str=True).parameters)
            assert open_ended == (signature.pop("options", None) is not None) and known.keys() == signature.keys()
            for parameter in signature.values():
                told = "-" if known[parameter.name] == "bool" else "_"
                assert option(parameter) == f"--{parameter.name.replace('_', told)}"


def test_the_source_says_what_the_trainer_takes():
    assert trainer_parameters().keys() == inspect.signature(pl.Trainer).parameters.keys()


FOREIGN = [torch.nn, torch.optim, torch.optim.lr_scheduler, pl.callbacks, pl.loggers]


@pytest.mark.parametrize("module", FOREIGN, ids=lambda module: module.__name__)
def test_classes_of_others_are_not_taken_for_ours(module):
    names = [name for name in dir(module) if inspect.isclass(getattr(module, name)) and name not in definitions()]
    assert {name: hint for name in names if (hint := meant(name, class_names(), cutoff=0.85))} == {}


def test_what_belongs_to_others_passes():
    check_words("test", [*TEST[1:], "--model.purifier=mine.Blurr", "--model.purifier.rho_purr=1"])
    check_words("test", [*TEST[1:], "--model.classifier={class_path: mine.Net, init_args: {odd: {class_path: X}}}"])
    check_words("fit", ["--trainer.callbacks+=LearningRateMonitor", "--trainer.callbacks.logging_interval=step"])
    check_words("test", [*TEST[1:], "--print_config=skip_null", "--model.attacks+={a: {class_path: PGD}}"])
    check_words("test", ["--helpp", "--help"])
    check_words("compare", ["configs/compare/digits.yaml", "--odd"])
