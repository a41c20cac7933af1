"""Many images from a pipeline, shared over the processes of an accelerated run.

Image i depends on the seed and on i alone: not on the batch it is made in, nor on the number of processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from ddpm_ext.randomness import generator_for


@dataclass(frozen=True)
class Sampling:
    """How images are drawn: the pipeline's own arguments, and the seed that settles all of them."""

    seed: int = 0
    batch_size: int = 64
    num_inference_steps: int | str = 250
    guidance_scale: float = 1.0
    eta: float | None = None


def generate(
    pipeline: ImprovedDDPMPipeline,
    num_images: int,
    sampling: Sampling,
    class_labels: Sequence[int] | None = None,
    accelerator: Accelerator | None = None,
    progress: str | None = None,
) -> Tensor:
    """`num_images` images, uint8 (N, C, H, W), the same on every process.

    `class_labels`, one id per image, are required by a class-conditional pipeline and refused by any other. `progress`
    is the title of a bar that counts images.
    """
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    own = list(range(rank, num_images, world))
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    with tqdm(total=num_images, desc=progress, unit="image", disable=progress is None or rank > 0) as bar:
        for start in range(0, len(own), sampling.batch_size):
            batch = own[start : start + sampling.batch_size]
            labels = None if class_labels is None else [class_labels[i] for i in batch]
            parts.append(_generate_batch(pipeline, batch, sampling, labels))
            bar.update(min(len(batch) * world, num_images - bar.n))
    if world == 1:
        return torch.cat(parts)
    return _interleave(parts, pipeline, num_images, accelerator)


def _generate_batch(
    pipeline: ImprovedDDPMPipeline, batch: list[int], sampling: Sampling, labels: list[int] | None
) -> Tensor:
    generators = [generator_for(sampling.seed, "image", i) for i in batch]
    if isinstance(pipeline, ClassConditionalDDPMPipeline):
        if labels is None:
            raise ValueError("`class_labels` must be given: the model is class-conditional.")
        images = pipeline(
            class_labels=labels,
            guidance_scale=sampling.guidance_scale,
            generator=generators,
            num_inference_steps=sampling.num_inference_steps,
            eta=sampling.eta,
            output_type="pt",
        ).images
    else:
        if labels is not None:
            raise ValueError("`class_labels` was given, but the model is unconditional and knows no classes.")
        if sampling.guidance_scale != 1:
            raise ValueError(
                f"`guidance_scale` is {sampling.guidance_scale}, but the model is unconditional: there is no class to "
                "guide towards, and only 1 is accepted."
            )
        images = pipeline(
            batch_size=len(batch),
            generator=generators,
            num_inference_steps=sampling.num_inference_steps,
            eta=sampling.eta,
            output_type="pt",
        ).images
    return to_bytes(images).cpu()


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] to uint8, rounded."""
    return (images * 255).round().to(torch.uint8)


def _interleave(
    parts: list[Tensor], pipeline: ImprovedDDPMPipeline, num_images: int, accelerator: Accelerator
) -> Tensor:
    """All processes' images in the order of their numbers; process r made r, r + world, ..."""
    world = accelerator.num_processes
    each = -(-num_images // world)
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    padded = torch.zeros(each, pipeline.unet.config.in_channels, height, width, dtype=torch.uint8)
    if parts:
        own = torch.cat(parts)
        padded[: len(own)] = own
    gathered = accelerator.gather(padded.to(accelerator.device)).cpu()
    return gathered.view(world, each, *padded.shape[1:]).transpose(0, 1).flatten(0, 1)[:num_images]
