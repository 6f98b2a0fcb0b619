"""Networks as score models: what each family wants to be fed, and how its output becomes a noise estimate.

With u = 2 y - 1 and sigma_u = 2 sigma (centred pixels), every U-Net F estimates the noise as

    xi_hat = skip u + out F(scale u, label)

| preconditioning | scale                     | label               | skip                      | out                |
| ddpm            | 1 / sqrt(sigma_u^2 + 1)   | index of sigma_u    | 0                         | 1                  |
| vp              | 1 / sqrt(sigma_u^2 + 1)   | 999 time of sigma_u | 0                         | 1                  |
| ve              | 1                         | ln(sigma_u / 2)     | 0                         | -1                 |
| edm, c = 0.5    | 1 / sqrt(sigma_u^2 + c^2) | ln(sigma_u) / 4     | sigma_u / (sigma_u^2+c^2) | -c times the scale |

NCSNv2 (Song & Ermon, 2020): xi_hat = -F(y), whatever sigma. A denoiser D that is told its sigma, such as FFDNet
(Zhang et al., 2018): xi_hat = (y - D(y, sigma)) / sigma (Tweedie).

References: Karras et al. (2022), table 1, with D = u - sigma_u xi_hat, so that the cancelling terms of (u - D) /
sigma_u are gone; Ho et al. (2020); Song et al. (2021).
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_pursamere.diffusion.sampling import ddpm_moments, learned_variance
from lit_pursamere.diffusion.schedules import VP
from lit_pursamere.diffusion.score_model import Denoiser, ScoreModel, level_tensor, per_image
from lit_pursamere.host import note
from lit_pursamere.networks import DDPMpp, DDPMUNet, FFDNet, GuidedUNet, NCSNv2, SongUNet
from lit_pursamere.networks.unet2d_config import unet_arguments
from lit_pursamere.weights import folder_settings, load_weights

__all__ = [
    "DDPMScore",
    "DDPMppScore",
    "DenoiserScore",
    "EDMScore",
    "FFDNetScore",
    "GuidedDiffusionScore",
    "NCSNv2Score",
    "PreconditionedScore",
]

DATA_STD = 0.5  # EDM's sigma_data
BAND = re.compile(r"val/error_sigma_([\d.e+-]+)_to_([\d.e+-]+)")  # how cards without `trained_at` tell the levels
WORD = re.compile(r"[a-z-]{1,30}")  # what a training is called
SLACK = 1e-6  # relative; levels are rounded to the images' type


def ddpm(sigma_u: Tensor) -> tuple[Tensor, Tensor, float | Tensor, float | Tensor]:
    return torch.rsqrt(sigma_u**2 + 1), VP.index_of_sigma(sigma_u), 0.0, 1.0


def ddpm_nearest(sigma_u: Tensor) -> tuple[Tensor, Tensor, float | Tensor, float | Tensor]:
    return torch.rsqrt(sigma_u**2 + 1), VP.index_of_sigma(sigma_u).round(), 0.0, 1.0


def vp(sigma_u: Tensor) -> tuple[Tensor, Tensor, float | Tensor, float | Tensor]:
    return torch.rsqrt(sigma_u**2 + 1), 999 * VP.time_of_sigma(sigma_u), 0.0, 1.0


def ve(sigma_u: Tensor) -> tuple[Tensor, Tensor, float | Tensor, float | Tensor]:
    return torch.ones_like(sigma_u), (sigma_u / 2).log(), 0.0, -1.0


def edm(sigma_u: Tensor) -> tuple[Tensor, Tensor, float | Tensor, float | Tensor]:
    variance = sigma_u**2 + DATA_STD**2
    return torch.rsqrt(variance), sigma_u.log() / 4, sigma_u / variance, -DATA_STD * torch.rsqrt(variance)


Preconditioning = Literal["ddpm", "ddpm_nearest", "vp", "ve", "edm"]
PRECONDITIONINGS: dict[str, Callable] = {"ddpm": ddpm, "ddpm_nearest": ddpm_nearest, "vp": vp, "ve": ve, "edm": edm}


# What files state of the families, see `weights.settings`: schedulers of diffusers, snapshots of EDM, our own cards.
FAMILIES: dict[str, dict[str, object]] = {
    "ddpm": {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02,
             "trained_betas": None, "prediction_type": "epsilon", "rescale_betas_zero_snr": False},
    "vp": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000},
    "ve": {},
    "edm": {"sigma_data": DATA_STD},
}  # fmt: skip


def prepared(
    network: nn.Module,
    checkpoint: str | None,
    weights: str,
    settings: dict[str, object] | None = None,
    known: tuple[float, float] = ScoreModel._trained_at,
) -> tuple[nn.Module, tuple[float, float]]:
    """Put a network into the layout that convolutions are fastest in, see benchmarks/, and load its weights.

    Its file may not state other `settings` than those that it will be used with; by which paper's `training` the
    weights came about, if it says so, is added to them. With it comes `ScoreModel.trained_at`: what the file says, or
    else `known`.
    """
    network = network.to(memory_format=torch.channels_last)
    card: Mapping[str, str] = {} if checkpoint is None else load_weights(network, checkpoint, weights, settings)
    if settings is not None and WORD.fullmatch(training := str(card.get("training", ""))):
        settings["training"] = training
    return network, stated_levels(card) or known


def stated_levels(card: Mapping[str, str]) -> tuple[float, float] | None:
    """The smallest and the largest noise level of a training, as the card of its weights states them."""
    try:
        low, high = map(float, json.loads(card.get("trained_at", "")))
        return (low, high) if 0 <= low <= high else None
    except (ValueError, TypeError):
        levels = [float(number) for name in card if (band := BAND.fullmatch(name)) for number in band.groups()]
        return (min(levels), max(levels)) if levels else None


class PreconditionedScore(ScoreModel):
    """Any network F(x, label) of one of the four families as a score model.

    Args:
        network: Maps centred images (B, C, H, W) and labels (B,) to an array of the images' shape, or of more channels,
            of which the first C count.
        preconditioning: `ddpm`, `vp`, `ve` or `edm`, see the table above; `ddpm_nearest` rounds the index.
        checkpoint: Weight file for the network, see `weights.load_weights`. None: the weights that it has.
        weights: Which of the two sets that a training checkpoint holds, `ema` or `raw`.
    """

    def __init__(
        self,
        network: nn.Module,
        preconditioning: Preconditioning,
        checkpoint: str | None = None,
        weights: str = "ema",
    ) -> None:
        super().__init__()
        if preconditioning not in PRECONDITIONINGS:
            raise ValueError(f"preconditioning must be one of {', '.join(PRECONDITIONINGS)}; got {preconditioning!r}")
        family = preconditioning.removesuffix("_nearest")
        self.settings = {"preconditioning": family, **FAMILIES[family]}
        known = (0.0, float(VP.sigma_table[-1]) / 2) if family in ("ddpm", "vp") else ScoreModel._trained_at
        self.network, self._trained_at = prepared(network, checkpoint, weights, self.settings, known)
        self.preconditioning = preconditioning

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        sigma_u = 2 * level_tensor(sigma, y).expand(len(y))
        scale, label, skip, out = PRECONDITIONINGS[self.preconditioning](sigma_u)
        u = 2 * y - 1
        noise = per_image(out, y) * self.network(per_image(scale, y) * u, label)[:, : y.shape[1]]
        return noise if isinstance(skip, float) else noise + per_image(skip, y) * u


class NCSNv2Score(ScoreModel):
    """NCSNv2 as a score model: its body estimates minus the noise at any sigma, trained level or not.

    Args:
        checkpoint: Weight file to start from: an official NCSNv2 `checkpoint_*.pth`, a Lightning checkpoint of
            `LitScoreModel`, a plain state dict, or safetensors. None: random weights.
        weights: Which of the two sets that a training checkpoint holds, `ema` or `raw`.
        network: Arguments of the network, `networks.NCSNv2`.

    Reference: Song & Ermon (2020); s(y; sigma) = body(y) / sigma.
    """

    def __init__(self, *, checkpoint: str | None = None, weights: str = "ema", **network: Any) -> None:
        super().__init__()
        self.network, self._trained_at = prepared(NCSNv2(**network), checkpoint, weights)

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        return -self.network(y)


class DenoiserScore(Denoiser):
    """Any denoiser that is told how strong the noise is: by Tweedie it is a score model.

    Args:
        denoiser: Maps noisy images (B, C, H, W), [0, 1] pixels plus noise, and sigmas (B,) in the same units to clean
            images (B, C, H, W).
        sigma_max: Largest noise level that it was trained at, in pixel units; beyond it nothing is known.
        sigma_min: Smallest one, at least 0.
        checkpoint: Weight file for the denoiser, see `weights.load_weights`. None: the weights that it has.
        weights: Which of the two sets that a training checkpoint holds, `ema` or `raw`.

    Raises:
        ValueError: If the levels are not in order.

    Reference: Miyasawa (1961), Efron (2011), "Tweedie's formula". It estimates images, so its estimate of the noise
    loses precision where sigma is small.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        sigma_max: float,
        sigma_min: float = 0.0,
        checkpoint: str | None = None,
        weights: str = "ema",
    ) -> None:
        super().__init__()
        if not 0 <= sigma_min <= sigma_max or not sigma_max > 0:
            raise ValueError(
                f"{type(self).__name__} needs 0 <= sigma_min <= sigma_max and sigma_max above 0; "
                f"got {sigma_min} and {sigma_max}"
            )
        self.network, _ = prepared(denoiser, checkpoint, weights)
        self.sigma_min, self.sigma_max, self._trained_at = sigma_min, sigma_max, (sigma_min, sigma_max)

    def extra_repr(self) -> str:
        return f"sigma_min={self.sigma_min:g}, sigma_max={self.sigma_max:g}"

    def forward(self, y: Tensor, sigma: float | Tensor, clean: bool = False) -> Tensor:
        """Estimate xi from y = x + sigma * xi, or with `clean` x; see `Denoiser.forward`.

        Raises:
            ValueError: If sigma is below `sigma_min` or above `sigma_max` (noted, see `host`).
        """
        level = level_tensor(sigma, y)
        note(self._refuse_unknown, *level.detach().aminmax())
        x = self.network(y, level.expand(len(y)))
        return x if clean else (y - x) / per_image(sigma, y)

    def _refuse_unknown(self, smallest: float, largest: float) -> None:
        who = f"this {type(self.network).__name__} knows noise"
        if not largest <= self.sigma_max * (1 + SLACK):
            raise ValueError(
                f"{who} up to sigma {self.sigma_max:.4g} and was asked at {largest:.4g}; let the purifier start lower, "
                "or take a score model that knows larger levels, such as EDMScore"
            )
        if not smallest >= self.sigma_min * (1 - SLACK):
            raise ValueError(
                f"{who} down to sigma {self.sigma_min:.4g} and was asked at {smallest:.4g}; let the purifier end "
                "higher, or take a score model that knows smaller levels, such as EDMScore"
            )


class FFDNetScore(DenoiserScore):
    """FFDNet as a score model.

    Args:
        sigma_max: Largest noise level that the network was trained at, in pixel units; beyond it nothing is known.
        checkpoint: Weight file, for instance `ffdnet_color.pth`. None: random weights.
        weights: Which of the two sets that a training checkpoint holds, `ema` or `raw`.
        network: Arguments of the network, `networks.FFDNet`.

    Reference: Zhang et al. (2018), "FFDNet", trained for sigma up to 75/255.
    """

    def __init__(
        self, *, sigma_max: float = 75 / 255, checkpoint: str | None = None, weights: str = "ema", **network: Any
    ) -> None:
        super().__init__(FFDNet(**network), sigma_max, checkpoint=checkpoint, weights=weights)


class DDPMScore(PreconditionedScore):
    """The U-Net of DDPM (1000 discrete steps), asked at fractional steps where a level lies between two of them.

    Args:
        index: `fractional`, or `nearest`: ask at the nearest of the 1000 trained steps only.
        checkpoint: Weight file, for instance a diffusers folder such as google/ddpm-cifar10-32. None: random weights.
        weights: Which of the two sets that a training checkpoint holds, `ema` or `raw`.
        network: Arguments of the network, `networks.DDPMUNet`; those left at their defaults are what the config.json of
            a diffusers folder says.

    Raises:
        ValueError: If the config.json asks for what `networks.DDPMUNet` does not have.

    Reference: Ho et al. (2020), "Denoising Diffusion Probabilistic Models". Defaults are the CIFAR-10 network. Levels
    outside the schedule (sigma below 0.005 or above 79) get the label of its end.
    """

    def __init__(
        self,
        *,
        index: Literal["fractional", "nearest"] = "fractional",
        checkpoint: str | None = None,
        weights: str = "ema",
        **network: Any,
    ) -> None:
        if index not in ("fractional", "nearest"):
            raise ValueError(f"DDPMScore needs index 'fractional' or 'nearest'; got {index!r}")
        preconditioning: Preconditioning = "ddpm" if index == "fractional" else "ddpm_nearest"
        # Configurations give defaults as well, so what is given is what differs from them.
        given = {name: value for name, value in network.items() if value != default_of(name, value)}
        unet = (
            DDPMUNet(**{**folder_arguments(checkpoint, weights, given), **given}) if checkpoint else DDPMUNet(**network)
        )
        super().__init__(unet, preconditioning, checkpoint, weights)


def default_of(name: str, value: Any) -> Any:
    """The default of an argument of `DDPMUNet`, a list if the value is one."""
    known = inspect.signature(DDPMUNet).parameters
    default = known[name].default if name in known else None
    return list(default) if isinstance(value, list) and isinstance(default, tuple) else default


def folder_arguments(checkpoint: str, weights: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `DDPMUNet` in a diffusers folder; none if the checkpoint is no folder.

    Raises:
        ValueError: If its config.json describes no such network, or one that its weight file is too small for: a few
            words could make a network of any size.
    """
    if (found := folder_settings(checkpoint, weights)) is None:
        return {}
    stated, size = found
    try:
        own = unet_arguments(stated)
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in DDPMUNet(**{**own, **given}).parameters())
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    if parameters > size:
        raise ValueError(
            f"{checkpoint}: config.json describes a network of {parameters:,} parameters, which the {size:,} bytes of "
            "its weight file cannot hold; is it the file of this network?"
        )
    return own


class GuidedDiffusionScore(PreconditionedScore):
    """The U-Net of guided-diffusion, which DiffPure and GDMP purify ImageNet with; 1000 discrete steps as DDPM's.

    Args:
        checkpoint: Weight file, for instance `256x256_diffusion_uncond.pt`. None: random weights.
        weights: Which of the two sets that a training checkpoint holds, `ema` or `raw`.
        network: Arguments of the network, `networks.GuidedUNet`.

    Reference: Dhariwal & Nichol (2021), "Diffusion Models Beat GANs on Image Synthesis". Defaults are the network for
    ImageNet at 256 pixels. Levels are those of `DDPMScore`, asked at fractional steps.
    """

    def __init__(self, *, checkpoint: str | None = None, weights: str = "ema", **network: Any) -> None:
        super().__init__(GuidedUNet(**network), "ddpm", checkpoint, weights)

    def step_moments(self, u: Tensor, index: int, clip: bool = True) -> tuple[Tensor, Tensor]:
        """Mean and variance (B, C, H, W) of the ancestral step from a trained index, the variance learned.

        Args:
            u: VP states (B, C, H, W) at this index, an integer in [0, 999].
            index: The step; that of 0 leads to the clean image.
            clip: Whether the clean image that the noise means is clipped to [-1, 1].

        Raises:
            ValueError: If the network has no `learn_sigma`.
        """
        told = self.network(u, u.new_full((len(u),), index)).split(u.shape[1], dim=1)
        if len(told) != 2:
            raise ValueError("this GuidedUNet learned no variance: it was built with learn_sigma false")
        noise, v = told
        powers = VP.alpha_bar_table.tolist()
        lower = powers[index - 1] if index > 0 else 1.0
        mean, _ = ddpm_moments(u, noise, powers[index], lower, clip)
        # The last step adds no noise; its variance is told as that of the step before, as the release does.
        certain = None if index > 0 else (1 - powers[1] / powers[0]) * (1 - powers[0]) / (1 - powers[1])
        return mean, learned_variance(v, powers[index], lower, certain)


class DDPMppScore(PreconditionedScore):
    """DDPM++ trained on the continuous VP-SDE, the network of DiffPure.

    Args:
        checkpoint: Weight file, for instance score_sde's `checkpoint_8.pth`. None: random weights.
        weights: Which of the two sets that a training checkpoint holds, `ema` or `raw`.
        network: Arguments of the network, `networks.DDPMpp`.

    Reference: Song et al. (2021), "Score-Based Generative Modeling through SDEs". Defaults are the CIFAR-10 network.
    """

    def __init__(self, *, checkpoint: str | None = None, weights: str = "ema", **network: Any) -> None:
        super().__init__(DDPMpp(**network), "vp", checkpoint, weights)


class EDMScore(PreconditionedScore):
    """EDM's SongUNet under EDM's own, the VP or the VE preconditioning.

    Args:
        preconditioning: `edm`, `vp` or `ve`: what the weights were trained with.
        checkpoint: Weight file, for instance `edm-cifar10-32x32-uncond-vp.pkl`. None: random weights.
        weights: Which of the two sets that a training checkpoint holds, `ema` or `raw`.
        network: Arguments of the network, `networks.SongUNet`.

    Reference: Karras et al. (2022), "Elucidating the Design Space of Diffusion-Based Generative Models". Defaults are
    the CIFAR-10 network of that file, which has EDM's preconditioning in spite of its name.
    """

    def __init__(
        self,
        *,
        preconditioning: Literal["edm", "vp", "ve"] = "edm",
        checkpoint: str | None = None,
        weights: str = "ema",
        **network: Any,
    ) -> None:
        super().__init__(SongUNet(**network), preconditioning, checkpoint, weights)
