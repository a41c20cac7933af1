"""2-D data on its way: clouds of points at several times, side by side or as the frames of a GIF."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from .drawing import BLUE, PALE_BLUE


def point_clouds(
    points: Tensor,
    labels: Sequence[str] = (),
    reference: Tensor | None = None,
    columns: int = 6,
    limit: float | None = None,
) -> Figure:
    """N points at S times, (S, N, 2), each time in axes of its own, above real points (M, 2) where they are given.

    All axes go from -`limit` to `limit`, by default as far as the points; `labels` are their titles. A row has up to
    `columns`.
    """
    limit = limit or _limit(points, reference)
    rows = math.ceil(len(points) / columns)
    columns = math.ceil(len(points) / rows)
    figure = Figure(figsize=(2 * columns, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for index, one in enumerate(axes):
        if index < len(points):
            _draw(one, points[index], reference, limit)
            one.set_title(labels[index] if index < len(labels) else "", fontsize=10)
        else:
            one.set_axis_off()
    return figure


def point_cloud_table(
    rows: Sequence[Sequence[Tensor]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    reference: Tensor | None = None,
    limit: float | None = None,
    inches: float = 1.2,
) -> Figure:
    """Clouds, each (N, 2), in rows and columns with words at their left and above them; all axes have one scale.

    A cloud is `inches` wide; the rest is as in `point_clouds`.
    """
    limit = limit or max(_limit(cloud, reference) for row in rows for cloud in row)
    figure = Figure(figsize=(inches * (len(rows[0]) + 0.6), inches * len(rows) + 0.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for row, line, label in zip(rows, axes, row_labels, strict=True):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        for cloud, one in zip(row, line, strict=True):
            _draw(one, cloud, reference, limit)
    for one, label in zip(axes[0], column_labels, strict=True):
        one.set_title(label, fontsize=8)
    return figure


def point_cloud_frames(
    points: Tensor,
    labels: Sequence[str] = (),
    reference: Tensor | None = None,
    pixels: int = 360,
    limit: float | None = None,
) -> list[Image.Image]:
    """A frame of `pixels` x `pixels` for each of the S times of points (S, N, 2); the rest as in `point_clouds`."""
    limit = limit or _limit(points, reference)
    figure = Figure(figsize=(pixels / 100, pixels / 100), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    cloud = _draw(axes, points[0], reference, limit)
    frames = []
    for index, at in enumerate(points):
        cloud.set_offsets(at.detach().cpu().numpy())
        axes.set_title(labels[index] if index < len(labels) else "", fontsize=10)
        canvas.draw()
        frames.append(Image.fromarray(np.array(canvas.buffer_rgba())))
    return frames


def _limit(points: Tensor, reference: Tensor | None) -> float:
    """What no coordinate goes beyond, but for the one in a thousand that lies farthest out."""
    limits = [part.abs().flatten().sort().values for part in (points, reference) if part is not None]
    return 1.05 * max(float(values[int(0.999 * (len(values) - 1))]) for values in limits)


def _draw(axes: Axes, points: Tensor, reference: Tensor | None, limit: float) -> PathCollection:
    size = max(1.0, min(10.0, 4000 / len(points)))
    if reference is not None:
        axes.scatter(*reference.detach().cpu().T.numpy(), s=size, color=PALE_BLUE, alpha=0.5, linewidths=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
    return axes.scatter(*points.detach().cpu().T.numpy(), s=size, color=BLUE, alpha=0.7, linewidths=0)
