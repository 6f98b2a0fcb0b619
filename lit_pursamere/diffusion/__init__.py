"""The mathematics of noise: score models, noise levels, the expected reconstruction error, sampling."""

from lit_pursamere.diffusion.noise import FreshNoise, NoiseSource, SeededNoise
from lit_pursamere.diffusion.reconstruction import expected_reconstruction_error
from lit_pursamere.diffusion.sampling import annealed_langevin
from lit_pursamere.diffusion.schedules import NoiseLevels
from lit_pursamere.diffusion.score_model import GaussianMixtureScore, NCSNv2Score, ScoreModel

__all__ = [
    "FreshNoise",
    "GaussianMixtureScore",
    "NCSNv2Score",
    "NoiseLevels",
    "NoiseSource",
    "ScoreModel",
    "SeededNoise",
    "annealed_langevin",
    "expected_reconstruction_error",
]
