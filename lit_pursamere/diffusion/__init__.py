"""The mathematics of noise: score models, noise levels, the expected reconstruction error, sampling, objectives."""

from lit_pursamere.diffusion.noise import FreshNoise, NoiseSource, NoiseTables, PartlySeededNoise, SeededNoise
from lit_pursamere.diffusion.objectives import DDPMObjective, EDMObjective, NCSNObjective, Objective, VPObjective
from lit_pursamere.diffusion.reconstruction import expected_reconstruction_error
from lit_pursamere.diffusion.sampling import annealed_langevin, ddim, heun
from lit_pursamere.diffusion.schedules import NoiseLevels, VariancePreserving
from lit_pursamere.diffusion.score_model import GaussianMixtureScore, ScoreModel
from lit_pursamere.diffusion.wrappers import DDPMppScore, DDPMScore, EDMScore, NCSNv2Score, PreconditionedScore

__all__ = [
    "DDPMObjective",
    "DDPMScore",
    "DDPMppScore",
    "EDMObjective",
    "EDMScore",
    "FreshNoise",
    "GaussianMixtureScore",
    "NCSNObjective",
    "NCSNv2Score",
    "NoiseLevels",
    "NoiseSource",
    "NoiseTables",
    "Objective",
    "PartlySeededNoise",
    "PreconditionedScore",
    "ScoreModel",
    "SeededNoise",
    "VPObjective",
    "VariancePreserving",
    "annealed_langevin",
    "ddim",
    "expected_reconstruction_error",
    "heun",
]
