"""Plain networks; no mathematics of diffusion and no weight files in here."""

from lit_pursamere.networks.autoencoder import DenoisingAutoencoder, MagNetAutoencoder
from lit_pursamere.networks.ddpm_unet import DDPMUNet
from lit_pursamere.networks.ddpmpp import DDPMpp
from lit_pursamere.networks.dm_preact_resnet import DMPreActResNet
from lit_pursamere.networks.dm_wide_resnet import DMWideResNet
from lit_pursamere.networks.ffdnet import FFDNet
from lit_pursamere.networks.guided_unet import GuidedUNet
from lit_pursamere.networks.mnist_cnn import LeNet5, MadryCNN
from lit_pursamere.networks.mnist_energy import MNISTEnergy
from lit_pursamere.networks.mnist_unet import MNISTUNet
from lit_pursamere.networks.ncsnv2 import NCSNv2
from lit_pursamere.networks.normalised import Normalised
from lit_pursamere.networks.resnet import CIFARResNet, ResNet4b, ResNet18
from lit_pursamere.networks.songunet import SongUNet
from lit_pursamere.networks.wide_resnet import WideResNet
from lit_pursamere.networks.wide_resnet_adp import WideResNetADP

__all__ = [
    "CIFARResNet",
    "DDPMUNet",
    "DDPMpp",
    "DMPreActResNet",
    "DMWideResNet",
    "DenoisingAutoencoder",
    "FFDNet",
    "GuidedUNet",
    "LeNet5",
    "MNISTEnergy",
    "MNISTUNet",
    "MadryCNN",
    "MagNetAutoencoder",
    "NCSNv2",
    "Normalised",
    "ResNet4b",
    "ResNet18",
    "SongUNet",
    "WideResNet",
    "WideResNetADP",
]
