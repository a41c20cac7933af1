"""The way to the images that `generate` makes, for a look at a few of them."""

from collections.abc import Sequence

from ddpm_ext.pipelines import ImprovedDDPMPipeline
from ddpm_ext.visualization import Trajectory, TrajectoryRecorder

from .generate import Sampling, draw


_PIXELS = 720


def record_trajectory(
    pipeline: ImprovedDDPMPipeline,
    num_images: int,
    sampling: Sampling,
    class_labels: Sequence[int] | None = None,
    num_frames: int = 30,
) -> Trajectory:
    """`num_frames` moments on the way to the first `num_images` images of `generate`, made in one batch.

    `class_labels`: an id for each image, of a class-conditional pipeline.
    """
    recorder = TrajectoryRecorder(num_frames)
    pipeline.set_progress_bar_config(disable=True)
    labels = None if class_labels is None else list(class_labels)[:num_images]
    draw(pipeline, range(num_images), sampling, labels, callback_on_step_end=recorder)
    return recorder.trajectory()


def images_side_by_side(pipeline: ImprovedDDPMPipeline, most: int) -> int:
    """How many of the pipeline's images make a picture of a usual width: at most `most`, and at least 1."""
    return max(1, min(most, _PIXELS // max(pipeline.sample_shape[2], 64)))
