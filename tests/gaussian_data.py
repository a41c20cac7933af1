"""Data whose diffusion is known: one-dimensional, N(mean, deviation^2).

Everything is written with alphas_cumprod alone and by conditioning jointly Gaussian variables, which shares no formula
with the package: no posterior coefficients, no conversion between what networks predict.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_ext.diffusion import GaussianDiffusion, Parameterization


@dataclass(frozen=True)
class GaussianData:
    mean: float = 0.3
    deviation: float = 0.5

    def marginal(self, alphas_cumprod: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean and variance of x_t."""
        return alphas_cumprod**0.5 * self.mean, alphas_cumprod * self.deviation**2 + 1 - alphas_cumprod

    def x_0_given_x_t(self, alphas_cumprod: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of x_0 when x_t is known."""
        mean, variance = self.marginal(alphas_cumprod)
        covariance = alphas_cumprod.sqrt() * self.deviation**2
        return self.mean + covariance / variance * (x_t - mean), self.deviation**2 - covariance**2 / variance

    def previous_given_x_t(
        self, alphas_cumprod: Tensor, alphas_cumprod_prev: Tensor, x_t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance of x_{t-1} when x_t is known."""
        mean, variance = self.marginal(alphas_cumprod)
        mean_prev, variance_prev = self.marginal(alphas_cumprod_prev)
        covariance = (alphas_cumprod / alphas_cumprod_prev).sqrt() * variance_prev
        return mean_prev + covariance / variance * (x_t - mean), variance_prev - covariance**2 / variance

    def perfect_output(
        self, process: GaussianDiffusion, parameterization: Parameterization, x_t: Tensor, t: Tensor
    ) -> Tensor:
        """What a perfect network returns at the rows `t`, (B,), for `x_t`, (B, C).

        It was trained on the training chain: a predicted mean is the mean of the previous step of *that* chain,
        however `process` is respaced. The variance is the best for the steps of `process`.
        """
        whole = process.training_chain.table["alphas_cumprod"]
        rows = process.timesteps[t]
        abar = whole[rows][:, None]
        before = torch.where(rows > 0, whole[rows - 1], 1.0)[:, None]
        x_0, _ = self.x_0_given_x_t(abar, x_t)
        if parameterization.prediction_type == "mean":
            output, _ = self.previous_given_x_t(abar, before, x_t)
        elif parameterization.prediction_type == "sample":
            output = x_0
        else:
            noise = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
            is_noise = parameterization.prediction_type == "epsilon"
            output = noise if is_noise else abar.sqrt() * noise - (1 - abar).sqrt() * x_0
        if not parameterization.learns_variance:
            return output
        visited = torch.where(t > 0, whole[process.timesteps[t - 1]], 1.0)[:, None]
        _, variance = self.previous_given_x_t(abar, visited, x_t)
        log_variance = torch.where(t[:, None] > 0, variance, 1.0).log()  # the last step adds no noise
        if parameterization.variance_type == "learned_range":
            beta, visited_noise = 1 - abar / visited, 1 - visited
            smallest = (beta * visited_noise / (1 - abar)).log()
            log_variance = 2 * (log_variance - smallest) / (beta.log() - smallest) - 1
            log_variance = torch.where(t[:, None] > 0, log_variance, 0.0)
        return torch.cat([output, log_variance.expand_as(output)], 1)


def sampled_moments(steps: list[tuple[float, float, float]], mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of x_0 after affine Gaussian steps (slope, intercept, variance), from those of x_T."""
    for slope, intercept, added in steps:
        mean, variance = slope * mean + intercept, slope**2 * variance + added
    return mean, variance


def expected_moments(data: GaussianData, alphas_cumprod: Tensor, variance_type: str) -> tuple[float, float]:
    """What sampling by the steps of `alphas_cumprod` must give when it starts from the marginal of x_T.

    The mean is the data's, whatever the variance. The variance is the data's only if each step's variance is that of
    x_{t-1} given x_t; a fixed one is too small or too large by a little in each step.
    """
    abar = alphas_cumprod.tolist()
    _, variance = data.marginal(abar[-1])
    for t in reversed(range(len(abar))):
        before = abar[t - 1] if t else 1.0
        _, here = data.marginal(abar[t])
        _, previous = data.marginal(before)
        slope, beta = math.sqrt(abar[t] / before) * previous / here, 1 - abar[t] / before
        added = {
            "fixed_small": beta * (1 - before) / (1 - abar[t]),
            "fixed_large": beta,
        }.get(variance_type, previous - slope**2 * here)
        variance = slope**2 * variance + (added if t else 0.0)
    return data.mean, variance
