"""What a run draws, always from the same noise: the grid of samples, and how some of them come about."""

from collections.abc import Callable
from typing import NamedTuple

from accelerate import Accelerator
from PIL import Image

from ddpm_ext.evaluation.generate import Sampling, generate, initial_noise
from ddpm_ext.evaluation.trajectory import images_side_by_side, record_trajectory
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from ddpm_ext.visualization import image_grid, opaque_image, trajectory_frames, trajectory_grid
from ddpm_ext.visualization.grids import to_bytes

from .arguments import Arguments


class Motion(NamedTuple):
    """The way from noise to samples: frames, and some moments side by side."""

    frames: list[Image.Image]
    moments: Image.Image


class Pictures(NamedTuple):
    """How samples are drawn: every process calls `samples` and `noise`, which they start from, the main one alone
    `motion`."""

    samples: Callable[[ImprovedDDPMPipeline, Arguments, Accelerator], Image.Image]
    motion: Callable[[ImprovedDDPMPipeline, Arguments], Motion]
    noise: Callable[[ImprovedDDPMPipeline, Arguments], Image.Image]


def sample_grid(pipeline: ImprovedDDPMPipeline, arguments: Arguments, accelerator: Accelerator) -> Image.Image:
    """`eval_batch_size` images, of all classes in turn; the processes share them, and all get the grid."""
    logging = arguments.logging
    sampling = Sampling(
        seed=arguments.training.seed,
        batch_size=-(-logging.eval_batch_size // accelerator.num_processes),
        num_inference_steps=logging.num_inference_steps,
        guidance_scale=getattr(logging, "guidance_scale", 1.0),
    )
    pipeline.unet.eval()
    classes = _num_classes(pipeline)
    labels = classes and [i % classes for i in range(logging.eval_batch_size)]
    images = generate(pipeline, logging.eval_batch_size, sampling, labels, accelerator)
    return image_grid(images, columns=classes and min(classes, 10))


def noise_grid(pipeline: ImprovedDDPMPipeline, arguments: Arguments) -> Image.Image:
    """What the images of `sample_grid` start from, each in its place."""
    count, classes = arguments.logging.eval_batch_size, _num_classes(pipeline)
    noise = initial_noise(pipeline, count, arguments.training.seed)
    return image_grid(to_bytes(noise), columns=classes and min(classes, 10))


def _num_classes(pipeline: ImprovedDDPMPipeline) -> int | None:
    return pipeline.unet.num_classes if isinstance(pipeline, ClassConditionalDDPMPipeline) else None


def sample_trajectory(pipeline: ImprovedDDPMPipeline, arguments: Arguments) -> Motion:
    """The way to a few images in at most 50 steps: less work than a grid, so that the main process can do it alone."""
    logging = arguments.logging
    sampling = Sampling(
        seed=arguments.training.seed,
        num_inference_steps=min(50, logging.num_inference_steps),
        guidance_scale=getattr(logging, "guidance_scale", 1.0),
    )
    pipeline.unet.eval()
    count = images_side_by_side(pipeline, min(10, logging.eval_batch_size))
    classes = _num_classes(pipeline)
    labels = classes and [i % classes for i in range(count)]
    trajectory = record_trajectory(pipeline, count, sampling, labels)
    return Motion(trajectory_frames(trajectory), opaque_image(trajectory_grid(trajectory)))


IMAGES = Pictures(sample_grid, sample_trajectory, noise_grid)
