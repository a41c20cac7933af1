"""Flow matching on the straight path from data to noise: what a network learns, and what follows from its output.

    x_s = (1 - s) x_0 + s noise        Lipman et al. 2023, eq. 22 with sigma_min = 0; Liu et al. 2023, eq. 1
    v   = dx_s / ds = noise - x_0

The network learns the mean of v given x_s and s. Following it from noise, s = 1, to s = 0 by an ODE solver gives
samples. Here s counts as in diffusers, from data to noise; the papers count the other way round. A network is told
t = s T, numbers like those of a chain of T steps, so that the same networks fit.
"""

import torch
from torch import Tensor

from .losses import mean_flat
from .process import weighted_sum
from .timestep_samplers import UniformTimesteps


class FlowMatching:
    """The straight path, in the place that `GaussianDiffusion` has for DDPM.

    `t`, from 0 (data) to `num_timesteps` (noise), is a number for a whole batch or a tensor of shape (B,), and need
    not be whole. Samples may have any shape, (B, ...).
    """

    def __init__(self, num_timesteps: int = 1000):
        self.num_timesteps = num_timesteps

    def noise_share(self, t: int | float | Tensor, like: Tensor) -> float | Tensor:
        """s in [0, 1] of `t`, ready to multiply `like`: a float, or a tensor of shape (B, 1, ...)."""
        if not isinstance(t, Tensor):
            return t / self.num_timesteps
        dtype = torch.promote_types(like.dtype, torch.float32)
        return (t.to(dtype) / self.num_timesteps).view(-1, *[1] * (like.ndim - 1))

    def add_noise(self, x_0: Tensor, noise: Tensor, t: int | float | Tensor) -> Tensor:
        """x_t on the straight line from `x_0` to `noise`."""
        s = self.noise_share(t, x_0)
        return weighted_sum(1 - s, x_0, s, noise)

    def target(self, x_0: Tensor, noise: Tensor) -> Tensor:
        """The velocity of that line, the same at every t."""
        return noise - x_0

    def predict_x_0(self, velocity: Tensor, x_t: Tensor, t: int | float | Tensor) -> Tensor:
        """Where the line through x_t with this velocity starts."""
        return x_t - self.noise_share(t, x_t) * velocity

    def loss(self, model_output: Tensor, x_0: Tensor, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The squared error of the velocity, (B,) (Lipman et al. 2023, eq. 23). Called like a `TrainingLoss`; neither
        `x_t` nor `t` is in the formula."""
        if model_output.shape != x_0.shape:
            raise ValueError(
                f"`model_output` has shape {tuple(model_output.shape)}: a velocity for samples of shape "
                f"{tuple(x_0.shape)} has the same."
            )
        return mean_flat((self.target(x_0, noise) - model_output) ** 2)


class UniformTimes(UniformTimesteps):
    """Times t in (0, T], all alike, whole or not; all weights are 1."""

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Times, float32 (B,), and weights, float32 (B,), for uniform `u` in [0, 1), shape (B,)."""
        t = self._noise_share(1 - u.float()) * self.num_timesteps
        return t, torch.ones_like(t)

    def _noise_share(self, u: Tensor) -> Tensor:
        """s for uniform `u` in (0, 1]."""
        return u


class LogitNormalTimes(UniformTimes):
    """Times whose logit, log(s / (1 - s)), is standard normal: the middle of the path, where x_0 is hardest to tell,
    more often than its ends (Esser et al. 2024, section 3.1). The weights are 1, so that the middle counts for more.
    """

    def _noise_share(self, u: Tensor) -> Tensor:
        return torch.special.ndtri(u).sigmoid()
