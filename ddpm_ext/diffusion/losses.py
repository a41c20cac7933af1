"""Training losses: each returns one value per sample, shape (B,), averaged over the sample's own dimensions.

    L_simple = E || target - output ||^2                                         Ho et al. 2020, eq. 14
    L_vlb    = the terms of the variational bound, in bits per dimension          Ho et al. 2020, eq. 5
    L_hybrid = L_simple + lambda * L_vlb, lambda = 0.001                          Nichol & Dhariwal 2021, eq. 16

In L_hybrid, L_vlb is the *sum* over t. One random term stands for T of them, so it is weighted by lambda * T; and its
gradient reaches only the variance, because the mean is detached.

Weightings by the signal-to-noise ratio are declared where they mean the same for every prediction type, on the error
of x_0, and converted to the error of what the network predicts:

    x_0 - x_0_hat = (target - output) * 1/sqrt(SNR) | 1 | 1/sqrt(SNR + 1) | 1/c1      epsilon | sample | v | mean
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import one_of
from .distributions import Gaussian, discretized_log_likelihood, kl_divergence
from .parameterization import Parameterization, clip_to
from .process import GaussianDiffusion


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) on the squared error of x_0 (Hang et al. 2023, eq. 8)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"`gamma` is {self.gamma!r}: a number above 0 is accepted.")

    def weight_of_x_0(self, snr: Tensor) -> Tensor:
        return snr.clamp(max=self.gamma)


@dataclass(frozen=True)
class P2:
    """SNR / (k + SNR)^gamma on the squared error of x_0, that is 1 / (k + SNR)^gamma on that of the noise
    (Choi et al. 2022, eq. 8)."""

    gamma: float = 1.0
    k: float = 1.0

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and self.k > 0):
            raise ValueError(f"`gamma` is {self.gamma!r} and `k` {self.k!r}: gamma >= 0 and k > 0 are accepted.")

    def weight_of_x_0(self, snr: Tensor) -> Tensor:
        return snr / (self.k + snr) ** self.gamma


def snr_weight(
    process: GaussianDiffusion, parameterization: Parameterization, t: int | Tensor, weighting: MinSNR | P2 | None
) -> Tensor:
    """What |target - output|^2 at `t` is multiplied by, float64, shaped like `t`: ones for None, each type's plain L2.

    With a weighting, networks of all prediction types that stand for the same x_0_hat have the same loss, and the same
    gradient with respect to x_0_hat. Where nothing is left of the signal (zero terminal SNR), weights are 0.
    """
    snr = process.snr(t)
    if weighting is None:
        return torch.ones_like(snr)
    prediction_type = parameterization.prediction_type
    weight = weighting.weight_of_x_0(snr)
    if prediction_type == "sample":
        return weight
    if prediction_type == "v_prediction":
        return weight / (snr + 1)
    if prediction_type == "mean":
        return weight / process.coefficient("trained_posterior_mean_coef_x_0", t, snr) ** 2
    if process.table["alphas_cumprod"][-1] == 0:
        raise ValueError(
            "`prediction_type` is 'epsilon' and the chain ends without any signal: x_0 does not follow from the noise "
            "there; use 'v_prediction' or 'sample'."
        )
    return weight / snr


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
    weighting: MinSNR | P2 | None = None,
) -> Tensor:
    """L_simple for a network of any prediction type, times `snr_weight`; a learned variance is not trained by it."""
    mean_output, _ = parameterization.split(model_output, x_t)
    loss = mean_flat((parameterization.target(process, x_0, noise, x_t, t) - mean_output) ** 2)
    return loss if weighting is None else loss * snr_weight(process, parameterization, t, weighting).to(loss.dtype)


def hybrid_loss(
    process: GaussianDiffusion,
    parameterization: Parameterization,
    model_output: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    noise: Tensor,
    t: Tensor,
    vlb_weight: float = 0.001,
    weighting: MinSNR | P2 | None = None,
) -> Tensor:
    """L_simple, plus `vlb_weight` times the bound's sum over t for the learned variance (mean detached).

    `weighting` concerns L_simple alone.
    """
    simple = simple_loss(process, parameterization, model_output, x_0, x_t, noise, t, weighting)
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


def vlb_loss(
    process: GaussianDiffusion,
    parameterization: Parameterization,
    model_output: Tensor,
    x_0: Tensor,
    x_t: Tensor,
    t: Tensor,
) -> Tensor:
    """L_vlb of one random term, bits per dimension: T times the term at t, whose mean is the whole bound but for the
    prior. Mean and variance are both trained (OpenAI's `rescaled_kl`)."""
    return process.num_timesteps * vlb_terms_bpd(process, parameterization, model_output, x_0, x_t, t)


TRAINING_LOSSES = ("simple", "hybrid", "vlb")


@dataclass(frozen=True)
class TrainingLoss:
    """The loss of a training run, chosen by name: what `kind` says, for networks that `parameterization` describes.

    `weighting` multiplies L_simple, also within the hybrid loss; the variational bound brings its own weights.
    """

    process: GaussianDiffusion
    parameterization: Parameterization
    kind: str = "simple"
    vlb_weight: float = 0.001
    weighting: MinSNR | P2 | None = None

    def __post_init__(self) -> None:
        one_of("loss", self.kind, TRAINING_LOSSES)
        if self.kind == "hybrid" and not self.parameterization.learns_variance:
            raise ValueError(
                f"`loss` is 'hybrid' and `variance_type` '{self.parameterization.variance_type}': the hybrid loss "
                "trains a learned variance; use 'learned' or 'learned_range', or the simple loss."
            )
        if self.kind == "vlb" and self.weighting is not None:
            raise ValueError(
                f"`weighting` is {self.weighting} and `loss` 'vlb': the bound's terms have the weights that make it a "
                "bound; leave `weighting` out, or use the simple or the hybrid loss."
            )

    def __call__(self, model_output: Tensor, x_0: Tensor, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The loss of each sample, (B,)."""
        if self.kind == "vlb":
            return vlb_loss(self.process, self.parameterization, model_output, x_0, x_t, t)
        arguments = (self.process, self.parameterization, model_output, x_0, x_t, noise, t)
        if self.kind == "simple":
            return simple_loss(*arguments, self.weighting)
        return hybrid_loss(*arguments, self.vlb_weight, self.weighting)
