"""Noise schedules: how much variance each of the T forward steps adds.

    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I),    t = 0 .. T-1

Index 0 is the first, least noisy step (x_1 in the papers). Every schedule is a float64 tensor of shape (T,).
Names are those of diffusers; `quad` and `cosine` are accepted as the literature's names.
"""

import math

import torch
from torch import Tensor

from .checks import one_of


BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")

_ALIASES = {"quad": "scaled_linear", "cosine": "squaredcos_cap_v2"}


def canonical_beta_schedule(beta_schedule: str) -> str:
    """The name under which diffusers knows `beta_schedule`: `quad` is `scaled_linear`, `cosine` is
    `squaredcos_cap_v2`."""
    return one_of("beta_schedule", _ALIASES.get(beta_schedule, beta_schedule), BETA_SCHEDULES, also=tuple(_ALIASES))


def make_betas(
    beta_schedule: str, num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Tensor:
    """The variances of the forward steps, float64, shape (T,), each in (0, 1).

    - `linear` (Ho et al. 2020, section 4): equally spaced from `beta_start` to `beta_end`.
    - `scaled_linear`, alias `quad` (Ho et al. 2020, code): the square of equally spaced square roots.
    - `squaredcos_cap_v2`, alias `cosine` (Nichol & Dhariwal 2021, eq. 17): `beta_start` and `beta_end` are not used.
    - `sigmoid` (GeoDiff, Xu et al. 2022): a logistic curve over [-6, 6] from `beta_start` to `beta_end`.

    Only `cosine` keeps its meaning when T changes; see `linear_ends` for the others.
    """
    beta_schedule = canonical_beta_schedule(beta_schedule)
    steps = num_train_timesteps
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"`num_train_timesteps` is {steps!r}: it must be a whole number of at least 1.")
    if beta_schedule == "squaredcos_cap_v2":
        return _cosine_betas(steps)
    for name, value in (("beta_start", beta_start), ("beta_end", beta_end)):
        if not 0 < value < 1:
            raise ValueError(f"`{name}` is {value!r}: a variance between 0 and 1 (both excluded) is accepted.")
    if beta_schedule == "linear":
        return torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
    if beta_schedule == "scaled_linear":
        return torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), steps, dtype=torch.float64) ** 2
    return beta_start + (beta_end - beta_start) * torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid()


def _cosine_betas(steps: int) -> Tensor:
    """beta_t = 1 - g(t+1) / g(t) with g(t) = cos^2((t/T + s) / (1 + s) * pi/2), s = 0.008; the last one is capped at
    0.999."""
    s = 0.008
    time = torch.arange(steps + 1, dtype=torch.float64) / steps  # divided by T here, and nowhere else
    g = torch.cos((time + s) / (1 + s) * (math.pi / 2)) ** 2
    return (1 - g[1:] / g[:-1]).clamp(max=0.999)


def linear_ends(num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> tuple[float, float]:
    """`beta_start` and `beta_end` scaled by 1000 / T, so that a chain of T steps ends in as much noise as one of 1000.

    OpenAI's code does this on its own (Nichol & Dhariwal 2021, code); diffusers does not: with T = 250 its linear
    schedule leaves sqrt(alphas_cumprod) = 0.28 of the image at the end of the chain.
    """
    scale = 1000 / num_train_timesteps
    if beta_end * scale >= 1:
        raise ValueError(
            f"`num_train_timesteps` is {num_train_timesteps}: scaling `beta_end` = {beta_end} by 1000 / T gives "
            f"{beta_end * scale:g}, which is no variance below 1; use more than {math.floor(1000 * beta_end)} steps "
            "or the cosine schedule."
        )
    return beta_start * scale, beta_end * scale


def rescale_zero_terminal_snr(betas: Tensor) -> Tensor:
    """The schedule shifted and scaled so that no signal is left at T-1 (Lin et al. 2024, algorithm 1).

    sqrt(alphas_cumprod) goes linearly to 0 at the end and keeps its first value; float64 (T,) in, float64 (T,) out,
    the last beta is 1.
    """
    signal = (1 - betas.double()).cumprod(0).sqrt()
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    alphas_cumprod = signal**2
    return 1 - alphas_cumprod / torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
