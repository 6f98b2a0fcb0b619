"""Every layout is recognised by its content, gives the right set, and says what it is."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lit_pursamere.networks import WideResNet
from lit_pursamere.weights import inspect_weights, load_weights, read_weights, sha256


def same(a, b):
    """Equal names and equal numbers."""
    assert set(a) == set(b)
    return all(torch.equal(a[name], b[name]) for name in a)


def other(tensors):
    """The same names with other numbers."""
    return {name: tensor + 1 for name, tensor in tensors.items()}


# --- recorded from the official code


@pytest.mark.parametrize(("weights", "prefix"), [("ema", "ema."), ("raw", "param.")])
def test_ncsnv2(golden, golden_tensors, weights, prefix):
    found = inspect_weights(golden / "ncsnv2/cifar10_small_checkpoint_3.pth", weights)
    recorded = golden_tensors("ncsnv2/cifar10_small_train3")
    expected = {name.removeprefix(prefix): tensor for name, tensor in recorded.items() if name.startswith(prefix)}
    named = {name.removeprefix("module."): tensor for name, tensor in found.tensors.items()}
    expected.pop("sigmas", None)
    named.pop("sigmas", None)
    assert same(named, expected)
    assert (found.layout, found.weights) == (f"NCSNv2 checkpoint, {'EMA' if weights == 'ema' else 'raw'}", weights)
    assert found.architecture == "NCSNv2 ngf 8, 3 channels"
    assert found.metadata == {"epoch": "0", "step": "3"}


def test_score_sde_takes_the_average_and_names_it(golden, golden_tensors):
    path = golden / "score_sde/ddpmpp_small_checkpoint.pth"
    found = inspect_weights(path)
    expected = golden_tensors("score_sde/ddpmpp_small_weights")
    del expected["sigmas"]
    assert same(dict(found.tensors), expected)
    raw = {name.removeprefix("module."): tensor for name, tensor in read_weights(path, "raw").items()}
    assert set(raw) == {*expected, "sigmas"}
    assert not torch.equal(raw["all_modules.2.weight"], expected["all_modules.2.weight"])
    assert found.layout == "score_sde checkpoint, EMA"
    assert found.architecture == "DDPM++ nf 16, 2 blocks per resolution, 3 channels"
    assert (found.metadata["step"], found.metadata["ema decay"]) == ("7", "0.9999")
    assert found.sha256 == sha256(path)


def test_edm(golden, golden_tensors):
    found = inspect_weights(golden / "edm/songunet_small_official_layout.pkl")
    recorded = golden_tensors("edm/songunet_small")
    expected = {name[len("weights.") :]: tensor for name, tensor in recorded.items() if name.startswith("weights.")}
    assert same(dict(found.tensors), expected)
    assert (found.layout, found.weights) == ("EDM snapshot (EDMPrecond), EMA", "ema")
    assert found.architecture == "SongUNet 16 channels wide, 1 block per resolution, 32x32x3"
    assert found.metadata["sigma_data"] == "0.5"
    with pytest.raises(ValueError, match="EMA weights only"):
        inspect_weights(golden / "edm/songunet_small_official_layout.pkl", "raw")


# --- score_sde, made here


def score_sde(network, shadow, prefix="module."):
    named = {prefix + "sigmas": torch.ones(3)} | {prefix + n: t for n, t in network.state_dict().items()}
    return {
        "optimizer": {},
        "model": named,
        "ema": {"decay": 0.9, "num_updates": 2, "shadow_params": shadow},
        "step": 5,
    }


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_average_is_named_by_the_model_entry(tmp_path, ncsnv2, prefix):
    average = [parameter.detach() + 1 for parameter in ncsnv2.parameters()]
    torch.save(score_sde(ncsnv2, average, prefix), tmp_path / "w")
    assert same(read_weights(tmp_path / "w"), other(ncsnv2.state_dict()))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda average: average[:-1], "has 152 EMA weights without names and 153 parameters"),
        (lambda average: [*average, torch.ones(1)], "has 154 EMA weights without names and 153 parameters"),
        (lambda average: [average[1], average[0], *average[2:]], r"weight is \(4, 1, 3, 3\) there and \(4,\)"),
        (lambda average: [3, *average[1:]], r"begin_conv.weight is \(4, 1, 3, 3\) there and \(\)"),
        (lambda average: [], "holds no EMA weights"),
        (lambda average: None, "holds no EMA weights"),
    ],
)  # fmt: skip
def test_an_average_that_does_not_fit_the_model_entry_is_refused(tmp_path, ncsnv2, change, complaint):
    average = change([parameter.detach() for parameter in ncsnv2.parameters()])
    torch.save(score_sde(ncsnv2, average), tmp_path / "w")
    with pytest.raises(ValueError, match=complaint) as caught:
        read_weights(tmp_path / "w")
    assert str(tmp_path / "w") in str(caught.value)
    assert len(read_weights(tmp_path / "w", "raw")) == 154


# --- containers


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "net", "model", "best_model"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_classifiers_under_any_customary_key(tmp_path, key, prefix):
    network, loaded = WideResNet(10, 1), WideResNet(10, 1)
    named = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    torch.save({key: named, "epoch": 7, "acc": 0.5, "optimizer": {"state": {}}}, tmp_path / "w")
    load_weights(loaded, tmp_path / "w")
    assert same(loaded.state_dict(), network.state_dict())
    found = inspect_weights(tmp_path / "w", "raw")
    assert (found.layout, found.weights) == (f"checkpoint, weights under `{key}`", "only one")
    assert found.metadata == {"epoch": "7", "acc": "0.5"}
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_a_state_dict_inside_a_container_inside_a_container(tmp_path, ncsnv2):
    torch.save({"net": {"state_dict": ncsnv2.state_dict()}}, tmp_path / "w")
    assert same(read_weights(tmp_path / "w"), ncsnv2.state_dict())


def test_the_stage_that_robustbench_never_uses_is_passed_over(tmp_path):
    network, loaded = WideResNet(10, 1), WideResNet(10, 1)
    named = dict(network.state_dict())
    named |= {f"sub_{name}": tensor for name, tensor in named.items() if name.startswith("block1.")}
    torch.save({"state_dict": named}, tmp_path / "w")
    load_weights(loaded, tmp_path / "w")
    assert same(loaded.state_dict(), network.state_dict())


@pytest.mark.parametrize("key", ["ema", "ema_state_dict", "model_ema"])
def test_an_average_beside_the_raw_weights(tmp_path, ncsnv2, key):
    raw = ncsnv2.state_dict()
    torch.save({"state_dict": raw, key: other(raw)}, tmp_path / "w")
    assert same(read_weights(tmp_path / "w"), other(raw))
    assert same(read_weights(tmp_path / "w", "raw"), raw)
    assert inspect_weights(tmp_path / "w").layout == f"checkpoint, weights under `{key}`, EMA"
    assert inspect_weights(tmp_path / "w", "raw").weights == "raw"


def test_averaged_weights_under_the_main_key(tmp_path, ncsnv2):
    raw = ncsnv2.state_dict()
    torch.save({"unaveraged_model_state_dict": raw, "model_state_dict": other(raw)}, tmp_path / "w")
    assert same(read_weights(tmp_path / "w"), other(raw))
    assert same(read_weights(tmp_path / "w", "raw"), raw)


@pytest.mark.parametrize(
    ("weights", "layout"), [("ema", "Lightning checkpoint, EMA"), ("raw", "Lightning checkpoint, raw")]
)
def test_lightning_with_averaging(tmp_path, ncsnv2, weights, layout):
    raw = ncsnv2.state_dict()
    content = {"state_dict": other(raw), "current_model_state": raw, "pytorch-lightning_version": "2.6.6", "epoch": 4}
    torch.save(content, tmp_path / "w")
    found = inspect_weights(tmp_path / "w", weights)
    assert same(dict(found.tensors), raw if weights == "raw" else other(raw))
    assert (found.layout, found.weights, found.metadata["epoch"]) == (layout, weights, "4")


def test_lightning_without_averaging(tmp_path, ncsnv2):
    content = {"state_dict": ncsnv2.state_dict(), "pytorch-lightning_version": "2.6.6", "epoch": 4}
    torch.save(content, tmp_path / "w")
    found = inspect_weights(tmp_path / "w")
    assert (found.layout, found.weights) == ("Lightning checkpoint", "only one")


def test_plain_files(tmp_path, ncsnv2):
    torch.save(ncsnv2.state_dict(), tmp_path / "a")
    save_file(ncsnv2.state_dict(), tmp_path / "b", metadata={"command": "fit", "steps": "3"})
    found = [inspect_weights(tmp_path / name) for name in "ab"]
    assert [each.layout for each in found] == ["plain state dict", "safetensors"]
    assert [each.weights for each in found] == ["only one"] * 2
    assert found[1].metadata == {"command": "fit", "steps": "3"}
    assert same(dict(found[0].tensors), dict(found[1].tensors))
    assert found[0].dtypes == ("float32",)
    assert found[0].parameters == sum(parameter.numel() for parameter in ncsnv2.parameters())


def test_derived_constants_may_be_there_or_not(tmp_path, ncsnv2):
    class WithConstants(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            for name in ("sigmas", "num_batches_tracked", "resample_filter"):
                self.register_buffer(name, torch.zeros(3))

    module = WithConstants()
    torch.save({"weight": torch.ones(2)}, tmp_path / "without")
    load_weights(module, tmp_path / "without")
    assert module.weight.tolist() == [1, 1] and module.resample_filter.tolist() == [0, 0, 0]
    torch.save({"weight": torch.ones(2), "sigmas": torch.ones(3), "resample_filter": torch.ones(9)}, tmp_path / "with")
    load_weights(module, tmp_path / "with")
    assert module.sigmas.tolist() == [1, 1, 1] and module.resample_filter.tolist() == [0, 0, 0]
