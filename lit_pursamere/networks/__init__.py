"""Plain networks; no mathematics of diffusion and no weight files in here."""

from lit_pursamere.networks.autoencoder import DenoisingAutoencoder, MagNetAutoencoder
from lit_pursamere.networks.ddpm_unet import DDPMUNet
from lit_pursamere.networks.ddpmpp import DDPMpp
from lit_pursamere.networks.ffdnet import FFDNet
from lit_pursamere.networks.ncsnv2 import NCSNv2
from lit_pursamere.networks.normalised import Normalised
from lit_pursamere.networks.songunet import SongUNet
from lit_pursamere.networks.wide_resnet import WideResNet
from lit_pursamere.networks.wide_resnet_adp import WideResNetADP

__all__ = [
    "DDPMUNet",
    "DDPMpp",
    "DenoisingAutoencoder",
    "FFDNet",
    "MagNetAutoencoder",
    "NCSNv2",
    "Normalised",
    "SongUNet",
    "WideResNet",
    "WideResNetADP",
]
