"""The mathematics of improved DDPM on plain tensors of any shape: float64 tables, each formula once.

Nothing here knows of networks, files or diffusers: it needs torch (and numpy) alone.
"""

from .distributions import Gaussian, discretized_log_likelihood, kl_divergence
from .flow_matching import FlowMatching, LogitNormalTimes, UniformTimes
from .likelihood import (
    BitsPerDim,
    BitsPerDimEstimate,
    estimate_bits_per_dim,
    exact_bits_per_dim,
    prior_bits_per_dim,
)
from .likelihood_ode import FlowLikelihood, probability_flow_bits_per_dim
from .losses import P2, MinSNR, TrainingLoss, hybrid_loss, simple_loss, snr_weight, vlb_loss, vlb_terms_bpd
from .noise_schedules import BETA_SCHEDULES, canonical_beta_schedule, make_betas, rescale_zero_terminal_snr
from .parameterization import PREDICTION_TYPES, VARIANCE_TYPES, Parameterization, Reverse
from .process import GaussianDiffusion
from .timestep_samplers import LossSecondMomentTimesteps, TimestepSampler, UniformTimesteps


__all__ = [
    "BETA_SCHEDULES",
    "PREDICTION_TYPES",
    "VARIANCE_TYPES",
    "BitsPerDim",
    "BitsPerDimEstimate",
    "FlowLikelihood",
    "FlowMatching",
    "Gaussian",
    "GaussianDiffusion",
    "LogitNormalTimes",
    "LossSecondMomentTimesteps",
    "MinSNR",
    "P2",
    "Parameterization",
    "Reverse",
    "TimestepSampler",
    "TrainingLoss",
    "UniformTimes",
    "UniformTimesteps",
    "canonical_beta_schedule",
    "discretized_log_likelihood",
    "estimate_bits_per_dim",
    "exact_bits_per_dim",
    "hybrid_loss",
    "kl_divergence",
    "make_betas",
    "prior_bits_per_dim",
    "probability_flow_bits_per_dim",
    "rescale_zero_terminal_snr",
    "simple_loss",
    "snr_weight",
    "vlb_loss",
    "vlb_terms_bpd",
]
