"""The maximum mean discrepancy of two samples, for any kernel (Gretton et al. 2012).

MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)        x, x' of one distribution, y, y' of the other
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .estimates import Estimate


Kernel = Callable[[Tensor, Tensor], Tensor]
"""(N, D), (M, D) -> k between the rows of the one and of the other, (N, M)."""

_PAIRS_AT_A_TIME = 2**23


def unbiased_discrepancy(x: Tensor, y: Tensor, kernel: Kernel, device: torch.device | str = "cpu") -> Estimate:
    """MMD^2 of `x` (N, D) and `y` (M, D) over all pairs of different rows: unbiased, so it can be negative; float64.

    The interval is that of other samples of both distributions, by the jackknife over the rows of each, which needs
    nothing but the kernel's sums over the other rows.
    """
    x, y = x.to(device, torch.float64), y.to(device, torch.float64)
    if len(x) < 3 or len(y) < 3:
        raise ValueError(f"there are {len(x)} generated and {len(y)} reference images: at least 3 of each are needed.")
    x_with_y, y_with_x = _sums(x, y, kernel)
    x_with_x, y_with_y = (_sums_with_others(z, kernel) for z in (x, y))
    value = (
        x_with_x.sum() / (len(x) * (len(x) - 1))
        + y_with_y.sum() / (len(y) * (len(y) - 1))
        - 2 * x_with_y.sum() / (len(x) * len(y))
    )
    variance = _jackknife(x_with_x, x_with_y / len(y)) + _jackknife(y_with_y, y_with_x / len(x))
    return Estimate.around(float(value), variance**0.5)


def _jackknife(with_others: Tensor, with_other_sample: Tensor) -> float:
    """The variance of MMD^2 that the choice of N rows brings, from the kernel's sum of each with the others, (N,), and
    its mean with the other sample, (N,)."""
    n = len(with_others)
    among = (with_others.sum() - 2 * with_others) / ((n - 1) * (n - 2))
    across = (with_other_sample.sum() - with_other_sample) / (n - 1)
    without_row = among - 2 * across
    return float((n - 1) / n * (without_row - without_row.mean()).square().sum())


def _sums(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """The kernel's sum of each row of `x` with all of `y`, (N,), and of each of `y` with all of `x`, (M,)."""
    of_x, of_y = [], torch.zeros(len(y), dtype=y.dtype, device=y.device)
    for rows in x.split(_rows_at_a_time(y)):
        values = kernel(rows, y)
        of_x.append(values.sum(1))
        of_y += values.sum(0)
    return torch.cat(of_x), of_y


def _sums_with_others(x: Tensor, kernel: Kernel) -> Tensor:
    """The kernel's sum of each row of `x` with the other rows, (N,)."""
    sums = []
    for start in range(0, len(x), step := _rows_at_a_time(x)):
        values = kernel(x[start : start + step], x)
        values.diagonal(start).zero_()
        sums.append(values.sum(1))
    return torch.cat(sums)


def _rows_at_a_time(y: Tensor) -> int:
    return max(1, _PAIRS_AT_A_TIME // len(y))
