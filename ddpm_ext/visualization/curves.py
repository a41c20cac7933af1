"""Curves of a training run: losses over the steps and over the timesteps, and whatever else was logged."""

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .drawing import BLUE, GOLD, GREEN, PALE_BLUE, RED, make_logarithmic, new_axes


def loss_curve(steps: Sequence[int], losses: Sequence[float], title: str = "") -> Figure:
    """The logged losses over the steps, raw and smoothed over a twentieth of the run, on a logarithmic axis."""
    figure, (axes,) = new_axes()
    axes.plot(steps, losses, color=PALE_BLUE, linewidth=1, label="loss")
    axes.plot(steps, smoothed(losses), color=BLUE, linewidth=1.8, label="smoothed")
    if min(losses) > 0:
        make_logarithmic(axes)
    axes.set(xlabel="step", ylabel="training loss", title=title)
    axes.legend(frameon=False)
    return figure


def smoothed(values: Sequence[float]) -> list[float]:
    """The values averaged over about the last twentieth of them."""
    keep = 1 - 1 / max(1, len(values) / 20)
    smooth, average, weight = [], 0.0, 0.0
    for value in values:
        average = keep * average + (1 - keep) * value
        weight = keep * weight + (1 - keep)  # what the average has seen so far: it starts from nothing
        smooth.append(average / weight)
    return smooth


def loss_per_timestep(
    sums: Tensor, counts: Tensor, title: str = "", bins: int = 100, ylabel: str = "training loss"
) -> Figure:
    """The mean loss of each timestep, by `sums` of losses and their `counts`, both (T,), in `bins` bins of timesteps.

    Bins that no loss fell into are left out.
    """
    width = math.ceil(len(counts) / bins)
    total, count = (torch.stack([part.sum() for part in tensor.split(width)]) for tensor in (sums, counts))
    middle = torch.arange(len(count)) * width + (width - 1) / 2
    seen = count > 0
    figure, (axes,) = new_axes()
    means = (total / count)[seen]
    axes.plot(middle[seen].tolist(), means.tolist(), color=BLUE, linewidth=1.8)
    if bool((means > 0).all()):
        make_logarithmic(axes)
    axes.set(xlabel="timestep", ylabel=ylabel, title=title)
    return figure


def metric_curves(
    curves: dict[str, tuple[Sequence[int], Sequence[float]]], ylabel: str, log_scale: bool = False
) -> Figure:
    """Up to five logged quantities over the steps, each `(steps, values)`, by their names."""
    figure, (axes,) = new_axes()
    for (name, (steps, values)), color in zip(curves.items(), (BLUE, GOLD, GREEN, RED, PALE_BLUE), strict=False):
        axes.plot(steps, values, color=color, linewidth=1.8, label=name)
    if log_scale and all(value > 0 for _, values in curves.values() for value in values):
        make_logarithmic(axes)
    axes.set(xlabel="step", ylabel=ylabel)
    if len(curves) > 1:
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": len(curves)}
        axes.legend(frameon=False, columnspacing=1.2, handlelength=1.2, **above)
    return figure


def nearest_distances(samples: Tensor, held_out: Tensor, title: str = "") -> Figure:
    """How far samples are from their nearest training image, (N,), and how far held-out images are from theirs."""
    figure, (axes,) = new_axes()
    bins = torch.linspace(0, float(torch.cat([samples, held_out]).max()), 61).tolist()
    for distances, color, label in ((held_out, GOLD, "held-out images"), (samples, BLUE, "samples")):
        axes.hist(distances.tolist(), bins, density=True, histtype="stepfilled", alpha=0.45, color=color, label=label)
    axes.set(xlabel="distance to the nearest training image", ylabel="density", title=title, xlim=(0, bins[-1]))
    axes.legend(frameon=False)
    return figure
