"""Averages of the weights whose width is chosen after training: the mathematics of power-function EMA.

After t updates, of which update n left the weights w_n, the average of width gamma is

    theta_gamma(t) = sum over n of [(n / t)^(gamma + 1) - ((n - 1) / t)^(gamma + 1)] w_n:

the share of w_n is the integral, over its own unit of time, of the density p(x) = (gamma + 1) x^gamma / t^(gamma + 1)
on [0, t]. So the average always spans the same share of training, however long that was, and forgets the
initialisation; 1 - share of the newest is its decay, beta = (1 - 1 / t)^(gamma + 1). Averages are linear in their
densities: where a sum of stored ones' densities comes near a wanted density, the same sum of the stored averages comes
near the wanted average.

Karras et al. (2024), "Analyzing and improving the training dynamics of diffusion models", section 3 and appendix C.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


NARROWEST, WIDEST = 0.005, 0.28
"""The widths that arguments may have; sqrt(1/12) = 0.289 is the plain mean of the whole run (gamma = 0)."""

TOLERATED_ERROR = 0.05
"""A reconstruction whose density is further off than this, relative to its own length, is refused."""


def sigma_rel_from_gamma(gamma: float) -> float:
    """The density's standard deviation as a share of the training time: that of a Beta(gamma + 1, 1) variable."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def gamma_from_sigma_rel(sigma_rel: float) -> float:
    """The inverse for 0 < sigma_rel <= sqrt(1/12), where gamma >= 0: the largest root of a cubic.

    s (gamma + 2)^2 (gamma + 3) = gamma + 1 with s = sigma_rel^2; appendix C of Karras et al. (2024).
    """
    s = sigma_rel**2
    roots = np.roots([s, 7 * s, 16 * s - 1, 12 * s - 1])
    return float(roots.real[np.argmax(roots.real)])


def share_of_newest(gamma: float, update: int) -> float:
    """What the weights after the `update`-th update, counted from 1, contribute to the average: 1 - beta."""
    return 1.0 if update == 1 else -math.expm1((gamma + 1) * math.log1p(-1 / update))


@dataclass(frozen=True)
class Profile:
    """An average: its width, and the updates after which it was (or shall have been) taken."""

    sigma_rel: float
    updates: int


@dataclass(frozen=True)
class Fit:
    """`coefficients` of the stored averages, which sum to one, and the `error` of the density that they make.

    The error is the distance (in L2) to the wanted density, relative to the length of the latter. A weight that moves
    as white noise does comes out with this relative error; a weight that stays comes out exact.
    """

    coefficients: NDArray[np.float64]
    error: float


def fit(stored: Sequence[Profile], wanted: Profile) -> Fit:
    """The least-squares fit of `wanted`'s density by those of `stored` (Karras et al. 2024, appendix C).

    Unlike there the coefficients must sum to one. That costs hardly any error, and without it the sum's deviation from
    one would scale all weights, which are larger than the differences that are to be met.
    """
    gram = _inner_products(stored, stored)
    target = _inner_products(stored, [wanted])[:, 0]
    length = _inner_products([wanted], [wanted]).item()
    scale = 1 / np.sqrt(np.diag(gram))
    # Stationarity of the Lagrangian, in coefficients of densities of length one. Neighbouring snapshots are nearly
    # parallel: lstsq takes the smallest of the solutions that are equally good in float64.
    system = np.zeros((len(stored) + 1, len(stored) + 1))
    system[:-1, :-1] = gram * scale[:, None] * scale
    system[:-1, -1] = system[-1, :-1] = scale
    solution = np.linalg.lstsq(system, np.append(target * scale, 1.0), rcond=1e-14)[0]
    coefficients = solution[:-1] * scale
    squared = length - 2 * coefficients @ target + coefficients @ gram @ coefficients
    return Fit(coefficients, math.sqrt(max(squared, 0.0) / length))


def nearest_reachable(stored: Sequence[Profile], wanted: Profile) -> float:
    """The width, in thousandths, nearest to the wanted one that `stored` reconstructs within `TOLERATED_ERROR`."""
    widths = np.arange(round(NARROWEST * 1000), round(WIDEST * 1000) + 1) / 1000
    for sigma_rel in sorted(widths.tolist(), key=lambda width: abs(width - wanted.sigma_rel)):
        if fit(stored, Profile(sigma_rel, wanted.updates)).error <= TOLERATED_ERROR:
            return sigma_rel
    raise ValueError(f"`sigma_rel`: the snapshots reach no width at all after {wanted.updates} updates.")


def _inner_products(a: Sequence[Profile], b: Sequence[Profile]) -> NDArray[np.float64]:
    """Integrals of the products of two densities, (len(a), len(b)).

    Both are powers up to the earlier time e and the product is zero from there to the later time l, where gamma_l is
    the exponent of the later one: (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (e / l)^gamma_l / l.
    """
    gamma_a, t_a = _gammas_and_times(a)
    gamma_b, t_b = _gammas_and_times(b)
    gamma_a, t_a = gamma_a[:, None], t_a[:, None]
    earlier, later = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    gamma_of_later = np.where(t_a > t_b, gamma_a, gamma_b)
    decay = (earlier / later) ** gamma_of_later
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * decay / later


def _gammas_and_times(profiles: Sequence[Profile]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gammas = {sigma_rel: gamma_from_sigma_rel(sigma_rel) for sigma_rel in {p.sigma_rel for p in profiles}}
    return np.array([gammas[p.sigma_rel] for p in profiles]), np.array([float(p.updates) for p in profiles])
