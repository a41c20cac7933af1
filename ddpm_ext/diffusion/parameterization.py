"""The reverse process p: what a network's output means.

A network of `prediction_type` is read by way of x_0, the hub: each type has one conversion to x_0 and one from it.

    epsilon       the noise:                 x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps
    sample        x_0 itself
    mean          the posterior mean:        mu = c1 x_0 + c2 x_t                           (Ho et al. 2020, eq. 7)
    v_prediction  the velocity:              v = sqrt(abar) eps - sqrt(1 - abar) x_0        (Salimans & Ho 2022)

The variance is one of four kinds, named as in diffusers (`learned` is a *log*-variance, as OpenAI trains it):

    fixed_small    the posterior's, beta~                                                    (Ho et al. 2020, section
    3.2) fixed_large    beta
    learned        the network's second half of channels is the log-variance
    learned_range  the second half v in about [-1, 1] interpolates between both (Nichol & Dhariwal 2021, eq. 15)

This is why a learned-variance network for 3 channels returns 6: three for the mean, three for the variance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import one_of
from .distributions import Gaussian
from .process import GaussianDiffusion, weighted_sum


PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "mean")
VARIANCE_TYPES = ("fixed_small", "fixed_large", "learned", "learned_range")


class Reverse(NamedTuple):
    """One step of the reverse process: the estimate of x_0, and p(x_{t-1} | x_t)."""

    x_0: Tensor
    distribution: Gaussian


@dataclass(frozen=True)
class Parameterization:
    """How a network's output is read: `prediction_type` and `variance_type`, both as in the module's docstring.

    Shapes: x of (B, C, ...); `model_output` of (B, C, ...) or, where the variance is learned, (B, 2C, ...).
    """

    prediction_type: str = "epsilon"
    variance_type: str = "fixed_small"

    def __post_init__(self) -> None:
        one_of("prediction_type", self.prediction_type, PREDICTION_TYPES)
        one_of("variance_type", self.variance_type, VARIANCE_TYPES)

    @property
    def learns_variance(self) -> bool:
        return self.variance_type in ("learned", "learned_range")

    def output_channels(self, channels: int) -> int:
        """The number of channels a network must return for samples of `channels` channels."""
        return 2 * channels if self.learns_variance else channels

    def split(self, model_output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The mean's half and the variance's half of `model_output`, the latter None where the variance is fixed."""
        if not self.learns_variance and model_output.shape == x_t.shape:
            return model_output, None
        expected = (len(x_t), self.output_channels(x_t.shape[1]), *x_t.shape[2:])
        if tuple(model_output.shape) != expected:
            raise ValueError(
                f"`model_output` has shape {tuple(model_output.shape)}: with `variance_type` '{self.variance_type}' "
                f"and samples of shape {tuple(x_t.shape)}, {expected} is accepted"
                + (" (the second half of the channels is the variance)." if self.learns_variance else ".")
            )
        return model_output.chunk(2, dim=1)

    def predict_x_0(
        self, process: GaussianDiffusion, mean_output: Tensor, x_t: Tensor, t: int | float | Tensor
    ) -> Tensor:
        """x_0 as the network sees it, from the mean's half of its output."""
        if self.prediction_type == "sample":
            return mean_output
        if self.prediction_type == "mean":
            c1 = process.coefficient("trained_posterior_mean_coef_x_0", t, x_t)
            return (mean_output - process.coefficient("trained_posterior_mean_coef_x_t", t, x_t) * x_t) / c1
        signal = process.coefficient("sqrt_alphas_cumprod", t, x_t)
        noise = process.coefficient("sqrt_one_minus_alphas_cumprod", t, x_t)
        if self.prediction_type == "v_prediction":
            return weighted_sum(signal, x_t, -noise, mean_output)
        return weighted_sum(1 / signal, x_t, -noise / signal, mean_output)

    def target(self, process: GaussianDiffusion, x_0: Tensor, noise: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """What a perfect network returns in the mean's half of its output, for x_t made of `x_0` and `noise`."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x_0
        if self.prediction_type == "mean":
            return process.posterior_mean(x_0, x_t, t, chain="trained")
        signal = process.coefficient("sqrt_alphas_cumprod", t, x_t)
        return signal * noise - process.coefficient("sqrt_one_minus_alphas_cumprod", t, x_t) * x_0

    def reverse(
        self,
        process: GaussianDiffusion,
        model_output: Tensor,
        x_t: Tensor,
        t: int | Tensor,
        clip: Callable[[Tensor], Tensor] | None = None,
    ) -> Reverse:
        """p(x_{t-1} | x_t) and the estimate of x_0 it is built on (Ho et al. 2020, eq. 7 with x_0 predicted).

        `clip` is applied to x_0 first and the mean follows from the clipped x_0, whatever the prediction type.
        (OpenAI's code takes a predicted posterior mean as it is: there, clipping changes only the x_0 that is
        reported. It does so under respacing too, where a mean of the training chain is not the mean of the respaced
        one.)
        """
        mean_output, variance_output = self.split(model_output, x_t)
        x_0 = self.predict_x_0(process, mean_output, x_t, t)
        x_0 = x_0 if clip is None else clip(x_0)
        mean = process.posterior_mean(x_0, x_t, t)
        return Reverse(x_0, Gaussian(mean, self.log_variance(process, variance_output, x_t, t)))

    def log_variance(
        self, process: GaussianDiffusion, variance_output: Tensor | None, x_t: Tensor, t: int | Tensor
    ) -> Tensor | float:
        """log of the reverse variance: a coefficient where it is fixed, shaped like `x_t` where it is learned."""
        if self.variance_type == "fixed_large":
            return process.coefficient("fixed_large_log_variance", t, x_t)
        if self.variance_type == "learned":
            return variance_output
        smallest = process.coefficient("posterior_log_variance", t, x_t)
        if self.variance_type == "fixed_small":
            return smallest
        fraction = variance_fraction(variance_output)
        return fraction * process.coefficient("log_betas", t, x_t) + (1 - fraction) * smallest


def variance_fraction(variance_output: Tensor) -> Tensor:
    """Where a `learned_range` output lies between its bounds: 0 is the posterior's log-variance, 1 that of beta
    (v of Nichol & Dhariwal 2021, eq. 15)."""
    return (variance_output + 1) / 2


def ddim_distribution(
    process: GaussianDiffusion, x_0: Tensor, x_t: Tensor, t: int | Tensor, eta: float = 0.0
) -> Gaussian:
    """DDIM's p(x_{t-1} | x_t) for an estimate of x_0 (Song et al. 2021, eq. 12 and 16).

    Its variance is `eta`^2 times the posterior's: 0 is deterministic, 1 as noisy as `fixed_small`. The noise in it is
    the one that follows from `x_0`, so clipping x_0 keeps x_{t-1} on the marginal.
    """
    if not 0 <= eta <= 1:
        raise ValueError(
            f"`eta` is {eta}: a number from 0 (deterministic) to 1 (as noisy as 'fixed_small') is accepted."
        )
    variance = eta**2 * process.coefficient("posterior_variance", t, x_t)
    noise_left = 1 - process.coefficient("alphas_cumprod_prev", t, x_t) - variance
    signal = process.coefficient("alphas_cumprod_prev", t, x_t) ** 0.5
    direction = predict_epsilon(process, x_0, x_t, t)
    if isinstance(variance, Tensor):
        return Gaussian(signal * x_0 + noise_left.clamp(min=0).sqrt() * direction, variance.log())
    log_variance = math.log(variance) if variance > 0 else -math.inf
    return Gaussian(signal * x_0 + math.sqrt(max(0.0, noise_left)) * direction, log_variance)


def predict_epsilon(process: GaussianDiffusion, x_0: Tensor, x_t: Tensor, t: int | float | Tensor) -> Tensor:
    """The noise that is left when x_t is taken to be made of `x_0`."""
    signal = process.coefficient("sqrt_alphas_cumprod", t, x_t)
    return (x_t - signal * x_0) / process.coefficient("sqrt_one_minus_alphas_cumprod", t, x_t)


def predict_velocity(process: GaussianDiffusion, x_0: Tensor, x_t: Tensor, t: int | float | Tensor) -> Tensor:
    """The velocity at x_t when it is taken to be made of `x_0` (Salimans & Ho 2022)."""
    signal = process.coefficient("sqrt_alphas_cumprod", t, x_t)
    return (signal * x_t - x_0) / process.coefficient("sqrt_one_minus_alphas_cumprod", t, x_t)


def clip_to(limit: float) -> Callable[[Tensor], Tensor]:
    """Clips x_0 to [-limit, limit]."""
    return lambda x_0: x_0.clamp(-limit, limit)


def dynamic_threshold(ratio: float, largest: float) -> Callable[[Tensor], Tensor]:
    """Clips each sample's x_0 to its own `ratio` quantile s of |x_0|, 1 <= s <= `largest`, and divides by s
    (Saharia et al. 2022, section 2.3)."""

    def clip(x_0: Tensor) -> Tensor:
        magnitude = x_0.abs().flatten(1).to(torch.promote_types(x_0.dtype, torch.float32))
        bound = magnitude.quantile(ratio, dim=1).clamp(1, largest).to(x_0.dtype)
        bound = bound.view(-1, *[1] * (x_0.ndim - 1))
        return x_0.clamp(-bound, bound) / bound

    return clip
