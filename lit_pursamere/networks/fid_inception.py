"""The network whose features the Fréchet inception distance compares: Inception-v3 as TensorFlow released it in 2015.

References: Szegedy et al. (2016), "Rethinking the Inception Architecture for Computer Vision"; Heusel et al. (2017),
"GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (FID).

It is torchvision's Inception-v3 but for the pooling between branches: averages at the border count only pixels that are
there, the last block takes the maximum, and there are 1,008 classes. Names of tensors are those of the file
pt_inception-2015-12-05 that PyTorch ports of FID share. That its features equal TensorFlow's was not checked here, for
want of that file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import Inception3
from torchvision.models.inception import InceptionE

__all__ = ["FIDInception"]

AVERAGED = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b")


class MaximumInceptionE(InceptionE):
    """The block whose last branch sees a maximum instead of an average."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:3], self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))]


class FIDInception(Inception3):
    """From images (B, 1 or 3, H, W) in [0, 1] to features (B, 2048).

    Images are brought to 299 pixels bilinearly, and to [-1, 1]; grey ones become three equal channels.
    """

    def __init__(self) -> None:
        super().__init__(num_classes=1008, aux_logits=False, transform_input=False, init_weights=False)
        self.Mixed_7c = MaximumInceptionE(2048)
        for name in AVERAGED:
            getattr(self, name).branch_pool.register_forward_pre_hook(_without_border)
        self.num_features = 2048
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * F.interpolate(x.expand(-1, 3, -1, -1), size=(299, 299), mode="bilinear", align_corners=False) - 1
        for name, part in self.named_children():
            if name in ("avgpool", "dropout", "fc"):
                break
            x = part(x)
        return x.mean((2, 3))


def _without_border(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Averages over 3 x 3 pixels, the border counted as zeros, as averages over the pixels that are there."""
    share = F.avg_pool2d(torch.ones_like(given[0][:1, :1]), 3, stride=1, padding=1)
    return (given[0] / share,)
