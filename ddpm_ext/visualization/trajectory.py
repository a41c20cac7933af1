"""The way from noise to samples: recorded while a pipeline samples, and drawn as a grid or as the frames of a GIF.

recorder = TrajectoryRecorder()
pipe(batch_size=10, callback_on_step_end=recorder)
trajectory_grid(recorder.trajectory())
as_gif(trajectory_frames(recorder.trajectory()))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from .grids import labelled_grid, to_bytes


FINISHED = -1  # the timestep of the sample itself, after the last step


@dataclass(frozen=True)
class Trajectory:
    """S moments of N samples: `samples`, x_t, and `predictions`, the x_0 that was predicted from each; (S, N, ...).

    `timesteps`: S of the training chain, falling, perhaps fractional. The last is -1, where both are the sample.
    """

    timesteps: list[int | float]
    samples: Tensor
    predictions: Tensor

    def thinned(self, count: int) -> "Trajectory":
        """`count` of the moments, evenly spaced, with the first and the last."""
        kept = _evenly(len(self.timesteps), count)
        return Trajectory([self.timesteps[i] for i in kept], self.samples[kept], self.predictions[kept])

    def labels(self) -> list[str]:
        """What to write at each moment."""
        return ["sample" if t == FINISHED else f"t = {round(t)}" for t in self.timesteps]


class _Sampling(Protocol):
    num_timesteps: int


class TrajectoryRecorder:
    """A `callback_on_step_end` that keeps `num_frames` moments of the first `num_samples` samples, on the CPU."""

    def __init__(self, num_frames: int = 40, num_samples: int | None = None) -> None:
        if num_frames < 2:
            raise ValueError(f"`num_frames` is {num_frames}: at least 2, the noise and the sample, are accepted.")
        self.num_frames, self.num_samples = num_frames, num_samples
        self._timesteps: list[int | float] = []
        self._samples: list[Tensor] = []
        self._predictions: list[Tensor] = []

    def __call__(self, pipeline: _Sampling, step: int, timestep: int | float, tensors: Mapping[str, Tensor]) -> dict:
        """Keeps what is to be kept of a step, and changes nothing."""
        last = pipeline.num_timesteps - 1
        if step == 0:
            self._timesteps, self._samples, self._predictions = [], [], []
        if step in _evenly(last + 1, self.num_frames - 1):
            self._keep(timestep, tensors["sample"], tensors["pred_original_sample"])
        if step == last:
            self._keep(FINISHED, tensors["prev_sample"], tensors["prev_sample"])
        return {}

    def _keep(self, timestep: int | float, sample: Tensor, prediction: Tensor) -> None:
        self._timesteps.append(timestep)
        self._samples.append(sample[: self.num_samples].cpu())
        self._predictions.append(prediction[: self.num_samples].cpu())

    def trajectory(self) -> Trajectory:
        """What was recorded of the last call; ValueError before there was one."""
        if not self._timesteps:
            raise ValueError("nothing was recorded: give the recorder to a pipeline as its `callback_on_step_end`.")
        return Trajectory(list(self._timesteps), torch.stack(self._samples), torch.stack(self._predictions))


def trajectory_grid(trajectory: Trajectory, columns: int = 10) -> Image.Image:
    """Each sample, an image, in two rows: x_t and the predicted x_0, at `columns` moments from noise to sample."""
    trajectory = trajectory.thinned(columns)
    rows = []
    for sample, prediction in zip(trajectory.samples.unbind(1), trajectory.predictions.unbind(1), strict=True):
        rows += [list(to_bytes(sample)), list(to_bytes(prediction))]
    names = ["xₜ", "predicted x₀"] * (len(rows) // 2)
    return labelled_grid(rows, names, trajectory.labels(), rows_per_group=2)


def trajectory_frames(trajectory: Trajectory, column_labels: Sequence[str] = ()) -> list[Image.Image]:
    """A frame for each moment: x_t of all samples, which are images, above the x_0 predicted from each."""
    return [
        labelled_grid([list(to_bytes(x_t)), list(to_bytes(x_0))], ["xₜ", "predicted x₀"], column_labels, corner=label)
        for x_t, x_0, label in zip(trajectory.samples, trajectory.predictions, trajectory.labels(), strict=True)
    ]


def telling_moments(count: int) -> list[int]:
    """The places of six of `count` evenly spaced moments from noise to samples, closer where the samples emerge."""
    return sorted({round(share * (count - 1)) for share in (0, 0.4, 0.65, 0.8, 0.92, 1)})


def _evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` places, evenly spaced, with the first and the last."""
    return torch.linspace(0, count - 1, min(count, wanted)).round().long().tolist()
