"""Which timesteps a training step looks at, and the weight that keeps the loss unbiased.

A sampler turns uniform draws into timesteps by the inverse of its distribution function. The draws come from the
caller, so that the stream of randomness is the training loop's alone.
"""

import torch
from torch import Tensor


class UniformTimesteps:
    """Every timestep 0..T-1 alike; all weights are 1."""

    def __init__(self, num_timesteps: int):
        self.num_timesteps = num_timesteps

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps, int64 (B,), and importance weights, float32 (B,), for uniform `u` in [0, 1), shape (B,)."""
        t = (u * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)
        return t, torch.ones(len(u), device=u.device)
