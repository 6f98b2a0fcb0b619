"""Train a score model by denoising score matching: the reconstruction error, minimised over the weights.

Reference: Song & Ermon (2020) and PurSAMERE, eq. (6), with the annealed weighting sigma^2:

    sigma ~ uniform over the levels;  y = x + sigma xi;  loss = 1/2 || xi - xi_hat(y, sigma) ||^2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchvision.utils import make_grid

from lit_pursamere.diffusion import NoiseLevels, ScoreModel, annealed_langevin, expected_reconstruction_error
from lit_pursamere.weights import save_weights

__all__ = ["LitScoreModel"]

BANDS = 5  # the levels are reported in this many groups


class ExponentialMovingAverage(WeightAveraging):
    """Lightning's weight averaging, starting from the initial weights as NCSNv2's own code does."""

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            self._average_model.n_averaged.fill_(1)  # 0 would make the first update a copy instead of a mean


class LitScoreModel(pl.LightningModule):
    """Denoising score matching with an exponential moving average of the weights.

    Args:
        score_model: The model to train.
        sigmas: Noise levels, decreasing: a `NoiseLevels` or an explicit list.
        lr: Adam's learning rate.
        weight_decay: Decoupled weight decay.
        schedule: `constant`, or `cosine` down to 0 over the run.
        ema_decay: Decay of the moving average per step; validation, samples and exported weights use the average.
        sample_every: Epochs between two sample grids in TensorBoard (0: never).
        sampling_step: Langevin step of the samples at the smallest level, squared pixel units.
        export: Where to write the averaged weights as safetensors when training has finished (None: nowhere).

    Defaults are those of the CIFAR-10 model of Song & Ermon (2020), which saw 300,001 batches of 128 images.
    """

    def __init__(
        self,
        score_model: ScoreModel,
        sigmas: NoiseLevels | list[float] = NoiseLevels(),  # noqa: B008 (an immutable value)
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "cosine"] = "constant",
        ema_decay: float = 0.999,
        sample_every: int = 0,
        sampling_step: float = 6.2e-6,
        export: str | None = None,
    ) -> None:
        super().__init__()
        if lr <= 0 or weight_decay < 0 or not 0 <= ema_decay < 1 or sample_every < 0:
            raise ValueError(
                "LitScoreModel needs lr > 0, weight_decay >= 0, ema_decay in [0, 1) and sample_every >= 0; "
                f"got {lr}, {weight_decay}, {ema_decay}, {sample_every}"
            )
        self.score_model = score_model
        levels = sigmas.values if isinstance(sigmas, NoiseLevels) else sigmas
        self.register_buffer("sigmas", torch.tensor(levels), persistent=False)
        self.lr, self.weight_decay, self.schedule, self.ema_decay = lr, weight_decay, schedule, ema_decay
        self.sample_every, self.sampling_step, self.export = sample_every, sampling_step, export
        self.image_shape: torch.Size | None = None  # (C, H, W) of the validation images, for the samples

    def configure_callbacks(self) -> list[pl.Callback]:
        return [ExponentialMovingAverage(self.ema_decay)]

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.score_model.parameters(), self.lr, weight_decay=self.weight_decay)
        if self.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A level and a noise image for every image of x: sigma (B,), noise (1, B, C, H, W)."""
        levels = torch.randint(len(self.sigmas), (len(x),), device=self.device)
        return self.sigmas[levels], torch.randn((1, *x.shape), dtype=x.dtype, device=x.device)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x = batch[0]
        sigma, noise = self.draw(x)
        loss = 0.5 * expected_reconstruction_error(self.score_model, x, sigma, noise).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        x = batch[0]
        self.image_shape = x.shape[1:]
        generator = torch.Generator().manual_seed(batch_idx)  # the same noise at every validation
        losses = []
        for band in torch.tensor_split(self.sigmas, min(BANDS, len(self.sigmas))):
            sigma = band[torch.arange(len(x), device=band.device) % len(band)]
            noise = torch.randn((1, *x.shape), generator=generator).to(x)
            losses.append(0.5 * expected_reconstruction_error(self.score_model, x, sigma, noise).mean())
            name = f"val/loss_sigma_{band[0]:.3g}_to_{band[-1]:.3g}"
            self.log(name, losses[-1], batch_size=len(x), sync_dist=True)
        self.log("val/loss", torch.stack(losses).mean(), prog_bar=True, batch_size=len(x), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        due = self.sample_every and (self.current_epoch + 1) % self.sample_every == 0
        shown = self.trainer.is_global_zero and not self.trainer.sanity_checking
        if due and shown and isinstance(self.logger, TensorBoardLogger):
            images = make_grid(self.sample(16, self.image_shape).clamp(0, 1), nrow=4, padding=1, pad_value=0.5)
            self.logger.experiment.add_image("samples", images, self.global_step)

    @torch.no_grad()
    def sample(self, count: int, shape: Sequence[int], seed: int = 0) -> Tensor:
        """Annealed Langevin samples (count, C, H, W) for the image shape (C, H, W); fixed by weights and seed."""
        generator = torch.Generator(self.device).manual_seed(seed)
        start = torch.rand((count, *shape), generator=generator, device=self.device)
        return annealed_langevin(self.score_model, start, self.sigmas.tolist(), self.sampling_step, 5, generator)

    def on_fit_end(self) -> None:
        if self.export is not None and self.trainer.is_global_zero and not self.trainer.interrupted:
            save_weights(self.score_model, self.export, {"steps": str(self.global_step)})
