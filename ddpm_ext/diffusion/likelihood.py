"""How many bits a model needs per dimension of 8-bit data in [-1, 1], by the variational bound.

    bits/dim = prior + sum over t of terms_t                                       Ho et al. 2020, eq. 5
    prior    = KL(q(x_T | x_0) || N(0, I))
    terms_t  = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)),  t > 0;    terms_0 = -log P(x_0 | x_1), the decoder

`exact_bits_per_dim` looks at all S steps of the chain, with fresh noise at each. `estimate_bits_per_dim` looks at a
few steps per image and says how far off the mean over many images may be.

A network is a function `predict(x_t, timestep)` of the whole batch, (B, C, ...) and int64 (B,), that returns its
output, variance channels included. What else it is told, such as labels, belongs into the function.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .distributions import Gaussian, kl_divergence
from .losses import bound_term_bpd, mean_flat
from .parameterization import Parameterization, clip_to, predict_epsilon
from .process import GaussianDiffusion


Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class BitsPerDim:
    """The variational bound of each image, in bits per dimension: `total` = `prior` + the sum of `terms`.

    Shapes: `total` and `prior` (B,); `terms` (B, S), column t being the step in row t of the chain. `x_0_mse` and
    `noise_mse`, (B, S), are the mean squared errors of the predicted x_0, after clipping, and of the noise with it.
    """

    total: Tensor
    prior: Tensor
    terms: Tensor
    x_0_mse: Tensor
    noise_mse: Tensor


@dataclass(frozen=True)
class BitsPerDimEstimate:
    """An unbiased estimate of what `exact_bits_per_dim` gives on average over its noise.

    Float64 on the CPU, (B,): `per_image`, bits per dimension, and the `variance` of each, which comes from two halves:
    unbiased, but rough for a single image. `num_evaluations` is how often the network saw each image.
    """

    per_image: Tensor
    variance: Tensor
    num_evaluations: int

    @property
    def mean(self) -> float:
        """Bits per dimension, averaged over the images."""
        return float(self.per_image.mean())

    @property
    def standard_error(self) -> float:
        """Of `mean`, as an estimate of the exact value for these same images: it shrinks with their number."""
        return float(self.variance.sum().sqrt() / len(self.variance))

    @staticmethod
    def joined(batches: "Sequence[BitsPerDimEstimate]") -> "BitsPerDimEstimate":
        """The estimate for the images of all `batches`."""
        per_image = torch.cat([batch.per_image for batch in batches])
        variance = torch.cat([batch.variance for batch in batches])
        return BitsPerDimEstimate(per_image, variance, max(batch.num_evaluations for batch in batches))


def prior_bits_per_dim(process: GaussianDiffusion, x_0: Tensor) -> Tensor:
    """KL(q(x_T | x_0) || N(0, I)), (B,): what is left of the images at the end of the chain."""
    return mean_flat(kl_divergence(process.prior(x_0), Gaussian(torch.zeros_like(x_0), 0.0))) / math.log(2)


@torch.no_grad()
def exact_bits_per_dim(
    process: GaussianDiffusion,
    parameterization: Parameterization,
    predict: Predict,
    x_0: Tensor,
    generator: torch.Generator | None = None,
    noise_for: Callable[[int], Tensor] | None = None,
    clip_limit: float | None = 1.0,
) -> BitsPerDim:
    """The bound for `x_0`, (B, C, ...), by S evaluations of the network.

    `noise_for(t)` is the noise in x_t, shaped like `x_0`; left out, it is drawn from `generator`. `clip_limit` clips
    the predicted x_0, as for OpenAI's numbers; None does not. (See `Parameterization.reverse` for a `mean` network.)
    """
    clip = None if clip_limit is None else clip_to(clip_limit)
    rows = []
    for t in range(process.num_timesteps - 1, -1, -1):
        noise = _standard_normal(x_0, generator) if noise_for is None else noise_for(t)
        x_t = process.add_noise(x_0, noise, t)
        timestep = torch.full((len(x_0),), int(process.timesteps[t]), device=x_0.device)
        reverse = parameterization.reverse(process, predict(x_t, timestep), x_t, t, clip)
        term = bound_term_bpd(process, reverse.distribution, x_0, x_t, t)
        predicted_noise = predict_epsilon(process, reverse.x_0, x_t, t)
        rows.append((term, mean_flat((reverse.x_0 - x_0) ** 2), mean_flat((predicted_noise - noise) ** 2)))
    terms, x_0_mse, noise_mse = (torch.stack(column[::-1], dim=1) for column in zip(*rows, strict=True))
    prior = prior_bits_per_dim(process, x_0)
    return BitsPerDim(terms.sum(1) + prior, prior, terms, x_0_mse, noise_mse)


_FEWEST_EVALUATIONS = 10


def num_evaluations_of_estimate(process: GaussianDiffusion, at_most: int | None = None) -> int:
    """How many evaluations of the network `estimate_bits_per_dim` takes where so many are allowed: one for the last
    step and two for each pair, twice. ValueError where that is too few, or the bound itself takes no more."""
    steps = process.num_timesteps
    count = max(_FEWEST_EVALUATIONS, steps // 20) if at_most is None else at_most
    if not _FEWEST_EVALUATIONS <= count < steps:
        raise ValueError(
            f"`num_evaluations` is {count}: from {_FEWEST_EVALUATIONS} to {steps - 1}, fewer than the chain's "
            f"{steps} steps, are accepted; otherwise `exact_bits_per_dim` costs no more."
        )
    return 2 * (1 + 2 * ((count // 2 - 1) // 2))


@torch.no_grad()
def estimate_bits_per_dim(
    process: GaussianDiffusion,
    parameterization: Parameterization,
    predict: Predict,
    x_0: Tensor,
    generator: torch.Generator | None = None,
    num_evaluations: int | None = None,
    clip_limit: float | None = 1.0,
) -> BitsPerDimEstimate:
    """An estimate of the bound for `x_0`, (B, C, ...), by at most `num_evaluations` of the network, S / 20 by default
    (and at least 10). Unbiased for any network and any data; the standard error is that of the mean over images.

    Half of the evaluations are one estimate and half another, independent one; their difference is the variance. In
    each half, the last step is seen once. All others are seen by antithetic pairs: a tenth of the pairs, at least one,
    sees the decoder, and each of the rest its own stratum of the steps between. All strata carry as much information
    as each other for data of unit variance (`_step_shares`). A pair is u and 1 - u of the way through the stratum, and
    two noises in opposite directions, one as improbably long as the other is short. (Opposite signs alone do harm: the
    terms are mostly quadratic in the noise, so both members of such a pair err alike.)
    """
    count = num_evaluations_of_estimate(process, num_evaluations)
    clip = None if clip_limit is None else clip_to(clip_limit)
    timesteps = process.timesteps.to(x_0.device)

    def term(t: Tensor, noise: Tensor) -> Tensor:
        x_t = process.add_noise(x_0, noise, t)
        reverse = parameterization.reverse(process, predict(x_t, timesteps[t]), x_t, t, clip).distribution
        return bound_term_bpd(process, reverse, x_0, x_t, t).cpu().double()  # not every device has float64

    halves = [_sum_of_terms(process, term, x_0, generator, pairs=(count // 2 - 1) // 2) for _ in range(2)]
    per_image = prior_bits_per_dim(process, x_0).cpu().double() + (halves[0] + halves[1]) / 2
    return BitsPerDimEstimate(per_image, (halves[0] - halves[1]) ** 2 / 4, count)


def _sum_of_terms(
    process: GaussianDiffusion,
    term: Callable[[Tensor, Tensor], Tensor],
    x_0: Tensor,
    generator: torch.Generator | None,
    pairs: int,
) -> Tensor:
    """An unbiased estimate of the sum over t of `term(t, noise)`, float64 (B,), by 1 + 2 * `pairs` of them."""
    last, first = (torch.full((len(x_0),), row, device=x_0.device) for row in (process.num_timesteps - 1, 0))
    shares = _step_shares(process)
    cumulative = shares.cumsum(0)
    decoder_pairs = max(1, pairs // 10)
    strata = pairs - decoder_pairs
    total = term(last, _standard_normal(x_0, generator))
    for pair in range(pairs):
        noise = _standard_normal(x_0, generator)
        noises = (noise, _antithetic(noise))
        if pair < decoder_pairs:
            total = total + sum(term(first, one) for one in noises) / (2 * decoder_pairs)
            continue
        u = _uniform(len(x_0), generator)
        for place, one in zip((u, 1 - u), noises, strict=True):
            mass = (pair - decoder_pairs + place) / strata * cumulative[-1]
            row = torch.searchsorted(cumulative, mass, right=True).clamp(max=len(shares) - 1)
            total = total + term(row.to(x_0.device) + 1, one) / (2 * strata * shares[row])
    return total


def _step_shares(process: GaussianDiffusion) -> Tensor:
    """The share of each of the rows 1..S-2 in their sum of terms, as far as it is known beforehand, float64 (S-2,).

    For Gaussian data of unit variance a term is log((SNR_{t-1} + 1) / (SNR_t + 1)) / 2, the information that x_{t-1}
    has and x_t has not. Networks are not perfect where hardly any signal is left: 5 % of the noise is added as error.
    """
    snr = process.snr(torch.arange(process.num_timesteps - 1))
    shares = ((snr[:-1] + 1) / (snr[1:] + 1)).log() + 0.05 * (snr[:-1] / snr[1:]).log()
    return shares / shares.sum()


def _antithetic(noise: Tensor) -> Tensor:
    """Standard normal noise in the opposite direction, short where `noise` is long: the squared lengths stand at
    opposite quantiles of their chi-square distribution."""
    half_square = noise.flatten(1).cpu().double().square().sum(1) / 2
    shape = torch.full_like(half_square, noise[0].numel() / 2)
    quantile = torch.special.gammaincc(shape, half_square)
    low, high = torch.zeros_like(shape), shape + 12 * shape.sqrt() + 40
    for _ in range(52):  # down to the spacing of float64
        middle = (low + high) / 2
        is_below = torch.special.gammainc(shape, middle) < quantile
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    scale = (low / half_square).sqrt().to(noise.dtype).to(noise.device)
    return -noise * scale.view(-1, *[1] * (noise.ndim - 1))


def _standard_normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Noise shaped like `like`, drawn on the generator's device."""
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def _uniform(count: int, generator: torch.Generator | None) -> Tensor:
    """Uniform in [0, 1), float64 (count,), on the CPU."""
    if generator is None:
        return torch.rand(count, dtype=torch.float64)
    dtype = torch.float32 if generator.device.type == "mps" else torch.float64
    return torch.rand(count, generator=generator, device=generator.device, dtype=dtype).cpu().double()
