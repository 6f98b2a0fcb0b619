"""Train a score model: the reconstruction error, minimised over the weights.

Reference: PurSAMERE, eq. (6). The objective says which noise is drawn, and how it is weighted; that makes it NCSN's
denoising score matching, DDPM's noise prediction or EDM's loss, and with noise that follows an attack ADDT or ADBM:

    sigma, xi ~ objective;  y = x + sigma xi;  loss = weight(sigma) || xi - xi_hat(y, sigma) ||^2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchvision.utils import make_grid

from lit_pursamere.diffusion import Draw, NCSNObjective, Objective, ScoreModel, noise_residual, psnr
from lit_pursamere.seeding import generator
from lit_pursamere.tasks.tracking import log_image, log_table
from lit_pursamere.tasks.training import ExponentialMovingAverage, Training, cosine, inverse_sqrt, rise
from lit_pursamere.threat import Pixels

__all__ = ["LitScoreModel"]

BANDS = 5  # the levels are reported in this many groups, `val/band_0` ..., in their order: the largest noise first


class LitScoreModel(Training):
    """Score model training with an exponential moving average of the weights.

    Args:
        score_model: The model to train.
        objective: Training noise, weighting and sampler.
        lr: Adam's learning rate.
        betas: Adam's decays of the means of gradients and of their squares.
        weight_decay: Decoupled weight decay.
        warmup: Steps over which the learning rate rises linearly from 0.
        schedule: After the warm-up `constant`; `cosine`, down to 0 over the run; or `inverse_sqrt`, which falls with
            the square root of the step from `decay_from` on and so need not know where the run will end (Karras et al.,
            2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", eq. 67).
        decay_from: Last step of `inverse_sqrt` at the full learning rate.
        ema_decay: Decay of the moving average per step; validation, samples and exported weights use the average.
        ema_warmup: Whether the average forgets the initial weights faster during the first steps.
        ema_power: How fast otherwise: at update n the decay is at most 1 - n^-power, as diffusers has it (ADDT: 3/4).
            None: as `ema_warmup` says.
        psnr_at: Noise levels in pixel units at which validation reports the PSNR of denoised images in dB, 25/255 for
            instance, as `val/psnr_25` (in 255ths). None of them changes the training.
        sample_every: Epochs between two sample grids for the trackers, drawn after a validation (0: never).
        compile: Whether to compile the network with torch.compile: minutes at the start, for long runs on a GPU.
        export: Where to write the averaged weights as safetensors when training has finished (None: nowhere).

    Defaults are those of the CIFAR-10 model of Song & Ermon (2020), which saw 300,001 batches of 128 images.
    """

    headlines = ("val/loss", "val/loss_attacked")
    next_verb = ("predict", "--config", "FILE", "--model.score_model.checkpoint")

    def __init__(
        self,
        score_model: ScoreModel,
        objective: Objective = NCSNObjective(),  # noqa: B008 (an immutable value)
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        warmup: int = 0,
        schedule: Literal["constant", "cosine", "inverse_sqrt"] = "constant",
        decay_from: int = 1,
        ema_decay: float = 0.999,
        ema_warmup: bool = False,
        ema_power: float | None = None,
        psnr_at: Sequence[Pixels] = (),
        sample_every: int = 0,
        compile: bool = False,
        export: str | None = None,
    ) -> None:
        super().__init__(export)
        if lr <= 0 or weight_decay < 0 or warmup < 0 or not 0 <= ema_decay < 1 or sample_every < 0:
            raise ValueError(
                "LitScoreModel needs lr > 0, weight_decay >= 0, warmup >= 0, ema_decay in [0, 1) and "
                f"sample_every >= 0; got {lr}, {weight_decay}, {warmup}, {ema_decay}, {sample_every}"
            )
        levels = tuple(float(Pixels(sigma)) for sigma in psnr_at)
        if decay_from < 1 or any(sigma <= 0 for sigma in levels):
            raise ValueError(f"LitScoreModel needs decay_from >= 1 and psnr_at above 0; got {decay_from}, {psnr_at}")
        if not all(0 <= beta < 1 for beta in betas) or (ema_power is not None and not 0 < ema_power <= 1):
            raise ValueError(
                f"LitScoreModel needs betas in [0, 1) and ema_power in (0, 1], or none; got {betas} and {ema_power}"
            )
        self.score_model, self.objective = score_model, objective
        self.decay_from, self.psnr_at = decay_from, levels
        self.lr, self.betas, self.weight_decay, self.warmup, self.schedule = lr, betas, weight_decay, warmup, schedule
        self.ema_decay, self.ema_warmup, self.ema_power = ema_decay, ema_warmup, ema_power
        self.compile_network = compile
        self.sample_every = sample_every
        self.image_shape: Sequence[int] = ()  # (C, H, W) of the validation images, for the samples

    def configure_callbacks(self) -> list[pl.Callback]:
        return [
            *super().configure_callbacks(),
            ExponentialMovingAverage(self.ema_decay, self.ema_warmup, power=self.ema_power),
        ]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.score_model.parameters(), self.lr, self.betas, weight_decay=self.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_factor(self, step: int) -> float:
        """Learning rate of a step as a fraction of `lr`."""
        if step < self.warmup or self.schedule == "constant" or step == 0:
            return rise(step, self.warmup)
        if self.schedule == "inverse_sqrt":
            return inverse_sqrt(step, self.decay_from)
        # Not before the first step: Lightning would build the loader for it, and then not restore the loader's place.
        return cosine(step, self.warmup, int(self.trainer.estimated_stepping_batches))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        levels = torch.tensor(self.objective.levels)
        bands = [(f"band_{k}", *(round(float(end), 4) for end in (band[0], band[-1])))
                 for k, band in enumerate(torch.tensor_split(levels, min(BANDS, len(levels))))]  # fmt: skip
        log_table(self.trainer, "bands", ("tag", "from sigma", "to sigma"), bands)
        if self.compile_network:
            network: Any = self.score_model.network
            network.compile()

    def draw(self, x: Tensor, labels: Tensor | None = None, generator: torch.Generator | None = None) -> Draw:
        """Noise for every image of x (B, C, H, W), see `Objective.draw`."""
        return self.objective.draw(x, labels, self.score_model, generator)

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Weighted reconstruction error, and what an objective adds to it; mean over the batch."""
        residual = noise_residual(self.score_model, x, sigma, noise)[0]
        return self.objective.loss(residual, sigma, x, labels).mean()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, labels, _ = batch
        sigma, noise, extra = self.draw(x, labels)
        loss = self.loss(x, sigma, noise, labels) + extra
        self.log("train/loss", loss, prog_bar=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        x, labels, _ = batch
        logged: dict[str, Any] = {"batch_size": len(x), "sync_dist": True}
        self.image_shape = x.shape[1:]
        draws = generator(0, batch_idx)  # the same noise at every validation
        levels, losses = torch.tensor(self.objective.levels, device=x.device), []
        for number, band in enumerate(torch.tensor_split(levels, min(BANDS, len(levels)))):
            sigma = band[torch.linspace(0, len(band) - 1, len(x), device=x.device).round().long()]
            noise = torch.randn((1, *x.shape), generator=draws).to(x)
            residual = noise_residual(self.score_model, x, sigma, noise)[0]
            losses.append(self.objective.loss(residual, sigma, x, labels).mean())
            self.log(f"val/band_{number}", residual.square().mean(), **logged)
        for level in self.psnr_at:
            noise = torch.randn(x.shape, generator=draws).to(x)
            self.log(f"val/psnr_{255 * level:.3g}", psnr(self.score_model, x, level, noise).mean(), **logged)
        self.log("val/loss", torch.stack(losses).mean(), prog_bar=True, **logged)
        if self.objective.refinements:
            self.log("val/loss_attacked", self.attacked_loss(x, labels, draws), prog_bar=True, **logged)

    def attacked_loss(self, x: Tensor, labels: Tensor, draws: torch.Generator) -> Tensor:
        """The loss on the noise of the training, which follows an attack; `val/loss` is that on Gaussian noise."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "this noise needs gradients: use Trainer(inference_mode=False), as the command line does"
            )
        with torch.enable_grad():
            sigma, noise, _ = self.draw(x, labels, draws)
        return self.loss(x, sigma, noise, labels)

    def on_validation_epoch_end(self) -> None:
        due = self.sample_every and (self.current_epoch + 1) % self.sample_every == 0
        shown = self.trainer.is_global_zero and not self.trainer.sanity_checking
        if due and shown and self.trainer.loggers:
            images = make_grid(self.sample(16, self.image_shape).clamp(0, 1), nrow=4, padding=1, pad_value=0.5)
            log_image(self.trainer, "samples", images)

    @torch.no_grad()
    def sample(self, count: int, shape: Sequence[int], seed: int = 0) -> Tensor:
        """Samples (count, C, H, W) of the image shape (C, H, W); fixed by weights and seed."""
        draws = torch.Generator(self.device).manual_seed(seed)
        return self.objective.sample(self.score_model, (count, *shape), draws)

    def on_fit_end(self) -> None:
        self.export_weights(self.score_model, self.export)

    def facts(self) -> dict[str, object]:
        return {
            "score_model": type(self.score_model).__name__,
            **getattr(self.score_model, "settings", {}),
            **self.objective.facts(),
            "trained_at": [min(self.objective.levels), max(self.objective.levels)],
            "lr": self.lr,
            "ema_decay": self.ema_decay,
            "ema_power": self.ema_power,
        }
