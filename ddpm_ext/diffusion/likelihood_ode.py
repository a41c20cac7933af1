"""The likelihood of the model that the probability-flow ODE defines (Song et al. 2021, section 4.3 and eq. 39).

The chain is taken as samples of a continuous process, x = cos(phi) x_0 + sin(phi) eps, whose time is the log of
sigma = noise / signal = tan(phi): it is interpolated between the rows of the table, and a network is asked for the
fractional timestep. With v the velocity dx/dphi that follows from the network's x_0 (Salimans & Ho 2022, appendix D),

    dx / dlog(sigma) = sin(phi) cos(phi) v(x),        dlog p(x) / dlog(sigma) = -sin(phi) cos(phi) div v(x)

and log p(x_0) is that of N(0, I) at the far end plus the integral of the divergence. In this time nothing is stiff,
neither details of the data, which pass at a sigma of their size, nor a network's error where no signal is left, which
cos(phi) holds down.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .parameterization import Parameterization, predict_velocity
from .process import GaussianDiffusion


class FlowLikelihood(NamedTuple):
    """Of each sample, float64 (B,) on the CPU: log p(x_0), a density, in nats; the same as bits per dimension."""

    log_density: Tensor
    bits_per_dim: Tensor


def probability_flow_bits_per_dim(
    process: GaussianDiffusion,
    parameterization: Parameterization,
    predict: Callable[[Tensor, Tensor], Tensor],
    x_0: Tensor,
    generator: torch.Generator | None = None,
    num_steps: int = 50,
    num_probes: int = 1,
    dequantize: bool = False,
) -> FlowLikelihood:
    """The likelihood of `x_0`, (B, C, ...), by 4 * `num_steps` evaluations of the network and of its derivative.

    `predict(x_t, timestep)` is given *fractional* timesteps, floating point (B,); it must be differentiable and treat
    the samples of a batch separately. The integrator is Runge-Kutta's of order 4, its steps equal in log(sigma).

    Divergence: by `num_probes` random vectors of +-1, the same along the whole way (Hutchinson; unbiased), or exactly,
    by D derivatives, with `num_probes=0`.

    Density is evaluated at the noise of the chain's first row: it is that of x_0 plus noise of that sigma. To bits: a
    level of 8-bit data in [-1, 1] is 2/255 wide, so bits/dim = -log2 p / D + log2(255 / 2), which is 6.99. (The 7 of
    the literature is for levels 2/256 wide.) `dequantize` adds noise uniform over one level; only then do the bits, on
    average, bound from above what the level itself costs (Theis et al. 2016).
    """
    for name, value, least in (("num_steps", num_steps, 1), ("num_probes", num_probes, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` is {value!r}: a whole number of at least {least} is accepted.")
    device = x_0.device if generator is None else generator.device
    if dequantize:
        place_in_level = torch.rand(x_0.shape, generator=generator, device=device, dtype=x_0.dtype) - 0.5
        x_0 = x_0 + 2 / 255 * place_in_level.to(x_0)
    signs = torch.randint(0, 2, (num_probes, *x_0.shape), generator=generator, device=device)
    probes = (signs * 2 - 1).to(x_0)

    def slope(x: Tensor, log_sigma: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            velocity = _velocity(process, parameterization, predict, x, math.exp(log_sigma))
            factor = 0.5 / math.cosh(log_sigma)  # sin(phi) cos(phi)
            return factor * velocity.detach(), factor * _divergence(velocity, x, probes)

    first_signal, last_row = process.coefficient("sqrt_alphas_cumprod", 0.0, x_0), process.num_timesteps - 1.0
    times = np.linspace(_log_sigma(process, 0.0, x_0), _log_sigma(process, last_row, x_0), num_steps + 1).tolist()
    x, integral = first_signal * x_0, torch.zeros(len(x_0), dtype=torch.float64)
    for start, end in zip(times[:-1], times[1:], strict=True):
        x, gained = _runge_kutta_step(slope, x, start, end)
        integral = integral + gained
    dimensions = x_0[0].numel()
    at_the_end = -0.5 * (x.cpu().double().flatten(1).square().sum(1) + dimensions * math.log(2 * math.pi))
    log_density = at_the_end + integral + dimensions * math.log(first_signal)
    return FlowLikelihood(log_density, -log_density / (dimensions * math.log(2)) + math.log2(255 / 2))


def _log_sigma(process: GaussianDiffusion, row: float, x: Tensor) -> float:
    noise = process.coefficient("sqrt_one_minus_alphas_cumprod", row, x)
    return math.log(noise / process.coefficient("sqrt_alphas_cumprod", row, x))


def _velocity(
    process: GaussianDiffusion,
    parameterization: Parameterization,
    predict: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigma: float,
) -> Tensor:
    row = process.timestep_of_sigma(sigma)
    timestep = float(np.interp(row, np.arange(process.num_timesteps), process.timesteps.numpy()))
    dtype = torch.promote_types(x.dtype, torch.float32)
    output = predict(x, torch.full((len(x),), timestep, device=x.device, dtype=dtype))
    mean_output, _ = parameterization.split(output, x)
    return predict_velocity(process, parameterization.predict_x_0(process, mean_output, x, row), x, row)


def _divergence(velocity: Tensor, x: Tensor, probes: Tensor) -> Tensor:
    """The sum of d velocity_i / d x_i, float64 (B,) on the CPU; by `probes` (K, B, ...), exactly if there are none."""

    def derivative(direction: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(velocity, x, direction, retain_graph=True)
        return (product * direction).cpu().double().flatten(1).sum(1)

    if len(probes):
        return torch.stack([derivative(probe) for probe in probes]).mean(0)
    basis = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).view(-1, 1, *x.shape[1:])
    return torch.stack([derivative(axis.expand_as(x)) for axis in basis]).sum(0)


def _runge_kutta_step(
    slope: Callable[[Tensor, float], tuple[Tensor, Tensor]], x: Tensor, start: float, end: float
) -> tuple[Tensor, Tensor]:
    """x at `end`, and the integral of the slope's divergence from `start` to `end`."""
    step, middle = end - start, (start + end) / 2
    slope_1, divergence_1 = slope(x, start)
    slope_2, divergence_2 = slope(x + step / 2 * slope_1, middle)
    slope_3, divergence_3 = slope(x + step / 2 * slope_2, middle)
    slope_4, divergence_4 = slope(x + step * slope_3, end)
    gained = step / 6 * (divergence_1 + 2 * divergence_2 + 2 * divergence_3 + divergence_4)
    return x + step / 6 * (slope_1 + 2 * slope_2 + 2 * slope_3 + slope_4), gained
