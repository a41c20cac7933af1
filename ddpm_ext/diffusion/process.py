"""The forward process q as a float64 table of coefficients, one row per step.

    q(x_t | x_0)          = N(sqrt(alphas_cumprod_t) x_0, (1 - alphas_cumprod_t) I)           Ho et al. 2020, eq. 4
    q(x_{t-1} | x_t, x_0) = N(c1_t x_0 + c2_t x_t, posterior_variance_t I)                    Ho et al. 2020, eq. 6-7

A respaced process (Nichol & Dhariwal 2021, section 4) is the same class over a subset of the steps: no formula knows
whether it runs on the full chain or on a part of it.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .distributions import Gaussian


class GaussianDiffusion:
    """q for given `betas`, float64 (T,), each in (0, 1].

    Methods take `t`, the row of the table: an int for a whole batch, or a LongTensor of shape (B,), one row per sample
    along the first dimension. Samples may have any shape, (B, ...). Coefficients are multiplied in float32 at least.

    `timesteps`, int64 (S,), is what a network sees at each row: 0..T-1 in the training chain, a subset when respaced.
    """

    def __init__(self, betas: Tensor | Sequence[float]):
        self._fill(_checked_betas(betas), timesteps=None, training=None)

    def _fill(self, betas: Tensor, timesteps: Tensor | None, training: "GaussianDiffusion | None") -> None:
        one = torch.ones(1, dtype=torch.float64)
        alphas_cumprod = (1 - betas).cumprod(0)
        alphas_cumprod_prev = torch.cat([one, alphas_cumprod[:-1]])
        noise_variance = 1 - alphas_cumprod
        posterior_variance = betas * (1 - alphas_cumprod_prev) / noise_variance
        # At row 0 the posterior is a point; OpenAI's code lends it the variance of row 1 wherever a logarithm is
        # taken.
        first = posterior_variance[1:2] if len(betas) > 1 else betas
        table = {
            "betas": betas,
            "alphas_cumprod": alphas_cumprod,
            "alphas_cumprod_prev": alphas_cumprod_prev,
            "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
            "sqrt_one_minus_alphas_cumprod": noise_variance.sqrt(),
            "posterior_mean_coef_x_0": betas * alphas_cumprod_prev.sqrt() / noise_variance,
            "posterior_mean_coef_x_t": (1 - alphas_cumprod_prev) * (1 - betas).sqrt() / noise_variance,
            "posterior_variance": posterior_variance,
            "posterior_log_variance": torch.cat([first, posterior_variance[1:]]).log(),
            "log_betas": betas.log(),
            "fixed_large_variance": torch.cat([first, betas[1:]]),
            "fixed_large_log_variance": torch.cat([first, betas[1:]]).log(),
        }
        # A network that predicts the posterior mean was trained on the mean of the training chain, so its output is
        # inverted with that chain's coefficients also when the process is respaced.
        for name in ("posterior_mean_coef_x_0", "posterior_mean_coef_x_t"):
            table[f"trained_{name}"] = table[name] if training is None else training.table[name][timesteps]
        self.table = table
        self.timesteps = torch.arange(len(betas)) if timesteps is None else timesteps
        self._training = training
        self._lists: dict[str, list[float]] = {}
        self._moved: dict[tuple[str, torch.device], Tensor] = {}

    @property
    def num_timesteps(self) -> int:
        """S, the number of steps in this chain."""
        return len(self.timesteps)

    @property
    def training_chain(self) -> "GaussianDiffusion":
        """The process that the network was trained on: self unless respaced."""
        return self._training or self

    def coefficient(self, name: str, t: int | float | Tensor, like: Tensor) -> float | Tensor:
        """Column `name` of the table at `t`, ready to multiply `like`: a float, or a tensor of shape (B, 1, ...).

        A number costs no tensor operation and no transfer, whatever the device of `like`. A fractional one lies
        between two rows, as the timesteps of Karras grids do (see `timestep_of_sigma`): signal and noise are those of
        its sigma, any other column is interpolated linearly.
        """
        if not isinstance(t, Tensor):
            if isinstance(t, float):
                return self._between(name, t)
            if name not in self._lists:
                self._lists[name] = self.table[name].tolist()
            return self._lists[name][t]
        dtype = torch.promote_types(like.dtype, torch.float32)
        key = (name, t.device)
        if key not in self._moved:
            column = self.table[name].to(torch.float32) if t.device.type == "mps" else self.table[name]
            self._moved[key] = column.to(t.device)
        return self._moved[key][t].to(dtype).view(-1, *[1] * (like.ndim - 1))

    @cached_property
    def _log_sigmas(self) -> np.ndarray:
        """log of sigma = sqrt(1 - abar) / sqrt(abar); where nothing is left of the signal, abar counts as 2^-24."""
        alphas_cumprod = self.table["alphas_cumprod"].numpy().clip(min=2.0**-24 if self.table["betas"][-1] == 1 else 0)
        return 0.5 * (np.log1p(-alphas_cumprod) - np.log(alphas_cumprod))

    def timestep_of_sigma(self, sigma: float) -> int | float:
        """The row, perhaps fractional, whose noise is `sigma` times its signal (linear in log sigma between rows)."""
        t = float(np.interp(math.log(sigma), self._log_sigmas, np.arange(self.num_timesteps)))
        return round(t) if abs(t - round(t)) < 1e-3 else t  # stock schedulers keep sigma in float32

    def _between(self, name: str, t: float) -> float:
        rows = np.arange(self.num_timesteps)
        if name not in ("sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"):
            return float(np.interp(t, rows, self.table[name].numpy()))
        sigma = math.exp(np.interp(t, rows, self._log_sigmas))
        return (1 if name == "sqrt_alphas_cumprod" else sigma) / math.hypot(1, sigma)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) for standard normal `noise` (Ho et al. 2020, eq. 4)."""
        signal = self.coefficient("sqrt_alphas_cumprod", t, x_0)
        return weighted_sum(signal, x_0, self.coefficient("sqrt_one_minus_alphas_cumprod", t, x_0), noise)

    def diffuse(self, x_before: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """x_t ~ q(x_t | x_{t-1}), one step of the chain, for standard normal `noise` (Ho et al. 2020, eq. 2)."""
        beta = self.coefficient("betas", t, x_before)
        return (1 - beta) ** 0.5 * x_before + beta**0.5 * noise

    def posterior_mean(self, x_0: Tensor, x_t: Tensor, t: int | Tensor, chain: str = "own") -> Tensor:
        """The mean of q(x_{t-1} | x_t, x_0) in this chain or, with `chain="trained"`, in the training chain."""
        prefix = "trained_" if chain == "trained" else ""
        of_x_0 = self.coefficient(f"{prefix}posterior_mean_coef_x_0", t, x_t)
        return weighted_sum(of_x_0, x_0, self.coefficient(f"{prefix}posterior_mean_coef_x_t", t, x_t), x_t)

    def posterior(self, x_0: Tensor, x_t: Tensor, t: int | Tensor) -> Gaussian:
        """q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 6-7), its log-variance at row 0 being that of row 1."""
        return Gaussian(self.posterior_mean(x_0, x_t, t), self.coefficient("posterior_log_variance", t, x_t))

    def prior(self, x_0: Tensor) -> Gaussian:
        """q(x_T | x_0), which the bound compares with N(0, I)."""
        last = self.num_timesteps - 1
        noise_variance = 1 - self.table["alphas_cumprod"][last]
        return Gaussian(self.coefficient("sqrt_alphas_cumprod", last, x_0) * x_0, float(noise_variance.log()))

    def snr(self, t: int | Tensor) -> Tensor:
        """Signal-to-noise ratio alphas_cumprod / (1 - alphas_cumprod) at t, float64 (Kingma et al. 2021, eq. 2)."""
        alphas_cumprod = self.table["alphas_cumprod"].to(t.device if isinstance(t, Tensor) else "cpu")[t]
        return alphas_cumprod / (1 - alphas_cumprod)

    def respace(self, timesteps: Tensor | Sequence[int]) -> "GaussianDiffusion":
        """The chain that visits only `timesteps`, distinct rows of the training chain in any order.

        Its marginals q(x_t | x_0) are those of the training chain; its betas are 1 - abar[u_i] / abar[u_{i-1}]
        (Nichol & Dhariwal 2021, eq. 19).
        """
        training = self.training_chain
        kept = _checked_timesteps(timesteps, training.num_timesteps)
        alphas_cumprod = training.table["alphas_cumprod"][kept]
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
        if len(kept) == training.num_timesteps:
            return training
        respaced = GaussianDiffusion.__new__(GaussianDiffusion)
        respaced._fill(1 - alphas_cumprod / previous, kept, training)
        return respaced


def weighted_sum(a: float | Tensor, x: Tensor, b: float | Tensor, y: Tensor) -> Tensor:
    """a x + b y, in as few passes over memory as there can be; a and b are both numbers or both tensors."""
    return a * x + b * y if isinstance(b, Tensor) else (a * x).add_(y, alpha=b)


def _checked_betas(betas: Tensor | Sequence[float]) -> Tensor:
    betas = torch.as_tensor(betas, dtype=torch.float64).detach().cpu()
    if betas.ndim != 1 or len(betas) == 0:
        raise ValueError(f"`betas` has shape {tuple(betas.shape)}: one variance per step, shape (T,), is accepted.")
    wrong = (~((betas > 0) & (betas <= 1))).nonzero().flatten()
    if len(wrong):
        index = int(wrong[0])
        raise ValueError(f"`betas` holds {betas[index]:g} at step {index}: every variance must lie in (0, 1].")
    signal_left = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
    flat = (signal_left[1:] >= signal_left[:-1]).nonzero().flatten()
    if len(flat):
        raise ValueError(
            f"`betas` leaves alphas_cumprod at {signal_left[flat[0]]:g} at step {int(flat[0])}: it must decrease at "
            "every step (only the last may reach 0, and no variance may be too small for float64 to see)."
        )
    return betas


def _checked_timesteps(timesteps: Tensor | Sequence[int], num_train_timesteps: int) -> Tensor:
    kept = torch.as_tensor(timesteps).detach().cpu()
    if kept.ndim != 1 or len(kept) == 0:
        raise ValueError(f"`timesteps` has shape {tuple(kept.shape)}: a list of at least one timestep is accepted.")
    if kept.is_floating_point():
        if not (kept == kept.round()).all():
            raise ValueError(f"`timesteps` holds {kept[kept != kept.round()][0]:g}: whole numbers are accepted.")
    kept = kept.long().sort().values
    if kept[0] < 0 or kept[-1] >= num_train_timesteps:
        wrong = int(kept[0] if kept[0] < 0 else kept[-1])
        raise ValueError(f"`timesteps` holds {wrong}: this chain has the timesteps 0 to {num_train_timesteps - 1}.")
    repeated = kept[1:][kept[1:] == kept[:-1]]
    if len(repeated):
        raise ValueError(f"`timesteps` holds {int(repeated[0])} more than once: each timestep may stand in it once.")
    return kept
