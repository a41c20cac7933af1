"""Measured numbers as they are printed, in a terminal, a table, a card or a report."""

import math


def rounded(value: float, interval: tuple[float, float] | None = None) -> str:
    """Four digits of `value`; or as many decimals as its `interval`, shown in brackets, gives a meaning to."""
    if interval is None:
        return f"{value:.{_decimals(value, 4)}f}"
    low, high = interval
    decimals = _decimals((high - low) / 2, 2)
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _decimals(value: float, digits: int) -> int:
    """How many decimals show so many `digits` of `value`."""
    if value == 0 or not math.isfinite(value):
        return digits
    return min(8, max(0, digits - 1 - math.floor(math.log10(abs(value)))))
