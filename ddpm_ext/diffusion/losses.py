"""Training losses: each returns one value per sample, shape (B,), averaged over the sample's own dimensions.

    L_simple = E || target - output ||^2                                         Ho et al. 2020, eq. 14
    L_vlb    = the terms of the variational bound, in bits per dimension          Ho et al. 2020, eq. 5
    L_hybrid = L_simple + lambda * L_vlb, lambda = 0.001                          Nichol & Dhariwal 2021, eq. 16

In L_hybrid, L_vlb is the *sum* over t. One random term stands for T of them, so it is weighted by lambda * T; and its
gradient reaches only the variance, because the mean is detached.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import one_of
from .distributions import Gaussian, discretized_log_likelihood, kl_divergence
from .parameterization import Parameterization, clip_to
from .process import GaussianDiffusion


def mean_flat(x: Tensor) -> Tensor:
    """The mean over all dimensions but the first."""
    return x.flatten(1).mean(1)


def simple_loss(
    process: GaussianDiffusion,
    parameterization: Parameterization,
    model_output: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    noise: Tensor,
    t: Tensor,
) -> Tensor:
    """L_simple for a network of any prediction type; a learned variance, if any, is not trained by it."""
    mean_output, _ = parameterization.split(model_output, x_t)
    return mean_flat((parameterization.target(process, x_0, noise, x_t, t) - mean_output) ** 2)


def hybrid_loss(
    process: GaussianDiffusion,
    parameterization: Parameterization,
    model_output: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    noise: Tensor,
    t: Tensor,
    vlb_weight: float = 0.001,
) -> Tensor:
    """L_simple, plus `vlb_weight` times the bound's sum over t for the learned variance (mean detached)."""
    simple = simple_loss(process, parameterization, model_output, x_0, x_t, noise, t)
    mean_output, variance_output = parameterization.split(model_output, x_t)
    frozen_mean = torch.cat([mean_output.detach(), variance_output], dim=1)
    vlb = vlb_terms_bpd(process, parameterization, frozen_mean, x_0, x_t, t)
    return simple + vlb_weight * process.num_timesteps * vlb


def vlb_terms_bpd(
    process: GaussianDiffusion,
    parameterization: Parameterization,
    model_output: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    t: int | Tensor,
    clip_limit: float | None = None,
) -> Tensor:
    """The bound's term at step t, in bits per dimension (Ho et al. 2020, eq. 5).

    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0; at t = 0 minus the discretized log-likelihood of `x_0`,
    which is taken to be 8-bit data scaled to [-1, 1]. `clip_limit` clips the predicted x_0.
    """
    clip = None if clip_limit is None else clip_to(clip_limit)
    reverse = parameterization.reverse(process, model_output, x_t, t, clip).distribution
    return bound_term_bpd(process, reverse, x_0, x_t, t)


def bound_term_bpd(process: GaussianDiffusion, reverse: Gaussian, x_0: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
    """`vlb_terms_bpd` for a reverse distribution that is at hand."""
    if not isinstance(t, Tensor):
        return (_decoder_nats(reverse, x_0) if t == 0 else _kl_nats(process, reverse, x_0, x_t, t)) / math.log(2)
    # Both for every sample: picking out the rows with t = 0 would wait for the device at every training step.
    nats = torch.where(t == 0, _decoder_nats(reverse, x_0), _kl_nats(process, reverse, x_0, x_t, t))
    return nats / math.log(2)


def _kl_nats(process: GaussianDiffusion, reverse: Gaussian, x_0: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
    return mean_flat(kl_divergence(process.posterior(x_0, x_t, t), reverse))


def _decoder_nats(reverse: Gaussian, x_0: Tensor) -> Tensor:
    return -mean_flat(discretized_log_likelihood(x_0, reverse))


TRAINING_LOSSES = ("simple", "hybrid")


@dataclass(frozen=True)
class TrainingLoss:
    """The loss of a training run, chosen by name: what `kind` says, for networks that `parameterization` describes."""

    process: GaussianDiffusion
    parameterization: Parameterization
    kind: str = "simple"
    vlb_weight: float = 0.001

    def __post_init__(self) -> None:
        one_of("loss", self.kind, TRAINING_LOSSES)
        if self.kind == "hybrid" and not self.parameterization.learns_variance:
            raise ValueError(
                f"`loss` is 'hybrid' and `variance_type` '{self.parameterization.variance_type}': the hybrid loss "
                "trains a learned variance; use 'learned' or 'learned_range', or the simple loss."
            )

    def __call__(self, model_output: Tensor, x_0: Tensor, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The loss of each sample, (B,)."""
        arguments = (self.process, self.parameterization, model_output, x_0, x_t, noise, t)
        return simple_loss(*arguments) if self.kind == "simple" else hybrid_loss(*arguments, self.vlb_weight)
