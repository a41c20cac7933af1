"""Diagonal Gaussians and what the variational bound needs of them, in nats per element.

Variances are kept as logarithms: the smallest ones of a chain are 1e-9 and their ratios are what the bound compares.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Gaussian:
    """N(mean, exp(log_variance) I) per element; the two tensors broadcast against each other."""

    mean: Tensor
    log_variance: Tensor | float

    def sample(self, noise: Tensor) -> Tensor:
        """The point that standard normal `noise` is mapped to."""
        if isinstance(self.log_variance, Tensor):
            return self.mean + self.log_variance.mul(0.5).exp() * noise
        return torch.add(self.mean, noise, alpha=math.exp(0.5 * self.log_variance))


def kl_divergence(p: Gaussian, q: Gaussian) -> Tensor:
    """KL(p || q) in nats, per element."""
    p_log, q_log = (torch.as_tensor(x.log_variance, dtype=p.mean.dtype, device=p.mean.device) for x in (p, q))
    return 0.5 * (q_log - p_log - 1 + (p_log - q_log).exp() + (p.mean - q.mean) ** 2 * (-q_log).exp())


_LOG_FLOOR = math.log(1e-12)
_EDGE = 0.999  # an 8-bit level beyond it is 0 or 255, whose bin reaches to infinity


def discretized_log_likelihood(x: Tensor, p: Gaussian, log_floor: float | None = _LOG_FLOOR) -> Tensor:
    """log P(x) in nats per element, for 8-bit `x` scaled to [-1, 1] and p discretized to the 256 levels
    (Ho et al. 2020, eq. 13).

    Each level owns a bin of width 2/255; the two outer bins reach to infinity. The normal distribution function is
    OpenAI's tanh approximation (off by at most 2e-4), so that bits/dim compare with published ones, and so is the
    floor of log(1e-12), below which the gradient is zero; `log_floor=None` removes it. Because the approximation is
    logistic, Phi(z) = sigmoid(2u), the logarithm of a difference of two values is written without cancellation: it
    keeps its digits in float32 and in the tails, where the difference itself loses all of them.
    """
    log_variance = torch.as_tensor(p.log_variance, dtype=p.mean.dtype, device=p.mean.device)
    inverse_deviation = (-0.5 * log_variance).exp()
    centered = x - p.mean
    upper = _logit_of_normal_cdf((centered + 1 / 255) * inverse_deviation)
    lower = _logit_of_normal_cdf((centered - 1 / 255) * inverse_deviation)
    below, above = logsigmoid(upper), logsigmoid(-lower)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a))
    width = (upper - lower).clamp(min=torch.finfo(x.dtype).tiny)
    inside = below + above + torch.log(-torch.expm1(-width))
    log_probability = torch.where(x < -_EDGE, below, torch.where(x > _EDGE, above, inside))
    return log_probability if log_floor is None else log_probability.clamp(min=log_floor)


def _logit_of_normal_cdf(z: Tensor) -> Tensor:
    """log(Phi / (1 - Phi)) under Phi(z) = (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2 (Page 1977)."""
    return 2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
