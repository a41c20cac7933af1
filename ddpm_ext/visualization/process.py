"""The forward process, and what a network makes of its steps: noising, schedules, variances, the bound's terms."""

from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ddpm_ext.diffusion import FlowMatching, GaussianDiffusion

from .drawing import BLUE, GOLD, GREEN, PALE_BLUE, RED, make_logarithmic, new_axes
from .grids import labelled_grid, to_bytes


def forward_strip(
    process: GaussianDiffusion | FlowMatching,
    x_0: Tensor,
    noise: Tensor,
    timesteps: Sequence[int],
    predict_x_0: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Image.Image:
    """Each image of `x_0`, (N, C, H, W) in [-1, 1], on its way to `noise`: x_0, x_t at the `timesteps`, the noise.

    With `predict_x_0(x_t, t)`, t int64 (N,), a second row has the x_0 that the network sees in each x_t.
    """
    noised, predicted = [], []
    for t in timesteps:
        x_t = process.add_noise(x_0, noise, t)
        noised.append(to_bytes(x_t))
        if predict_x_0 is not None:
            predicted.append(to_bytes(predict_x_0(x_t, torch.full((len(x_0),), t, device=x_0.device))))
    rows = []
    for i, (image, own) in enumerate(zip(to_bytes(x_0), to_bytes(noise), strict=True)):
        rows.append([image, *(at[i] for at in noised), own])
        if predicted:
            rows.append([None, *(at[i] for at in predicted)])
    names = ["xₜ", "predicted x₀"] if predicted else ["xₜ"]
    columns = ["x₀", *(f"t = {t}" for t in timesteps), "noise"]
    return labelled_grid(rows, names * len(x_0), columns, rows_per_group=len(names))


def schedules(processes: Mapping[str, GaussianDiffusion]) -> Figure:
    """alphas_cumprod and the signal-to-noise ratio of up to five processes, by their names, over t / T."""
    figure, (left, right) = new_axes(2, width=9, height=3.6)
    for (name, process), color in zip(processes.items(), (BLUE, GOLD, GREEN, RED, PALE_BLUE), strict=False):
        rows = torch.arange(process.num_timesteps)
        time = ((rows + 1) / process.num_timesteps).tolist()
        left.plot(time, process.table["alphas_cumprod"].tolist(), color=color, linewidth=1.8, label=name)
        right.plot(time, process.snr(rows).tolist(), color=color, linewidth=1.8, label=name)
    right.set_yscale("log")
    left.set(xlabel="t / T", ylabel="alphas_cumprod")
    right.set(xlabel="t / T", ylabel="signal-to-noise ratio")
    left.legend(frameon=False)
    return figure


def variance_fraction(timesteps: Sequence[int], fractions: Tensor) -> Figure:
    """Where a `learned_range` network puts the variance over t: 0 is the posterior's, 1 is beta.

    `fractions`: v of many pixels at each timestep, (S, M) (Nichol & Dhariwal 2021, eq. 15).
    """
    figure, (axes,) = new_axes()
    for bound, name in ((1, "beta"), (0, "posterior variance")):
        axes.axhline(bound, color=GOLD, linewidth=1)
        axes.annotate(
            name, (1, bound), (-4, 4), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right"
        )
    _band(axes, timesteps, fractions)
    axes.set(xlabel="timestep", ylabel="v")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, ncols=2, loc="outside upper left")
    return figure


def learned_variance(process: GaussianDiffusion, timesteps: Sequence[int], log_variances: Tensor) -> Figure:
    """The log-variance of many pixels at each timestep, (S, M), between the logarithms of its two bounds.

    `timesteps` are rows of `process`, rising.
    """
    figure, (axes,) = new_axes()
    rows = torch.as_tensor(timesteps)
    for column, name, color in (("log_betas", "beta", GOLD), ("posterior_log_variance", "posterior variance", GREEN)):
        axes.plot(rows.tolist(), process.table[column][rows].tolist(), color=color, linewidth=1.5, label=name)
    _band(axes, timesteps, log_variances)
    axes.set(xlabel="timestep", ylabel="log-variance")
    axes.legend(frameon=False)
    return figure


def bound_terms(timesteps: Sequence[int], terms_bpd: Tensor) -> Figure:
    """The terms of the variational bound of many images at each timestep, (S, B) in bits/dim, on logarithmic axes.

    The first is the decoder's; t counts from 1, as in the papers, where a logarithm would hide it.
    """
    figure, (axes,) = new_axes()
    steps = [t + 1 for t in timesteps]
    _band(axes, steps, terms_bpd)
    axes.set(xscale="log", xlabel="step t, 1 to T", ylabel="term of the bound, bits/dim")
    if bool((terms_bpd > 0).all()):
        make_logarithmic(axes)
    axes.legend(frameon=False)
    return figure


def _band(axes: Axes, x: Sequence[int], values: Tensor) -> None:
    """The mean of `values`, (S, M), over x, and between which of them eight tenths lie."""
    values = values.double()
    low, high = values.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64), dim=1).tolist()
    axes.fill_between(x, low, high, color=PALE_BLUE, alpha=0.45, linewidth=0, label="10 to 90 %")
    axes.plot(x, values.mean(1).tolist(), color=BLUE, linewidth=1.8, label="mean")
