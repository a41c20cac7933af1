"""The mathematics of improved DDPM on plain tensors of any shape: float64 tables, each formula once.

Nothing here knows of networks, files or diffusers: it needs torch (and numpy) alone.
"""

from .distributions import Gaussian, discretized_log_likelihood, kl_divergence
from .losses import TrainingLoss, hybrid_loss, simple_loss, vlb_terms_bpd
from .noise_schedules import BETA_SCHEDULES, canonical_beta_schedule, make_betas, rescale_zero_terminal_snr
from .parameterization import PREDICTION_TYPES, VARIANCE_TYPES, Parameterization, Reverse
from .process import GaussianDiffusion
from .timestep_samplers import UniformTimesteps


__all__ = [
    "BETA_SCHEDULES",
    "PREDICTION_TYPES",
    "VARIANCE_TYPES",
    "Gaussian",
    "GaussianDiffusion",
    "Parameterization",
    "Reverse",
    "TrainingLoss",
    "UniformTimesteps",
    "canonical_beta_schedule",
    "discretized_log_likelihood",
    "hybrid_loss",
    "kl_divergence",
    "make_betas",
    "rescale_zero_terminal_snr",
    "simple_loss",
    "vlb_terms_bpd",
]
