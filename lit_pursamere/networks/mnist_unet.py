"""MNISTUNet: a small noise-predicting U-Net for 28x28 grey images, of which trained weights are public.

Reference: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, for what it estimates; layers and
parameter names are those of niuwengang/mnist_ddpm, whose weights for MNIST and Fashion-MNIST load as they are.

    t = table[timestep];  at 28, 14, 7 and 3 pixels: h = blocks(h + mlp(t)), halve
    at 7, 14 and 28:      h = blocks([skip, double(h)] + mlp(t));  noise = conv(h)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.unet_parts import sinusoidal_embedding

__all__ = ["MNISTUNet"]

STEPS, TIME = 1000, 100
DOWN = (("b1", "te1", 28, (1, 10, 10, 10)), ("b2", "te2", 14, (10, 20, 20, 20)), ("b3", "te3", 7, (20, 40, 40, 40)))
MIDDLE = ("b_mid", "te_mid", 3, (40, 20, 20, 40))
UP = (
    ("b4", "te4", 7, (80, 40, 20, 20)),
    ("b5", "te5", 14, (40, 20, 10, 10)),
    ("b_out", "te_out", 28, (20, 10, 10, 10)),
)


class Block(nn.Module):
    """norm - conv - silu - conv - silu, the norm over channels and pixels."""

    def __init__(self, inputs: int, outputs: int, size: int, normalised: bool) -> None:
        super().__init__()
        self.ln = nn.LayerNorm((inputs, size, size))  # files hold it where it is not used, too
        self.normalised = normalised
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln(x) if self.normalised else x
        return F.silu(self.conv2(F.silu(self.conv1(h))))


class MNISTUNet(nn.Module):
    """Noise-predicting U-Net: centred states (B, 1, 28, 28) and timesteps (B,) to the noise in them.

    It has 606,852 parameters. The times are rows of a table, one for each of the 1,000 trained steps, so fractions of a
    step are rounded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Embedding(STEPS, TIME)
        self.time_embed.weight.data = sinusoidal_embedding(torch.arange(STEPS), TIME, torch.float32, shift=0)
        self.time_embed.requires_grad_(False)
        for blocks, mlp, size, widths in (*DOWN, MIDDLE, *UP):
            layers = [nn.Linear(TIME, widths[0]), nn.SiLU(), nn.Linear(widths[0], widths[0])]
            self.add_module(mlp, nn.Sequential(*layers))
            normalised = (True, True, blocks != "b_out")
            parts = [Block(widths[i], widths[i + 1], size, normalised[i]) for i in range(3)]
            self.add_module(blocks, nn.Sequential(*parts))
        self.down1, self.down2 = nn.Conv2d(10, 10, 4, 2, 1), nn.Conv2d(20, 20, 4, 2, 1)
        self.down3 = nn.Sequential(nn.Conv2d(40, 40, 2, 1), nn.SiLU(), nn.Conv2d(40, 40, 4, 2, 1))
        up1 = nn.ConvTranspose2d(40, 40, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(40, 40, 2, 1)
        self.up1 = nn.Sequential(*up1)
        self.up2, self.up3 = nn.ConvTranspose2d(20, 20, 4, 2, 1), nn.ConvTranspose2d(10, 10, 4, 2, 1)
        self.conv_out = nn.Conv2d(10, 1, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Estimate the noise in centred states x (B, 1, 28, 28) at timesteps (B,) in [0, 999]; same shape as x."""
        if x.shape[1:] != (1, 28, 28):
            raise ValueError(f"MNISTUNet wants images (B, 1, 28, 28); got {tuple(x.shape)}")
        t = self.time_embed(timestep.round().long())
        skips, h = [], x
        for (blocks, mlp, _, _), down in zip(DOWN, (self.down1, self.down2, self.down3), strict=True):
            h = self._stage(blocks, mlp, h, t)
            skips.append(h)
            h = down(h)
        h = self._stage(*MIDDLE[:2], h, t)
        for (blocks, mlp, _, _), up in zip(UP, (self.up1, self.up2, self.up3), strict=True):
            h = self._stage(blocks, mlp, torch.cat([skips.pop(), up(h)], dim=1), t)
        return self.conv_out(h)

    def _stage(self, blocks: str, mlp: str, h: Tensor, t: Tensor) -> Tensor:
        return getattr(self, blocks)(h + getattr(self, mlp)(t)[:, :, None, None])
