"""Settings that a file states and no shape shows are those of the network, or the file is refused with what differs."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lit_pursamere.configuration.building import build
from lit_pursamere.diffusion import AutoencoderScore, DDPMScore, EDMScore, ScoreModel
from lit_pursamere.networks import DDPMUNet, DenoisingAutoencoder, WideResNet
from lit_pursamere.tasks import LitScoreModel
from lit_pursamere.weights import inspect_weights, load_weights, model_card, save_weights
from lit_pursamere.weights.conversion import write_safetensors
from lit_pursamere.weights.settings import settings_of

SMALL = {"block_out_channels": (32, 64), "attention": (False, True), "layers_per_block": 1, "image_size": 16}
GOOGLE = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None,
    "block_out_channels": [32, 64], "center_input_sample": False, "downsample_padding": 0, "flip_sin_to_cos": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "freq_shift": 1, "in_channels": 3, "layers_per_block": 1, "mid_block_scale_factor": 1, "norm_eps": 1e-06,
    "norm_num_groups": 32, "out_channels": 3, "sample_size": 16, "time_embedding_type": "positional",
}  # fmt: skip
SCHEDULER = {
    "_class_name": "DDPMScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
    "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None, "variance_type": "fixed_large",
    "prediction_type": "epsilon",
}  # fmt: skip


@pytest.fixture(scope="module")
def unet():
    return {name: tensor.contiguous() for name, tensor in DDPMUNet(**SMALL).state_dict().items()}


@pytest.fixture
def folder(tmp_path, unet):
    """A folder of diffusers, its weights in a part of it, the schedule wherever that is kept."""

    def write(config, scheduler=None, part=".", place="scheduler_config.json"):
        (tmp_path / part).mkdir(exist_ok=True)
        save_file(unet, tmp_path / part / "diffusion_pytorch_model.safetensors")
        (tmp_path / part / "config.json").write_text(json.dumps(GOOGLE | config))
        if scheduler is not None:
            (tmp_path / place).parent.mkdir(exist_ok=True)
            (tmp_path / place).write_text(json.dumps(SCHEDULER | scheduler))
        return str(tmp_path)

    return write


def test_the_released_settings_are_ours(folder):
    DDPMScore(**SMALL, checkpoint=folder({}, {}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("attention_head_dim", 8), ("flip_sin_to_cos", True), ("freq_shift", 0), ("downsample_padding", 1),
     ("norm_eps", 1e-5), ("act_fn", "gelu"), ("norm_num_groups", 16), ("time_embedding_type", "fourier"),
     ("resnet_time_scale_shift", "scale_shift"), ("center_input_sample", True)],
)  # fmt: skip
def test_other_settings_than_those_of_a_network_are_refused(folder, name, value):
    with pytest.raises(ValueError, match=f"was made for {name} {json.dumps(value)}".replace('"', "")) as caught:
        load_weights(DDPMUNet(**SMALL), folder({name: value}))
    assert "\n" not in str(caught.value)


def test_what_is_not_given_is_what_the_folder_says(folder):
    network = DDPMScore(checkpoint=folder({"attention_head_dim": 8, "act_fn": "gelu"})).network
    assert (network.settings["attention_head_dim"], network.settings["act_fn"]) == (8, "gelu")
    assert network.image_size == 16 and len(network.down_blocks) == 2
    with pytest.raises(ValueError, match="was made for act_fn gelu, and this DDPMUNet computes with act_fn relu"):
        DDPMScore(checkpoint=folder({"act_fn": "gelu"}), act_fn="relu")


def test_so_it_is_in_a_configuration_which_gives_defaults_too(folder):
    arguments = {"checkpoint": folder({"attention_head_dim": 8}), "index": "nearest"}
    content = {"class_path": "lit_pursamere.diffusion.DDPMScore", "init_args": arguments}
    network = build(ScoreModel, content).network
    assert (network.settings["attention_head_dim"], network.image_size) == (8, 16)


def test_a_configuration_of_a_network_that_its_file_cannot_hold_is_refused_before_it_is_built(folder):
    with pytest.raises(
        ValueError, match=r"describes a network of [\d,]{14,} parameters, which the [\d,]+ bytes"
    ) as caught:
        DDPMScore(checkpoint=folder({"block_out_channels": [32, 1 << 20]}))
    assert "\n" not in str(caught.value)


def test_what_no_network_here_has_is_refused_with_the_folder(folder):
    with pytest.raises(
        ValueError, match=r"DDPMUNet has no way of time_embedding_type fourier; center_input_sample"
    ) as caught:
        DDPMScore(checkpoint=(place := folder({"time_embedding_type": "fourier", "center_input_sample": True})))
    assert str(caught.value).startswith(place) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "place"),
    [
        (".", "scheduler_config.json"),
        (".", "scheduler/scheduler_config.json"),
        ("unet", "scheduler/scheduler_config.json"),
    ],
)
@pytest.mark.parametrize(
    ("name", "value"),
    [("prediction_type", "v_prediction"), ("beta_schedule", "squaredcos_cap_v2"), ("beta_end", 0.012),
     ("num_train_timesteps", 4000), ("trained_betas", [0.1, 0.2])],
)  # fmt: skip
def test_other_schedules_are_refused(folder, name, value, part, place):
    with pytest.raises(ValueError, match=f"was made for {name}"):
        DDPMScore(**SMALL, checkpoint=folder({}, {name: value}, part, place))


def test_all_that_differs_is_named_also_after_conversion(folder, tmp_path):
    found = inspect_weights(folder({"freq_shift": 0}, {"beta_end": 0.012}))
    write_safetensors(found, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"freq_shift 0, beta_end 0\.012"):
        DDPMScore(**SMALL, checkpoint=str(tmp_path / "w.safetensors"))


def test_a_scheduler_that_is_none_is_named(folder, tmp_path):
    folder({}, {})
    (tmp_path / "scheduler_config.json").write_text("[")
    with pytest.raises(ValueError, match=r"scheduler_config\.json is not the configuration"):
        DDPMScore(**SMALL, checkpoint=str(tmp_path))


# --- EDM


@pytest.mark.parametrize("how", ["pickle", "zip"])
@pytest.mark.parametrize(
    ("kind", "sigma_data", "preconditioning", "complaint"),
    [("EDMPrecond", 0.5, "edm", None), ("EDMPrecond", 0.5, "vp", "preconditioning edm"),
     ("EDMPrecond", 1.0, "edm", r"sigma_data 1\.0"), ("VPPrecond", None, "edm", "preconditioning vp"),
     ("VPPrecond", None, "vp", None), ("iDDPMPrecond", None, "ve", "preconditioning iddpm")],
)  # fmt: skip
def test_edm_snapshots_say_what_they_were_trained_as(
    tmp_path, save_elsewhere, edm, kind, sigma_data, preconditioning, complaint, how
):
    small = {
        "model_channels": 16,
        "channel_mult": (1,),
        "num_blocks": 1,
        "attn_resolutions": (),
        "image_size": 16,
        "augment_dim": 0,
    }
    edm.model = EDMScore(**small).network
    edm.sigma_data = sigma_data
    edm.__class__ = type(kind, (type(edm),), {"__reduce__": snapshot})
    save_elsewhere({"ema": edm}, tmp_path / "w", how)
    if complaint is None:
        EDMScore(preconditioning=preconditioning, **small, checkpoint=str(tmp_path / "w"))
    else:
        with pytest.raises(ValueError, match=f"was made for {complaint}"):
            EDMScore(preconditioning=preconditioning, **small, checkpoint=str(tmp_path / "w"))


def snapshot(module):
    import sys

    facts = {"class_name": type(module).__name__, "module_src": "", "state": dict(module.__dict__)}
    return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (facts,)


# --- normalisation


def normalised(mean=(0.4914, 0.4822, 0.4465), std=(0.25, 0.25, 0.25), names=("normalize.mean", "normalize.std")):
    network = WideResNet(10, 1).state_dict()
    numbers = {name: torch.tensor(each).view(1, 3, 1, 1) for name, each in zip(names, (mean, std), strict=True)}
    return numbers | {f"model.{name}": tensor for name, tensor in network.items()}


@pytest.mark.parametrize("names", [("normalize.mean", "normalize.std"), ("mean", "std"), ("model.mu", "model.sigma"),
                                   ("module.normalizer.new_mean", "module.normalizer.new_std")])  # fmt: skip
@pytest.mark.parametrize("container", ["plain", "state_dict"])
def test_tensors_of_a_normalisation(tmp_path, names, container):
    state = normalised(names=names)
    torch.save(state if container == "plain" else {"state_dict": state}, tmp_path / "w")
    with pytest.raises(ValueError, match=r"was made for mean \[0.4914, 0.4822, 0.4465\], std \[0.25, 0.25, 0.25\]"):
        load_weights(WideResNet(10, 1), tmp_path / "w")
    with pytest.raises(ValueError, match="computes with std"):
        load_weights(WideResNet(10, 1, mean=(0.4914, 0.4822, 0.4465), std=(0.2, 0.2, 0.2)), tmp_path / "w")
    network = WideResNet(10, 1, mean=(0.4914, 0.4822, 0.4465), std=(0.25, 0.25, 0.25))
    load_weights(network, tmp_path / "w")
    assert torch.equal(network.fc.weight, state["model.fc.weight"])
    assert inspect_weights(tmp_path / "w").metadata["std"] == "[0.25, 0.25, 0.25]"


def test_a_refused_file_changes_nothing(tmp_path):
    torch.save(normalised(), tmp_path / "w")
    network = WideResNet(10, 1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match="was made for"):
        load_weights(network, tmp_path / "w")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_module_that_loads_its_normalisation_needs_no_other(tmp_path):
    class Persistent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(1, 1)
            self.register_buffer("mean", torch.zeros(1))
            self.register_buffer("std", torch.ones(1))

    network = Persistent()
    torch.save(network.state_dict() | {"mean": torch.tensor([0.3])}, tmp_path / "w")
    load_weights(network, tmp_path / "w")
    assert network.mean.item() == pytest.approx(0.3)


@pytest.mark.parametrize("trained", [{}, {"mean": [0.3], "std": [0.05]}])
@pytest.mark.parametrize("used", [{}, {"mean": [0.3], "std": [0.05]}, {"mean": [0.3], "std": [0.1]}])
def test_the_card_of_a_classifier_says_its_normalisation(tmp_path, trained, used):
    network = WideResNet(10, 1, channels=1, **trained)
    card = model_card(**settings_of(network))
    save_weights(network, tmp_path / "w.safetensors", card)
    torch.save({"state_dict": network.state_dict(), "card": card}, tmp_path / "w.ckpt")
    for file in ("w.safetensors", "w.ckpt"):
        if used == trained:
            load_weights(WideResNet(10, 1, channels=1, **used), tmp_path / file)
        else:
            with pytest.raises(ValueError, match="was made for"):
                load_weights(WideResNet(10, 1, channels=1, **used), tmp_path / file)


def test_the_card_of_a_score_model_says_what_it_was_trained_as(tmp_path):
    score = AutoencoderScore(DenoisingAutoencoder(1, 4), sigma2=0.15)
    card = {name: str(value) for name, value in LitScoreModel(score).facts().items() if name == "sigma2"}
    save_weights(score, tmp_path / "w.safetensors", card)
    AutoencoderScore(DenoisingAutoencoder(1, 4), sigma2=0.15, checkpoint=str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match=r"was made for sigma2 0\.15"):
        AutoencoderScore(DenoisingAutoencoder(1, 4), sigma2=0.01, checkpoint=str(tmp_path / "w.safetensors"))
