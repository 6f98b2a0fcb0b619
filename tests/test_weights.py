"""Weight files are read whatever their layout, must fit exactly and run no code; every bad one is one clear error."""

from __future__ import annotations

import hashlib
import pickle

import pytest
import torch
from safetensors import safe_open

from lit_pursamere.diffusion import NCSNv2Score
from lit_pursamere.networks import NCSNv2, WideResNet
from lit_pursamere.weights import load_weights, read_weights, save_weights, sha256


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NCSNv2(ngf=4, channels=1, image_size=8)


@pytest.fixture
def other():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return NCSNv2(ngf=4, channels=1, image_size=8)


def same(a, b) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- layouts


@pytest.mark.parametrize(("weights", "prefix"), [("ema", "ema."), ("raw", "param.")])
def test_the_official_checkpoint_loads(golden, golden_tensors, weights, prefix):
    model = NCSNv2Score(ngf=8, checkpoint=str(golden / "ncsnv2" / "cifar10_small_checkpoint_3.pth"), weights=weights)
    recorded = golden_tensors("ncsnv2/cifar10_small_train3")
    expected = {name.removeprefix(prefix): tensor for name, tensor in recorded.items() if name.startswith(prefix)}
    assert set(expected) - {"sigmas"} == {name for name, _ in model.network.named_parameters()}
    for name, parameter in model.network.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def test_safetensors_round_trip(tmp_path, network, other):
    path = tmp_path / "made" / "on the way" / "weights.safetensors"
    digest = save_weights(network, path, {"command": "fit"})
    assert not same(network, other)
    load_weights(other, path)
    assert same(network, other)
    assert digest == sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"command": "fit"}
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.safetensors"]


def test_saving_over_a_file_replaces_it(tmp_path, network, other):
    first = save_weights(network, tmp_path / "w.safetensors")
    second = save_weights(other, tmp_path / "w.safetensors")
    assert first != second == sha256(tmp_path / "w.safetensors")
    load_weights(network, tmp_path / "w.safetensors")
    assert same(network, other)


class Wrapper(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.net = network


def test_the_prefix_of_a_wrapper_is_found_in_the_module_too(tmp_path, network, other):
    save_weights(other, tmp_path / "bare.safetensors")
    load_weights(Wrapper(Wrapper(network)), tmp_path / "bare.safetensors")
    assert same(network, other)


def test_a_wrapper_that_computes_by_itself_takes_no_part_of_its_weights(tmp_path, network, other):
    save_weights(other, tmp_path / "bare.safetensors")
    wrapper = Wrapper(network)
    wrapper.head = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="does not fit this Wrapper"):
        load_weights(wrapper, tmp_path / "bare.safetensors")


@pytest.mark.parametrize("prefix", ["", "module.", "score_model.network.", "module.score_model.network."])
def test_any_prefix_is_found(tmp_path, network, other, prefix):
    torch.save({prefix + name: tensor for name, tensor in network.state_dict().items()}, tmp_path / "w.pth")
    load_weights(other, tmp_path / "w.pth")
    assert same(network, other)


def test_the_network_is_found_among_others(tmp_path, network, other):
    state = {f"score_model.network.{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {f"classifier.{name}": tensor for name, tensor in WideResNet(10, 1).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "lightning.ckpt")
    load_weights(other, tmp_path / "lightning.ckpt")
    assert same(network, other)


def test_an_averaged_lightning_checkpoint_holds_both_sets(tmp_path, network, other):
    content = {"state_dict": other.state_dict(), "current_model_state": network.state_dict()}
    torch.save(content, tmp_path / "lightning.ckpt")
    loaded = NCSNv2(ngf=4, channels=1, image_size=8)
    load_weights(loaded, tmp_path / "lightning.ckpt", "ema")
    assert same(loaded, other)
    load_weights(loaded, tmp_path / "lightning.ckpt", "raw")
    assert same(loaded, network)


def test_buffers_of_batch_norm_are_loaded(tmp_path):
    network, loaded = WideResNet(10, 1), WideResNet(10, 1)
    with torch.no_grad():
        network(torch.rand(4, 3, 8, 8))
    save_weights(network, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert same(loaded, network) and loaded.bn1.num_batches_tracked == 1


def test_names_that_public_checkpoints_carry_beside_are_ignored(tmp_path, network, other):
    torch.save(network.state_dict() | {"sigmas": torch.ones(232)}, tmp_path / "w.pth")
    load_weights(other, tmp_path / "w.pth")
    assert same(network, other)


# --- files that do not fit


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (lambda: NCSNv2(ngf=6, channels=1, image_size=8), "shapes differ"),
        (lambda: NCSNv2(ngf=4, channels=3, image_size=8), "shapes differ"),
        (lambda: WideResNet(10, 1), "names are missing"),
    ],
)
def test_another_width_or_architecture_is_refused_and_nothing_is_loaded(tmp_path, network, wanted, complaint):
    path = tmp_path / "w.safetensors"
    save_weights(network, path)
    module = wanted()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=complaint) as caught:
        load_weights(module, path)
    assert str(path) in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "left over"])
def test_one_name_too_few_or_too_many_is_named(tmp_path, network, change):
    state = network.state_dict()
    if change == "missing":
        del state["res2.0.conv1.bias"]
    else:
        state["res2.0.conv9.bias"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"res2\.0\.conv[19]\.bias"):
        load_weights(network, tmp_path / "w.pth")


def test_a_list_without_ema_asks_for_raw_weights(tmp_path, network, other):
    torch.save([network.state_dict(), {}, 0, 3], tmp_path / "w.pth")
    with pytest.raises(ValueError, match="raw"):
        load_weights(other, tmp_path / "w.pth")
    load_weights(other, tmp_path / "w.pth", "raw")
    assert same(network, other)


# --- bad files


def truncated(suffix):
    def write(path):
        network = NCSNv2(ngf=4, channels=1, image_size=8)
        if suffix == ".safetensors":
            save_weights(network, path)
        else:
            torch.save(network.state_dict(), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


BAD = {
    "empty": lambda path: path.write_bytes(b""),
    "html": lambda path: path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "text": lambda path: path.write_text("hello"),
    "git lfs pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", [*BAD, "truncated"])
def test_a_damaged_file_is_one_error_that_names_it(tmp_path, kind, suffix):
    path = tmp_path / f"weights{suffix}"
    (truncated(suffix) if kind == "truncated" else BAD[kind])(path)
    with pytest.raises(ValueError, match="not a readable weight file") as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_garbage_escapes_the_error(tmp_path):
    path, whole = tmp_path / "weights.pth", pickle.dumps({"a": [1, "two", (3.0, None)]}, protocol=2)
    cuts = [whole[:n] for n in range(len(whole))]
    for content in [bytes([first]) + b"ello world\n." for first in range(256)] + cuts:
        path.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            read_weights(path)
        assert str(path) in str(caught.value), content


@pytest.mark.parametrize(
    "content",
    [
        3,
        [],
        {},
        "text",
        None,
        [1, 2, 3],
        {"a": 1},
        {"state_dict": 3},
        {"state_dict": {"epoch": 3}},
        [{"a": torch.ones(1)}, 1, 2, 3, 4],
        torch.ones(3),
        {0: torch.ones(3)},
    ],
    ids=repr,
)
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ValueError) as caught:
        load_weights(NCSNv2(ngf=4, channels=1, image_size=8), path)
    assert str(path) in str(caught.value)


class Malicious:
    """Unpickling this creates a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (self.trace, "w")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", ["pickle", "torch"])
def test_a_malicious_pickle_runs_nothing(tmp_path, layout, suffix):
    path, trace = tmp_path / f"weights{suffix}", tmp_path / "trace"
    content = {"state_dict": {"a": torch.ones(1)}, "x": Malicious(str(trace))}
    if layout == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match="not a readable weight file") as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert not trace.exists()


def test_the_malicious_pickle_would_have_run_elsewhere(tmp_path):
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Malicious(str(trace)))).close()
    assert trace.exists()


@pytest.mark.parametrize("name", ["nowhere.pth", "nowhere.safetensors", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        read_weights(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(FileNotFoundError):
        NCSNv2Score(ngf=4, checkpoint=str(tmp_path / name))


def test_an_unknown_set_of_weights_is_named(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds no weights called 'average'"):
        read_weights(tmp_path / "w.pth", "average")
