"""The mathematics of noise: score models, noise levels, the expected reconstruction error, sampling, objectives."""

from lit_pursamere.diffusion.autoencoder import AutoencoderScore
from lit_pursamere.diffusion.noise import (
    FreshNoise,
    NoiseSource,
    NoiseTables,
    PartlySeededNoise,
    SeededNoise,
    noise_source,
)
from lit_pursamere.diffusion.objectives import (
    DAEObjective,
    DDPMObjective,
    EDMObjective,
    NCSNObjective,
    Objective,
    VPObjective,
)
from lit_pursamere.diffusion.reconstruction import expected_reconstruction_error
from lit_pursamere.diffusion.sampling import (
    adjusted_langevin_step,
    annealed_langevin,
    churn,
    ddim,
    ddim_step,
    ddpm_moments,
    ddpm_step,
    diffuse,
    heun,
    heun_step,
    langevin_step,
    reverse_ode_step,
    reverse_sde_step,
    vp_clean,
    vp_noise,
    vp_score,
)
from lit_pursamere.diffusion.schedules import NoiseLevels, ReverseStep, VariancePreserving
from lit_pursamere.diffusion.score_model import GaussianMixtureScore, ScoreModel
from lit_pursamere.diffusion.wrappers import DDPMppScore, DDPMScore, EDMScore, NCSNv2Score, PreconditionedScore

__all__ = [
    "AutoencoderScore",
    "DAEObjective",
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
    "ReverseStep",
    "ScoreModel",
    "SeededNoise",
    "VPObjective",
    "VariancePreserving",
    "adjusted_langevin_step",
    "annealed_langevin",
    "churn",
    "ddim",
    "ddim_step",
    "ddpm_moments",
    "ddpm_step",
    "diffuse",
    "expected_reconstruction_error",
    "heun",
    "heun_step",
    "langevin_step",
    "noise_source",
    "reverse_ode_step",
    "reverse_sde_step",
    "vp_clean",
    "vp_noise",
    "vp_score",
]
