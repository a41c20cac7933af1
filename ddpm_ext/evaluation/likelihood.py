"""Bits/dim of a pipeline on images it has not seen, shared over the processes of an accelerated run.

The number depends on the seed, the images and the batch size, and not on how many processes share the batches.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ddpm_ext.data.images import Draw, ImageData
from ddpm_ext.diffusion import BitsPerDimEstimate, estimate_bits_per_dim
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from ddpm_ext.randomness import generator_for


def check_has_likelihood(data: ImageData) -> None:
    """ValueError where `data` are not the 8-bit images that the bound's decoder is for."""
    if data.max_value != 255:
        raise ValueError("bits/dim are those of 8-bit images: `preserve_input_precision` kept 16 bits of these.")


def estimated_bits_per_dim(
    pipeline: ImprovedDDPMPipeline,
    data: ImageData,
    num_images: int,
    seed: int = 0,
    batch_size: int = 64,
    accelerator: Accelerator | None = None,
    num_evaluations: int | None = None,
) -> BitsPerDimEstimate:
    """The estimate for the first `num_images` of `data` (all, if there are fewer), the same on every process.

    A class-conditional model is told the labels. `num_evaluations`: see `estimate_bits_per_dim`.
    """
    check_has_likelihood(data)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    batches = torch.arange(min(num_images, len(data))).split(batch_size)
    own = range(rank, len(batches), world)
    device = pipeline.unet.device
    process, parameterization = pipeline.scheduler.process, pipeline.scheduler.parameterization
    found = []
    for number, batch in zip(own, data.batches((Draw(batches[i]) for i in own), device), strict=True):
        labels = (batch["labels"],) if isinstance(pipeline, ClassConditionalDDPMPipeline) else ()

        def predict(x_t: Tensor, timestep: Tensor, labels: tuple[Tensor, ...] = labels) -> Tensor:
            return pipeline.unet(x_t, timestep, *labels).sample

        generator = generator_for(seed, "bits per dim", number)
        estimate = estimate_bits_per_dim(
            process, parameterization, predict, batch["images"], generator, num_evaluations
        )
        found.append((number, estimate))
    if world > 1:
        found = gather_object(found)
    return BitsPerDimEstimate.joined([estimate for _, estimate in sorted(found, key=lambda pair: pair[0])])
