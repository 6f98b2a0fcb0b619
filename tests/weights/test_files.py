"""Files are known by their content; every bad one is one error that names it, says what was found and what to do."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save as safetensors_bytes

from lit_pursamere.networks import NCSNv2, WideResNet
from lit_pursamere.weights import inspect_weights, load_weights, read_weights


def error(path, *args, kind=ValueError):
    with pytest.raises(kind) as caught:
        read_weights(path, *args)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def archive_bytes(content, zipped=True):
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["weights", "weights.pth", "weights.safetensors", "weights.bin", "weights.pkl"])
@pytest.mark.parametrize(
    "write",
    [safetensors_bytes, archive_bytes, lambda content: archive_bytes(content, False)],
    ids=["safetensors", "zip", "legacy"],
)
def test_the_name_of_a_file_means_nothing(tmp_path, name, write):
    (tmp_path / name).write_bytes(write({"a": torch.tensor([1.5])}))
    assert read_weights(tmp_path / name)["a"].tolist() == [1.5]


def test_a_pickle_is_not_taken_for_safetensors(tmp_path):
    """Where the header of safetensors begins, this one has a brace too."""
    tensor = pickle.dumps(torch.ones(1), protocol=2)[2:-1]
    (tmp_path / "w").write_bytes(b"\x80\x02}X\x02\x00\x00\x00{a" + tensor + b"s.")
    assert read_weights(tmp_path / "w")["{a"].tolist() == [1]


# --- what is no weight file


def tar():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "looks like a web page, so the download failed"),
        (b"\n\n  <html lang='en'>", "looks like a web page, so the download failed"),
        ("<!-- é --><html>".encode(), "looks like a web page, so the download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b'{"error": "gone"}', "it is text (it begins '{\"error\": \"gone\"}'), so perhaps the download failed"),
        ("Größe: 3\n".encode(), "it is text"),
        (gzip.compress(b"weights", mtime=0), "it is compressed; unpack it first"),
        (tar(), "neither safetensors, nor torch.save, nor a pickle"),
        (bytes(1000), "it begins with 00 00 00 00"),
        (b"PK\x05\x06" + bytes(18), "without torch's data.pkl (it holds nothing)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_it_is_instead(tmp_path, content, found, name):
    (tmp_path / name).write_bytes(content)
    message = error(tmp_path / name)
    assert found in message and f"({len(content)} bytes)" in message


def test_zip_archives_of_others(tmp_path):
    import numpy as np

    np.savez(tmp_path / "a.npz", weights=np.ones(3))
    assert "without torch's data.pkl (it holds weights.npy)" in error(tmp_path / "a.npz")


def test_torchscript(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"w/{name}", "")
    assert "it is a TorchScript program, not weights" in error(tmp_path / "w.pt")


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors", "edm"])
def test_truncated(tmp_path, ncsnv2, edm, save_elsewhere, layout, part):
    if layout == "edm":
        save_elsewhere({"ema": edm}, tmp_path / "w", "pickle")
    else:
        state = ncsnv2.state_dict()
        whole = safetensors_bytes(state) if layout == "safetensors" else archive_bytes(state, layout == "zip")
        (tmp_path / "w").write_bytes(whole)
    content = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(content[: int(part * len(content))])
    message = error(tmp_path / "w")
    assert "it is cut short or damaged" in message and "again" in message


def test_no_cut_goes_unnoticed(tmp_path, edm, save_elsewhere):
    content = save_elsewhere({"net": torch.ones(1), "x": edm}, tmp_path / "w", "pickle").read_bytes()
    for length in range(0, len(content) - 1, 29):
        (tmp_path / "w").write_bytes(content[:length])
        error(tmp_path / "w")


# --- what is missing


def test_missing_files_and_folders(tmp_path):
    assert "no weight file at" in error(tmp_path / "nowhere", kind=FileNotFoundError)
    (tmp_path / "folder").mkdir()
    assert "it holds nothing" in error(tmp_path / "folder", kind=FileNotFoundError)
    (tmp_path / "folder" / "model.ckpt").touch()
    message = error(tmp_path / "folder", kind=FileNotFoundError)
    assert "not one of diffusers" in message and "it holds model.ckpt" in message


@pytest.mark.parametrize("missing", ["config.json", "diffusion_pytorch_model.bin"])
def test_half_a_diffusers_folder(tmp_path, missing):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    torch.save({"a": torch.ones(1)}, tmp_path / "diffusion_pytorch_model.bin")
    assert read_weights(tmp_path)["a"].tolist() == [1]
    (tmp_path / missing).unlink()
    error(tmp_path, kind=FileNotFoundError)


@pytest.mark.parametrize("config", ["", "{", "[]", "3", "{}", "[" * 100_000, '{"class": "UNet2DModel"}', "\x80"])
def test_configurations_that_are_none(tmp_path, config):
    (tmp_path / "config.json").write_text(config, encoding="latin1")
    torch.save({"a": torch.ones(1)}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"config\.json is not the configuration of a diffusers model"):
        read_weights(tmp_path)


def test_a_bad_file_in_a_diffusers_folder_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (tmp_path / "diffusion_pytorch_model.safetensors").write_text("<html>")
    with pytest.raises(ValueError, match="web page") as caught:
        read_weights(tmp_path)
    assert "diffusion_pytorch_model.safetensors" in str(caught.value)


# --- what the numbers are


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_weights_that_are_no_numbers(tmp_path, bad, dtype):
    tensor = torch.ones(4)
    tensor[2] = bad
    torch.save({"fine": torch.ones(4), "layer.weight": tensor.to(dtype)}, tmp_path / "w")
    assert "NaN or infinite weights: 1 of the 4 numbers of layer.weight" in error(tmp_path / "w")


def test_a_module_is_not_touched_by_a_file_with_nan(tmp_path, ncsnv2):
    state = {name: tensor.clone() for name, tensor in ncsnv2.state_dict().items()}
    torch.save(state | {"end_conv.bias": torch.tensor([float("nan")])}, tmp_path / "w")
    with pytest.raises(ValueError, match=r"end_conv\.bias"):
        load_weights(ncsnv2, tmp_path / "w")
    assert all(torch.equal(tensor, state[name]) for name, tensor in ncsnv2.state_dict().items())


@pytest.mark.parametrize("tensor", [torch.ones(3).to_sparse(), torch.ones(3, device="meta")], ids=["sparse", "meta"])
@pytest.mark.filterwarnings("ignore:.*")
def test_tensors_of_a_kind_that_weights_are_not(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "w")
    assert "save it as a dense tensor" in error(tmp_path / "w")


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_eight_bits(tmp_path, kind):
    torch.save({"a": torch.tensor([1.5, -2.0]).to(kind)}, tmp_path / "w")
    assert read_weights(tmp_path / "w")["a"].float().tolist() == [1.5, -2.0]
    torch.save({"a": torch.tensor([1.5, float("nan")]).to(kind)}, tmp_path / "w")
    assert "1 of the 2 numbers of a" in error(tmp_path / "w")


def test_a_complex_nan(tmp_path):
    torch.save({"a": torch.tensor([complex("nan"), 1j])}, tmp_path / "w")
    assert "1 of the 2 numbers of a" in error(tmp_path / "w")


# --- another architecture


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (lambda: WideResNet(10, 1), "names are missing"),
        (lambda: NCSNv2(ngf=8, channels=1, image_size=8), "shapes differ"),
    ],
)
def test_a_file_that_does_not_fit_says_what_it_is(tmp_path, ncsnv2, wanted, said):
    torch.save(ncsnv2.state_dict(), tmp_path / "w")
    with pytest.raises(ValueError, match=said) as caught:
        load_weights(wanted(), tmp_path / "w")
    assert "the file looks like NCSNv2 ngf 4, 1 channel;" in str(caught.value)


def test_a_file_of_unknown_kind_says_so(tmp_path, ncsnv2):
    torch.save({"a": torch.ones(1)}, tmp_path / "w")
    with pytest.raises(ValueError, match="the file is of no architecture known here"):
        load_weights(ncsnv2, tmp_path / "w")


def test_the_description_of_a_file_does_not_print_its_numbers(tmp_path, ncsnv2):
    torch.save(ncsnv2.state_dict(), tmp_path / "w")
    found = inspect_weights(tmp_path / "w")
    assert "tensor(" not in repr(found) and "NCSNv2 ngf 4" in repr(found)
    assert found == inspect_weights(tmp_path / "w")
    with pytest.raises(AttributeError):
        found.layout = "another"


@pytest.mark.parametrize("kind", [torch.int64, torch.bool])
def test_whole_numbers_are_no_weights(tmp_path, kind):
    network = torch.nn.Linear(2, 2)
    torch.save({name: tensor.to(kind) for name, tensor in network.state_dict().items()}, tmp_path / "w")
    with pytest.raises(ValueError, match=rf"2 tensors are of another kind .*: file {str(kind)[6:]}, here float32"):
        load_weights(network, tmp_path / "w")
