"""Which timesteps a training step looks at, and the weight that keeps the loss unbiased.

A sampler turns uniform draws into timesteps by the inverse of its distribution function. The draws come from the
caller, so that the stream of randomness is the training loop's alone.
"""

from typing import Protocol

import torch
from torch import Tensor


class TimestepSampler(Protocol):
    """What a training loop asks of any of them."""

    learns_from_losses: bool

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]: ...

    def update(self, t: Tensor, losses: Tensor) -> None: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class UniformTimesteps:
    """Every timestep 0..T-1 alike; all weights are 1."""

    learns_from_losses = False

    def __init__(self, num_timesteps: int):
        self.num_timesteps = num_timesteps

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps, int64 (B,), and importance weights, float32 (B,), for uniform `u` in [0, 1), shape (B,)."""
        t = (u * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)
        return t, torch.ones(len(u), device=u.device)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Nothing is learned from `losses`."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """There is no state."""


class LossSecondMomentTimesteps:
    """Timesteps with probability p_t proportional to sqrt(E[L_t^2]), the weight being 1 / (T p_t)
    (Nichol & Dhariwal 2021, section 3.3: it takes the noise out of the gradient of the variational bound).

    The expectation is the mean over the last `history_per_term` losses seen at t. Until every t has that many, all are
    alike; from then on, `uniform_prob` of the probability is spread evenly, so that no t is forgotten.

    The state follows the device of what it is given, and nothing is read back from it.
    """

    learns_from_losses = True

    def __init__(self, num_timesteps: int, history_per_term: int = 10, uniform_prob: float = 0.001):
        for name, value in (("num_timesteps", num_timesteps), ("history_per_term", history_per_term)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` is {value!r}: a whole number of at least 1 is accepted.")
        if not 0 <= uniform_prob <= 1:
            raise ValueError(f"`uniform_prob` is {uniform_prob!r}: a probability from 0 to 1 is accepted.")
        self.num_timesteps = num_timesteps
        self.history_per_term = history_per_term
        self.uniform_prob = uniform_prob
        # A ring of H losses per t: the k-th ever seen lies at k mod H. One slot more takes what is to be ignored.
        self._ring = torch.zeros(num_timesteps * history_per_term + 1, dtype=torch.float64)
        self._seen = torch.zeros(num_timesteps, dtype=torch.int64)

    @property
    def warmed_up(self) -> bool:
        """Whether every timestep has a full history."""
        return bool((self._seen >= self.history_per_term).all())

    def weights(self) -> Tensor:
        """What the probabilities are proportional to, float64 (T,): ones until warmed up, then of sum 1."""
        rms = self._ring[:-1].view(self.num_timesteps, -1).square().mean(1).sqrt()
        mixed = rms / rms.sum() * (1 - self.uniform_prob) + self.uniform_prob / self.num_timesteps
        return torch.where((self._seen >= self.history_per_term).all(), mixed, torch.ones_like(rms))

    def sample(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps, int64 (B,), and importance weights, float32 (B,), for uniform `u` in [0, 1), shape (B,)."""
        self._move_to(u.device)
        weights = self.weights()
        probabilities = weights / weights.sum()
        cumulative = probabilities.cumsum(0)
        t = torch.searchsorted(cumulative / cumulative[-1], u.to(cumulative.dtype), right=True)
        t = t.clamp(max=self.num_timesteps - 1)
        return t, (1 / (self.num_timesteps * probabilities[t])).float()

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Appends `losses` (N,), not importance-weighted, seen at timesteps `t`, int64 (N,), in their order.

        With several processes each must be given the losses of *all* of them, concatenated in the order of the global
        batch, or their probabilities drift apart. Entries with t < 0 are ignored: processes with batches of different
        sizes pad to the largest with t = -1 and gather.
        """
        if t.ndim != 1 or t.shape != losses.shape:
            raise ValueError(
                f"`losses` has shape {tuple(losses.shape)} and `t` {tuple(t.shape)}: one loss per timestep, (N,), is "
                "accepted."
            )
        self._move_to(t.device)
        steps, history = self.num_timesteps, self.history_per_term
        group, order = torch.where(t < 0, steps, t).sort(stable=True)
        size = torch.zeros(steps + 1, dtype=torch.int64, device=t.device).index_add_(0, group, torch.ones_like(group))
        rank = torch.arange(len(t), device=t.device) - (size.cumsum(0) - size)[group]
        # More than H losses of one t in a batch would meet in one slot: the earlier ones go to the slot for nothing.
        kept = (group < steps) & (rank >= size[group] - history)
        seen = torch.cat([self._seen, size.new_zeros(1)])
        slot = torch.where(kept, group * history + (seen[group] + rank) % history, steps * history)
        self._ring[slot] = losses.detach()[order].to(self._ring.dtype)
        self._seen = self._seen + size[:-1]

    def state_dict(self) -> dict[str, Tensor]:
        """`losses`, float64 (T, H), oldest first, and `counts`, int64 (T,), how many are filled; on the CPU."""
        rows, counts = self._ring[:-1].view(self.num_timesteps, -1), self._seen.clamp(max=self.history_per_term)
        first = torch.where(self._seen >= self.history_per_term, self._seen, 0)
        columns = (first[:, None] + torch.arange(self.history_per_term, device=first.device)) % self.history_per_term
        return {"losses": rows.gather(1, columns).double().cpu(), "counts": counts.cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes on from `state_dict()` of a sampler with the same T and H."""
        losses, counts = state["losses"], state["counts"]
        expected = (self.num_timesteps, self.history_per_term)
        if tuple(losses.shape) != expected or tuple(counts.shape) != expected[:1]:
            raise ValueError(
                f"`state` holds losses of shape {tuple(losses.shape)}: this sampler has {expected[0]} timesteps and a "
                f"history of {expected[1]} losses for each."
            )
        self._ring = torch.cat([losses.double().flatten(), torch.zeros(1, dtype=torch.float64, device=losses.device)])
        self._seen = counts.clone()

    def _move_to(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._ring, self._seen = self._ring.to(device, dtype), self._seen.to(device)
