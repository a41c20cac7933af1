"""Pictures of what a model makes and how it learns; each function returns a figure or an image, and writes nothing."""

import io
import math
from collections.abc import Sequence

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid


def image_grid(images: Tensor, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """Images, uint8 (N, C, H, W), in one picture; small ones are enlarged without smoothing so that they can be seen.

    `columns` defaults to a square; `scale` to the whole number that makes an image about 64 pixels high.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    scale = scale or max(1, round(64 / images.shape[-2]))
    enlarged = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    grid = make_grid(enlarged, nrow=columns, padding=max(2, scale), pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def loss_curve(steps: Sequence[int], losses: Sequence[float], title: str = "") -> Figure:
    """The logged losses over the steps, raw and smoothed over a twentieth of the run, on a logarithmic axis."""
    keep = 1 - 1 / max(1, len(losses) / 20)
    smooth, average, weight = [], 0.0, 0.0
    for loss in losses:
        average = keep * average + (1 - keep) * loss
        weight = keep * weight + (1 - keep)  # what the average has seen so far: it starts from nothing
        smooth.append(average / weight)
    figure, axes = _axes()
    axes.plot(steps, losses, color="#9db7d5", linewidth=1, label="loss")
    axes.plot(steps, smooth, color="#1f4e8c", linewidth=1.8, label="smoothed")
    if min(losses) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="training loss", title=title)
    axes.legend(frameon=False)
    return figure


def loss_per_timestep(sums: Tensor, counts: Tensor, title: str = "", bins: int = 100) -> Figure:
    """The mean loss of each timestep, by `sums` of losses and their `counts`, both (T,), in `bins` bins of timesteps.

    Bins that no loss fell into are left out.
    """
    width = math.ceil(len(counts) / bins)
    total, count = (torch.stack([part.sum() for part in tensor.split(width)]) for tensor in (sums, counts))
    middle = torch.arange(len(count)) * width + (width - 1) / 2
    seen = count > 0
    figure, axes = _axes()
    means = (total / count)[seen]
    axes.plot(middle[seen].tolist(), means.tolist(), color="#1f4e8c", linewidth=1.8)
    if bool((means > 0).all()):
        axes.set_yscale("log")
    axes.set(xlabel="timestep", ylabel="training loss", title=title)
    return figure


def nearest_distances(samples: Tensor, held_out: Tensor, title: str = "") -> Figure:
    """How far samples are from their nearest training image, (N,), and how far held-out images are from theirs."""
    figure, axes = _axes()
    bins = torch.linspace(0, float(torch.cat([samples, held_out]).max()), 61).tolist()
    for distances, color, label in ((held_out, "#c9a227", "held-out images"), (samples, "#1f4e8c", "samples")):
        axes.hist(distances.tolist(), bins, density=True, histtype="stepfilled", alpha=0.45, color=color, label=label)
    axes.set(xlabel="distance to the nearest training image", ylabel="density", title=title, xlim=(0, bins[-1]))
    axes.legend(frameon=False)
    return figure


def as_image(figure: Figure, dpi: int = 120) -> Image.Image:
    """The figure as pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer)


def _axes() -> tuple[Figure, Axes]:
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        return figure, figure.add_subplot()
