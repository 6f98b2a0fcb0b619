"""first_light goes through every purifier, attack, view and verb; what is broken is named, and the rest goes on."""

import inspect
import json
import os
import re
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import lit_pursamere.attacks as attacks
import lit_pursamere.purifiers as purifiers
from lit_pursamere.attacks.base import Outcome
from lit_pursamere.cli.usage import VERBS
from lit_pursamere.purifiers import Identity, Purifier, base
from lit_pursamere.threat import VIEWS

CPU = torch.device("cpu")


@pytest.fixture
def light(script, tmp_path):
    """Run first_light with these options as a toy; returns its report."""
    module = script("first_light")
    patient = ("--minutes=20", "--laws-minutes=20")
    return lambda *options: module.main(["--toy", f"--out={tmp_path}", *patient, *options])


@pytest.fixture
def laws(script):
    return script("laws")


@pytest.fixture
def notes(script):
    return script("checks").Notes()


def concrete(module, base):
    """Names of the classes that a subpackage exports and that can be used."""
    exported = [getattr(module, name) for name in module.__all__]
    return {c.__name__ for c in exported if inspect.isclass(c) and issubclass(c, base) and not inspect.isabstract(c)}


@pytest.mark.slow
def test_a_toy_run_finds_no_fault_and_reports_in_numbers(light, tmp_path, capsys):
    report = light("--laws")
    told = capsys.readouterr()
    assert report["faults"] == {} and report["left_out"] == []
    assert json.loads((tmp_path / "first_light.json").read_text()) == json.loads(told.out) == report
    results = report["results"]
    assert results["laws"] | {"checks": len(results) - 1} == results["laws"] and results["laws"]["faults"] == 0
    assert f"{len(results)} results, 0 faults" in told.err
    assert {name.split(" on ")[0] for name in results if " on " in name} == concrete(purifiers, Purifier)
    numbers = results["DiffPure on mixture, float32"]
    assert {f"{view} gradient from the CPU" for view in VIEWS} <= numbers.keys()
    assert results["DiffPure on mixture, bf16"]["cosine of the exact gradients"] > 0.9
    assert results["PGD (pgd), float32"]["distance over eps, linf, last iterate"] == pytest.approx(1, abs=1e-3)
    assert len(results["test, 32-true"]["seconds"]) == 2
    verdicts = results["verdicts of CPU and device"]
    # 4 images, clean once, and each attack at the last iterate and at any, but gPGD of PurSAMERE at the last only.
    assert verdicts["verdicts"] == 4 * (1 + 1 + 2 + 1 + 2 + 2) and verdicts["differ"] == 0 == len(verdicts["which"])


def test_nothing_is_missing_from_the_list(script, tmp_path):
    module, verbs = script("first_light"), script("verbs")
    names = [check.name for check in module.law_checks(CPU, tmp_path, None, toy=False)]
    assert len(names) == len(set(names))
    for precision in ("float32", "tf32", "bf16"):
        found = {name.split(" on ")[0] for name in names if " on " in name and name.endswith(f", {precision}")}
        assert found == concrete(purifiers, Purifier)
    for precision in ("float32", "bf16"):
        found = {name.split(" (")[0] for name in names if " (" in name and name.endswith(f"), {precision}")}
        assert found == concrete(attacks, attacks.Attack)
    assert {run.verb for run in verbs.RUNS.values()} == VERBS.keys() - {"sbatch", "ray"}  # they start others elsewhere
    assert {f"{run}, 32-true" for run in verbs.RUNS} <= set(names)
    assert {name.removesuffix(", bf16-mixed") for name in names if name.endswith(", bf16-mixed")} == {
        name for name, run in verbs.RUNS.items() if run.verb in ("fit", "validate", "predict", "test", "certify")
    }


class Raising(Identity):
    def forward(self, x, noise=None):
        raise RuntimeError("Expected all tensors to be on the same device")


class Outside(Identity):
    def forward(self, x, noise=None):
        return x + 0.9


class Sociable(Identity):
    """Looks at its neighbours."""

    def forward(self, x, noise=None):
        return (x + x.mean(0)) / 2


class Restless(Identity):
    """Draws from the global generator, as if it had no seed."""

    def forward(self, x, noise=None):
        return (x + 0.1 * torch.rand_like(x)).clamp(0, 1)


def test_a_broken_purifier_is_named_and_the_rest_goes_on(light, laws, monkeypatch, capsys):
    broken = {
        Raising: "^RuntimeError: Expected all tensors to be on the same device .test_first_light",
        Outside: r"not purified images finite and in the box \(.* to 1.9\).*; then ValueError: the purifier Outside",
        Sociable: r"^LawBroken: alone from batch: \d.* > 0.02 .checks.py",
        Restless: "not the global generators untouched; not the same twice",
    }
    made = {(kind.__name__, "mixture"): lambda model, kind=kind: kind() for kind in (*broken, Identity)}
    monkeypatch.setattr(laws, "worlds", lambda: made)
    report = light("--laws", "--only=on mixture, float32")
    told = capsys.readouterr().err
    for kind, words in broken.items():
        name = f"{kind.__name__} on mixture, float32"
        assert re.search(words, report["faults"][name]), report["faults"][name]
        assert f"FAULT {name}: " in told
    assert len(report["faults"]) == report["results"]["laws"]["faults"] == len(broken)
    assert report["results"]["Identity on mixture, float32"]["exact gradient from the CPU"] == 0
    assert report["results"]["Sociable on mixture, float32"]["alone from batch"] > 0.1  # numbers of a fault stay


@dataclass(frozen=True)
class Gregarious(attacks.Attack):
    """Moves an image by what stands beside it in the batch."""

    def perturb(self, view, x, y, progress):
        moved = x + self.threat.eps * (x.mean(0) - 0.5).sign() * (1 if len(x) > 1 else -1)
        return Outcome(moved, moved)


def test_a_broken_attack_is_named(light, laws, monkeypatch):
    monkeypatch.setattr(laws, "attacks", lambda: {"herd": Gregarious, "pgd": lambda t: attacks.PGD(t, steps=2)})
    report = light("--laws", "--only=float32$")
    assert list(report["faults"]) == ["Gregarious (herd), float32"]
    assert "alone from batch, linf" in report["faults"]["Gregarious (herd), float32"]
    assert report["results"]["PGD (pgd), float32"]["from the CPU, linf"] == 0


def test_a_verb_that_fails_is_named_by_its_own_words(light, script, monkeypatch):
    verbs = script("verbs")
    broken = {
        "report": verbs.Run("report", lambda place: [f"{place.earlier}/nowhere"]),
        "weights": verbs.Run("weights", lambda place: ["melt"]),
        "test": verbs.Run("figure", lambda place: ["reconstruction-error", f"{place.folder}/a.png"], unlike()),
    }
    monkeypatch.setattr(verbs, "RUNS", broken)
    report = light("--laws", "--only=32-true")
    assert "ended with 1: ... lit-pursamere: error: no records in" in report["faults"]["report, 32-true"]
    assert "ended with 2" in report["faults"]["weights, 32-true"]
    assert report["faults"]["test, 32-true"].startswith("LawBroken: not the same twice")
    assert len(report["results"]["test, 32-true"]["seconds"]) == 2


def unlike():
    """Reads something else from every folder."""
    numbers = iter((1, 2))
    return lambda folder: next(numbers)


def test_a_verb_leaves_nothing_behind(script, tmp_path, monkeypatch):
    verbs = script("verbs")

    def main(arguments):
        os.environ["LEFT_BEHIND"] = "1"
        torch.use_deterministic_algorithms(True)
        return 0

    monkeypatch.setattr(verbs, "main", main)
    verbs.execute(["fit"])
    assert "LEFT_BEHIND" not in os.environ and not torch.are_deterministic_algorithms_enabled()


def test_verdicts_that_differ_are_counted_and_named(script, notes):
    def row(index, last, any_, label=3):
        return {"system": "PurSAMERE", "attack": "BPDA", "index": index, "label": label, "prediction_last": last,
                "prediction_any": any_, "margin_last": 0.5 + last}  # fmt: skip

    cpu = [row(0, 3, 3), row(1, 3, None), row(2, 4, 3)]
    here = [row(0, 3, 4), row(1, 3, None), row(2, 5, 3)]
    script("verbs").compare_verdicts(notes, cpu, here)
    assert notes.numbers == {
        "verdicts": 5, "differ": 2, "between right and wrong": 1, "largest difference of margins": 1.0,
        "which": ["PurSAMERE, BPDA, image 0, any: 3 on the CPU, 4 here, of 3",
                  "PurSAMERE, BPDA, image 2, last: 4 on the CPU, 5 here, of 3"],
    }  # fmt: skip
    assert not notes.broken


@pytest.mark.parametrize(("purifier", "family"), [("DiffPureLD", "NCSNv2"), ("GDMP", "EDM")])
def test_laws_of_networks(purifier, family, laws, script):
    """What a toy run leaves to machines with more time."""
    for law, name in ((laws.strict_laws, "float32"), (partial(laws.loose_laws, precision="bf16"), "bf16")):
        notes = script("checks").Notes()
        law(notes, world=(purifier, f"{family} network"), device=CPU)
        assert not notes.broken, name
    assert 0 < notes.numbers["from float32"] < 0.01


def test_an_operation_without_a_deterministic_kernel_is_a_fault(laws, notes):
    before = torch.backends.cudnn.allow_tf32
    with laws.arithmetic(notes, CPU, "float32"):
        assert torch.is_deterministic_algorithms_warn_only_enabled() and not torch.backends.cudnn.allow_tf32
        warnings.warn("cumsum_cuda_kernel does not have a deterministic implementation, but", stacklevel=1)
    assert notes.broken == ["not deterministic: cumsum_cuda_kernel"]
    assert torch.backends.cudnn.allow_tf32 == before and not torch.are_deterministic_algorithms_enabled()


def test_a_step_computed_again_in_another_precision_is_a_fault(laws, notes, monkeypatch):
    """As where autograd has threads of its own that know nothing of bfloat16: mended, and found where it is not."""

    def in_another_thread(view, x):
        result = view(x.requires_grad_())
        with torch.autocast("cpu", torch.float16):
            result.sum().backward()

    monkeypatch.setattr(laws, "input_gradient", in_another_thread)
    laws.recomputation_check(CPU).work(notes)
    assert not notes.broken
    monkeypatch.setattr(base, "autocast_of", lambda state: nullcontext)
    laws.recomputation_check(CPU).work(notes)
    assert notes.broken == ["not computed again in the same precision"]
    assert notes.numbers["there and back"] == ["autocast torch.bfloat16", "autocast torch.float16"]


def test_what_one_part_found_survives_the_other(light, laws, monkeypatch):
    def measure(session, toy):
        assert toy
        raise ValueError("no speed today")

    monkeypatch.setitem(sys.modules, "throughput", SimpleNamespace(measure=measure))
    monkeypatch.setattr(laws, "worlds", lambda: {("Identity", "mixture"): lambda model: Identity()})
    report = light("--laws", "--throughput", "--only=Identity.*tf32")
    assert report["faults"] == {"throughput": "ValueError: no speed today"}
    assert report["results"]["laws"]["checks"] == 1


def test_laws_that_find_no_time_are_left_out(light):
    report = light("--laws", "--laws-minutes=0", "--only=on mixture, tf32")
    assert report["results"]["laws"]["left out"] == report["results"]["laws"]["checks"] == len(report["left_out"]) > 10


def test_there_must_be_something_to_do(light, capsys):
    with pytest.raises(SystemExit):
        light()
    assert "say --laws, --throughput, or both" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_list_in_float32(script, tmp_path):
    # On a CPU tf32 is float32 again.
    options = ["--device=cpu", "--minutes=20", "--laws-minutes=20", "--only=(, float32|32-true)$"]
    report = script("first_light").main(["--laws", f"--out={tmp_path}", *options])
    assert report["faults"] == {} and report["left_out"] == []
    assert report["results"]["laws"]["checks"] > 115
