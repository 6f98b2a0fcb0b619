"""`lit-pursamere weights inspect` and `convert`."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_pursamere.cli.main import main
from lit_pursamere.networks import NCSNv2
from lit_pursamere.weights import inspect_weights, load_weights, sha256


@pytest.fixture
def checkpoint(tmp_path, ncsnv2):
    """An official NCSNv2 checkpoint: raw weights with the prefix, and their average."""
    raw = {f"module.{name}": tensor for name, tensor in ncsnv2.state_dict().items()} | {"module.sigmas": torch.ones(3)}
    average = {name: tensor + 1 for name, tensor in ncsnv2.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    torch.save([raw, {"state": {}}, 2, 500, average], path)
    return path


def run(*args):
    return main(["weights", *map(str, args)])


def error_of(capsys, *args):
    assert run(*args) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("warning", "("))]
    assert len(lines) == 1 and lines[0].startswith("lit-pursamere: error: ")
    return lines[0]


def test_usage(capsys):
    main(["--help"])
    assert "  weights " in capsys.readouterr().out
    for args in ((), ("convert", "a"), ("melt", "a")):
        with pytest.raises(SystemExit) as exit_:
            run(*args)
        assert exit_.value.code == 2
        assert "usage: lit-pursamere weights" in capsys.readouterr().err


def test_inspect(capsys, checkpoint):
    assert run("inspect", checkpoint) == 0
    lines = capsys.readouterr().out.splitlines()
    table = {line[:12].strip(): line[14:] for line in lines}
    assert table == {
        "file": str(checkpoint),
        "size": f"{checkpoint.stat().st_size:,} bytes",
        "sha256": sha256(checkpoint),
        "layout": "NCSNv2 checkpoint, EMA",
        "architecture": "NCSNv2 ngf 4, 1 channel",
        "weights": "ema",
        "parameters": f"{inspect_weights(checkpoint).parameters:,}",
        "tensors": "153",
        "dtype": "float32",
        "epoch": "2",
        "step": "500",
    }
    assert all(line[12:14] == "  " for line in lines)
    assert run("inspect", checkpoint, "--weights", "raw") == 0
    assert "NCSNv2 checkpoint, raw" in capsys.readouterr().out


def test_inspect_prints_the_model_card_on_one_line_each(capsys, tmp_path):
    save_file(
        {"a": torch.ones(1)}, tmp_path / "w", metadata={"command": "fit\n  --x", "a name longer than the others": "1"}
    )
    assert run("inspect", tmp_path / "w") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "  command                        fit --x"
    assert lines[-2] == "  a name longer than the others  1"


def test_inspect_prints_no_control_characters(capsys, tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "w", metadata={"x\x1b[2J": "y\x1b]0;z", "long": "a" * 2000})
    assert run("inspect", tmp_path / "w") == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines()) and "x?[2J" in out and "a" * 1001 not in out


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_convert_and_load(capsys, tmp_path, checkpoint, ncsnv2, weights):
    out = tmp_path / "new" / "w.safetensors"
    assert run("convert", checkpoint, out, "--weights", weights) == 0
    assert f"sha256 {sha256(out)}" in capsys.readouterr().out
    loaded = NCSNv2(ngf=4, channels=1, image_size=8)
    load_weights(loaded, out)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, ncsnv2.state_dict()[name] + (weights == "ema")), name
    metadata = inspect_weights(out).metadata
    expected = {"source": "checkpoint.pth", "source sha256": sha256(checkpoint), "weights": weights, "step": "500",
                "architecture": "NCSNv2 ngf 4, 1 channel", "torch": torch.__version__.partition("+")[0]}  # fmt: skip
    assert {name: metadata[name].partition("+")[0] for name in expected} == expected
    assert metadata["layout"] == f"NCSNv2 checkpoint, {'EMA' if weights == 'ema' else 'raw'}"
    assert metadata["parameters"] == str(sum(parameter.numel() for parameter in ncsnv2.parameters()))


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "score."])
def test_convert_cleans_the_names(tmp_path, prefix):
    torch.save({f"{prefix}a": torch.ones(1), f"{prefix}module.b": torch.ones(2)}, tmp_path / "w")
    assert run("convert", tmp_path / "w", tmp_path / "w.safetensors") == 0
    kept = prefix if prefix == "score." else ""
    assert set(load_file(tmp_path / "w.safetensors")) == {f"{kept}a", f"{kept}module.b"}


def test_convert_keeps_what_the_file_says_of_itself_and_is_repeatable(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "w", metadata={"command": "fit", "data": "digits"})
    for name in ("x.safetensors", "y.safetensors"):
        assert run("convert", tmp_path / "w", tmp_path / name) == 0
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    metadata = inspect_weights(tmp_path / "x.safetensors").metadata
    assert (metadata["command"], metadata["data"], metadata["source"]) == ("fit", "digits", "w")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_convert_to_another_type(tmp_path, dtype):
    tensors = {"a": torch.rand(3, dtype=torch.float64), "counter": torch.tensor(7)}
    torch.save(tensors, tmp_path / "w")
    assert run("convert", tmp_path / "w", tmp_path / "w.safetensors", "--dtype", dtype) == 0
    written = load_file(tmp_path / "w.safetensors")
    assert torch.equal(written["a"], tensors["a"].to(getattr(torch, dtype)))
    assert written["counter"].dtype is torch.int64 and written["counter"] == 7


def test_numbers_too_large_for_a_type(capsys, tmp_path):
    torch.save({"a": torch.tensor([1e6])}, tmp_path / "w")
    message = error_of(capsys, "convert", tmp_path / "w", tmp_path / "w.safetensors", "--dtype", "float16")
    assert "a holds numbers too large for float16" in message
    assert not (tmp_path / "w.safetensors").exists()


def test_a_name_that_the_file_needs_for_itself(capsys, tmp_path):
    torch.save({"__metadata__": torch.ones(2), "a": torch.ones(2)}, tmp_path / "w")
    message = error_of(capsys, "convert", tmp_path / "w", tmp_path / "w.safetensors")
    assert "w.safetensors cannot hold a tensor called __metadata__" in message
    assert not (tmp_path / "w.safetensors").exists()


def test_nothing_is_overwritten_without_force(capsys, tmp_path, checkpoint):
    out = tmp_path / "w.safetensors"
    out.write_text("precious")
    assert "exists already" in error_of(capsys, "convert", checkpoint, out)
    assert out.read_text() == "precious"
    assert run("convert", checkpoint, out, "--force") == 0
    assert inspect_weights(out).architecture == "NCSNv2 ngf 4, 1 channel"


def test_a_second_conversion_keeps_the_origin(tmp_path, checkpoint):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert run("convert", checkpoint, first) == 0
    assert run("convert", first, second, "--dtype", "float16") == 0
    metadata = inspect_weights(second).metadata
    assert (metadata["source"], metadata["source sha256"]) == ("checkpoint.pth", sha256(checkpoint))
    assert (metadata["layout"], metadata["weights"]) == ("NCSNv2 checkpoint, EMA", "ema")
    assert metadata["intermediate sha256"] == sha256(first)
    assert run("convert", second, second, "--force") == 0  # in place
    assert inspect_weights(second).metadata["intermediate sha256"] != sha256(first)


def test_mistakes_are_one_line(capsys, tmp_path, checkpoint):
    assert "no weight file at" in error_of(capsys, "inspect", tmp_path / "nowhere")
    assert "must be named OUT.safetensors" in error_of(capsys, "convert", checkpoint, tmp_path / "w.pth")
    (tmp_path / "page.pth").write_text("<html>")
    assert "web page" in error_of(capsys, "convert", tmp_path / "page.pth", tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


# --- weights by name


def test_the_list_says_what_is_here(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LIT_PURSAMERE_CACHE", str(tmp_path))
    assert run("list") == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["digits/ncsnv2"][:4] == ["shipped", "1.9", "MB", "MIT"]
    assert rows["cifar10/ncsnv2"][:4] == ["by", "hand", "?", "MIT"]
    assert rows["cifar10/edm"][:2] == ["downloadable", "?"]
    assert rows["cache:"] == [str(tmp_path)]
    assert run("list", "--here") == 0
    assert "downloadable" not in (out := capsys.readouterr().out) and "digits/ncsnv2" in out


def test_get_says_what_it_got_and_whose_it_is(capsys):
    assert run("get", "digits/ncsnv2") == 0
    out = capsys.readouterr().out
    assert re.search(r"^score model +digits/ncsnv2$", out, re.MULTILINE)
    assert re.search(r"^architecture +NCSNv2 ngf 16, 1 channel$", out, re.MULTILINE)


def test_get_of_a_file_that_was_fetched_by_hand(capsys, tmp_path, checkpoint, monkeypatch):
    monkeypatch.setenv("LIT_PURSAMERE_CACHE", str(tmp_path / "cache"))
    assert "drive.google.com" in error_of(capsys, "get", "cifar10/ncsnv2")
    assert run("get", "cifar10/ncsnv2", "--file", checkpoint) == 0
    out = capsys.readouterr().out
    assert f"{sha256(checkpoint)} is noted" in out
    assert re.search(r"^ +by_hand +https://github.com/ermongroup/ncsnv2/", out, re.MULTILINE)
    assert run("inspect", "cifar10/ncsnv2") == 0
    assert "NCSNv2 checkpoint, EMA" in capsys.readouterr().out


def test_mistyped_names(capsys):
    assert "did you mean cifar10/edm-small?" in error_of(capsys, "get", "cifar10/edm_small")
    assert "a name; did you mean cifar10/edm-small?" in error_of(capsys, "inspect", "cifar10/edm_small")


def test_help_tells_of_the_cache(capsys):
    assert run("get", "--help") == 0
    assert "LIT_PURSAMERE_CACHE" in capsys.readouterr().out


# --- the flag that runs the code in a file


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("archive", [True, False, None], ids=["zip", "legacy", "pickle"])
def test_code_is_run_only_on_the_flag(capsys, tmp_path, archive, save_elsewhere):
    made, out = tmp_path / "made", tmp_path / "w.safetensors"
    content = {"state_dict": {"module.a": torch.ones(2)}, "x": Hostile(str(made))}
    if archive is None:
        save_elsewhere(content, tmp_path / "w", "pickle")
    else:
        torch.save(content, tmp_path / "w", _use_new_zipfile_serialization=archive)
    assert "--execute-code-in-file" in error_of(capsys, "convert", tmp_path / "w", out)
    assert not made.exists() and not out.exists()
    assert run("convert", tmp_path / "w", out, "--execute-code-in-file") == 0
    assert "warning: --execute-code-in-file runs whatever" in capsys.readouterr().err
    assert made.exists() and load_file(out)["a"].tolist() == [1, 1]


def test_inspect_has_no_such_flag(tmp_path, capsys):
    assert run("inspect", tmp_path / "w", "--execute-code-in-file") == 1
    assert "weights inspect has no option --execute-code-in-file" in capsys.readouterr().err


@pytest.mark.parametrize("wrap", [lambda net: {"net": net}, lambda net: net], ids=["net", "whole"])
def test_modules_saved_as_objects_by_running_their_code(tmp_path, ncsnv2, wrap):
    torch.save(wrap(ncsnv2), tmp_path / "w")
    assert run("convert", tmp_path / "w", tmp_path / "a.safetensors") == 0
    assert run("convert", tmp_path / "w", tmp_path / "b.safetensors", "--execute-code-in-file") == 0
    recorded, run_ = (load_file(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    assert set(recorded) == set(run_) == set(ncsnv2.state_dict())
    assert all(torch.equal(recorded[name], run_[name]) for name in recorded)


def test_code_that_is_not_here_is_said_so(capsys, tmp_path, save_elsewhere, edm):
    save_elsewhere({"ema": edm}, tmp_path / "w", "pickle")
    args = ("convert", tmp_path / "w", tmp_path / "w.safetensors", "--execute-code-in-file")
    assert "its code does not run here (No module named 'torch_utils')" in error_of(capsys, *args)
