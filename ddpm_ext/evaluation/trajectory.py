"""The way to the images that `generate` makes, for a look at a few of them."""

from collections.abc import Sequence

from ddpm_ext.pipelines import ImprovedDDPMPipeline
from ddpm_ext.randomness import generator_for
from ddpm_ext.visualization import Trajectory, TrajectoryRecorder

from .generate import Sampling


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
    common = {
        "generator": [generator_for(sampling.seed, "image", i) for i in range(num_images)],
        "num_inference_steps": sampling.num_inference_steps,
        "eta": sampling.eta,
        "output_type": "pt",
        "callback_on_step_end": recorder,
    }
    with sampling.autocast(pipeline.device):
        if class_labels is None:
            pipeline(num_images, **common)
        else:
            pipeline(list(class_labels)[:num_images], sampling.guidance_scale, **common)
    return recorder.trajectory()


def images_side_by_side(pipeline: ImprovedDDPMPipeline, most: int) -> int:
    """How many of the pipeline's images make a picture of a usual width: at most `most`, and at least 1."""
    return max(1, min(most, _PIXELS // max(pipeline.sample_shape[2], 64)))
