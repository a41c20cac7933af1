"""What models are compared by: how their samples come about, the samples, and a number.

Points and digits are looked at in the same way, each with the number and the pictures that fit it.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ddpm_ext.data.images import load_images, to_unit_range
from ddpm_ext.data.point_sets import PointSet
from ddpm_ext.data.points import load_points
from ddpm_ext.pipelines import ImprovedDDPMPipeline, PointsDDPMPipeline
from ddpm_ext.randomness import generator_for
from ddpm_ext.visualization import (
    Trajectory,
    TrajectoryRecorder,
    as_image,
    labelled_grid,
    opaque_image,
    point_cloud_table,
    telling_moments,
)
from ddpm_ext.visualization.grids import to_bytes

from .generate import Sampling, generate
from .image_metrics import frechet_distance
from .point_metrics import chamfer_distance
from .statistics import Moments
from .trajectory import record_trajectory


_FRAMES = 51
_SHOWN_POINTS = 500
_SHOWN_DIGITS = 16
_DIGITS_PER_BATCH = 250


@dataclass(frozen=True)
class Look:
    """What one model draws: `moments` (S, N, ...) on the way to N samples, their `labels`, and more `samples`."""

    moments: Tensor
    labels: list[str]
    samples: Tensor


@dataclass(frozen=True)
class Compared:
    """A model of `schedule` and `predictor`: its number, once for each set of samples, and the look at it."""

    schedule: str
    predictor: str
    values: list[float]
    look: Look

    @property
    def name(self) -> str:
        return f"{self.schedule}, {self.predictor}"

    @property
    def value(self) -> float:
        """The mean of the numbers."""
        return statistics.mean(self.values)

    def __str__(self) -> str:
        """The mean to three digits and, where there are several, their standard deviation."""
        spread = f" ± {statistics.stdev(self.values):.1g}" if len(self.values) > 1 else ""
        return f"{self.value:.3g}{spread}"


class Domain(Protocol):
    """What the compared models draw. `metric` is the number's name; smaller is better.

    `floor` is the number of real samples, and `protocol` says how it comes about.
    """

    metric: str
    floor: float
    protocol: str

    def examine(self, pipeline: ImprovedDDPMPipeline) -> tuple[list[float], Look]:
        """The number, once for each set of samples that is drawn, and the look at the first set."""
        ...

    def draw_trajectories(self, models: Sequence[Compared]) -> Image.Image: ...

    def draw_samples(self, models: Sequence[Compared], columns: int) -> Image.Image:
        """The samples of all models; where a picture has room for it, in `columns`."""
        ...


class Points:
    """Points of `dataset_name`, by the Chamfer distance of `num_samples` to as many fresh ones, three times."""

    metric = "Chamfer distance"
    _sets = 3

    def __init__(self, dataset_name: PointSet, num_samples: int, num_inference_steps: int, seed: int) -> None:
        self.num_samples, self.num_inference_steps, self.seed = num_samples, num_inference_steps, seed
        self._fresh = load_points(dataset_name, num_samples, seed, "fresh").points
        self.floor = chamfer_distance(load_points(dataset_name, num_samples, seed).points, self._fresh)
        self.protocol = (
            f"{dataset_name}: {self._sets} times {num_samples:,} points in {num_inference_steps} steps, to "
            f"{num_samples:,} fresh points"
        )

    def _sample(self, pipeline: PointsDDPMPipeline, index: int, recorder: TrajectoryRecorder) -> Tensor:
        return pipeline(
            self.num_samples,
            generator=generator_for(self.seed, "compared points", index),
            num_inference_steps=self.num_inference_steps,
            callback_on_step_end=recorder,
        ).points.cpu()

    def examine(self, pipeline: PointsDDPMPipeline) -> tuple[list[float], Look]:
        pipeline.set_progress_bar_config(disable=True)
        recorders = [TrajectoryRecorder(_FRAMES, _SHOWN_POINTS) for _ in range(self._sets)]
        sets = [self._sample(pipeline, index, recorder) for index, recorder in enumerate(recorders)]
        return [chamfer_distance(points, self._fresh) for points in sets], _look(recorders[0].trajectory(), sets[0])

    def draw_trajectories(self, models: Sequence[Compared]) -> Image.Image:
        rows = [list(model.look.moments) for model in models]
        names = [model.name.replace(", ", "\n") for model in models]
        return as_image(point_cloud_table(rows, names, models[0].look.labels, limit=2.0, inches=1.0), dpi=100)

    def draw_samples(self, models: Sequence[Compared], columns: int) -> Image.Image:
        rows = [models[start : start + columns] for start in range(0, len(models), columns)]
        clouds = [[model.look.samples for model in row] for row in rows]
        names, titles = [row[0].schedule for row in rows], [model.predictor for model in rows[0]]
        return as_image(point_cloud_table(clouds, names, titles, self._fresh, limit=1.1, inches=1.8), dpi=100)


class Digits:
    """Digits of 8x8 pixels, by the Fréchet distance of `num_samples` to the test split, on their 64 pixels."""

    metric = "Fréchet distance"

    def __init__(self, num_samples: int, num_inference_steps: int, seed: int) -> None:
        self.num_samples, self.sampling = num_samples, Sampling(seed, _DIGITS_PER_BATCH, num_inference_steps)
        train, test = (load_images("digits", split=split, show_progress=False) for split in ("train", "test"))
        self._test = test.integers(torch.arange(len(test)))
        self.floor = self._distance(train.integers(torch.arange(len(train))))
        self.protocol = f"{num_samples:,} digits in {num_inference_steps} steps, to the test split, on 64 pixels"

    def _distance(self, images: Tensor) -> float:
        one, other = (Moments.of(to_unit_range(part, 255).flatten(1)) for part in (images, self._test))
        return frechet_distance(one, other)

    def examine(self, pipeline: ImprovedDDPMPipeline) -> tuple[list[float], Look]:
        images = generate(pipeline, self.num_samples, self.sampling, progress="sampling")
        trajectory = record_trajectory(pipeline, 1, self.sampling, num_frames=_FRAMES)
        return [self._distance(images)], _look(trajectory, images[:_SHOWN_DIGITS])

    def draw_trajectories(self, models: Sequence[Compared]) -> Image.Image:
        rows = [list(to_bytes(model.look.moments[:, 0])) for model in models]
        return opaque_image(labelled_grid(rows, [model.name for model in models], models[0].look.labels))

    def draw_samples(self, models: Sequence[Compared], columns: int) -> Image.Image:
        rows = [list(model.look.samples) for model in models]
        return opaque_image(labelled_grid(rows, [f"{model.name}: {model}" for model in models]))


def _look(trajectory: Trajectory, samples: Tensor) -> Look:
    chosen, labels = telling_moments(len(trajectory.timesteps)), trajectory.labels()
    return Look(trajectory.samples[chosen], [labels[i] for i in chosen], samples)
