"""Plain networks; no mathematics of diffusion and no weight files in here."""

from lit_pursamere.networks.ncsnv2 import NCSNv2
from lit_pursamere.networks.wide_resnet import WideResNet

__all__ = ["NCSNv2", "WideResNet"]
