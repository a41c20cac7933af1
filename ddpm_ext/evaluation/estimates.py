"""A measured number with its 95 % confidence interval."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from ddpm_ext.rounding import rounded


_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """`value`, and the interval from `low` to `high` that 95 of 100 such intervals would cover the truth with.

    None for both where no interval is known.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @staticmethod
    def around(value: float, standard_error: float, degrees_of_freedom: float = math.inf) -> "Estimate":
        """The interval of Student's t with these `degrees_of_freedom`, the normal distribution's by default."""
        reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, degrees_of_freedom)) * standard_error
        return Estimate(value, value - reach, value + reach)

    @staticmethod
    def of_share(hits: int, total: int) -> "Estimate":
        """A share of independent trials, with Wilson's interval, which is right also near 0 and 1."""
        interval = stats.binomtest(hits, total).proportion_ci(_CONFIDENCE, method="wilson")
        return Estimate(hits / total, float(interval.low), float(interval.high))

    @staticmethod
    def of_mean(values: Tensor) -> "Estimate":
        """The mean of independent `values`, (N,)."""
        return Estimate.around(float(values.mean()), float(values.std() / math.sqrt(len(values))))

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return rounded(self.value)
        return rounded(self.value, (self.low, self.high))


def jackknife(value: float, groups: int, without: Callable[[int], float]) -> Estimate:
    """The interval of a `value` of images that come in `groups` groups; `without(k)` is the value without group k.

    Delete-a-group jackknife (Efron & Tibshirani 1993, ch. 11): it needs no derivative and no formula for the variance,
    and the value may be biased by the number of images, as long as all groups are alike in that.
    """
    left_out = torch.tensor([without(group) for group in range(groups)], dtype=torch.float64)
    variance = (groups - 1) / groups * (left_out - left_out.mean()).square().sum()
    return Estimate.around(value, math.sqrt(float(variance)), groups - 1)
