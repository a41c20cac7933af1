"""Bits/dim of a pipeline on images it has not seen, shared over the processes of an accelerated run.

The number depends on the seed, the images and the batch size, and not on how many processes share the batches.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_ext.data.images import Draw, ImageData
from ddpm_ext.data.training_data import TrainingData
from ddpm_ext.diffusion import BitsPerDimEstimate, estimate_bits_per_dim, exact_bits_per_dim
from ddpm_ext.diffusion.likelihood import Predict, num_evaluations_of_estimate
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from ddpm_ext.randomness import generator_for
from ddpm_ext.schedulers.flow_matching import is_flow_matching


Measured = TypeVar("Measured")


def check_has_likelihood(data: TrainingData) -> None:
    """ValueError where `data` are not the 8-bit images that the bound's decoder is for."""
    if data.max_value is None:
        raise ValueError(f"bits/dim are those of 8-bit images, which {data.noun} are not.")
    if data.max_value != 255:
        raise ValueError("bits/dim are those of 8-bit images: `preserve_input_precision` kept 16 bits of these.")


def check_has_bound(pipeline: ImprovedDDPMPipeline) -> None:
    """ValueError where `pipeline` is a model without the chain that the bound is summed over."""
    if is_flow_matching(pipeline.scheduler):
        raise ValueError("bits/dim are those of the variational bound, which a model of flow matching does not have.")


def estimated_bits_per_dim(
    pipeline: ImprovedDDPMPipeline,
    data: ImageData,
    num_images: int,
    seed: int = 0,
    batch_size: int = 64,
    accelerator: Accelerator | None = None,
    num_evaluations: int | None = None,
    indices: Tensor | None = None,
    progress: str | None = None,
) -> BitsPerDimEstimate:
    """The estimate for the first `num_images` of `data` (all, if there are fewer), the same on every process.

    `indices`, int64 (N,): these images of the data instead. A class-conditional model is told the labels.
    `num_evaluations`: see `estimate_bits_per_dim`. `progress` is the title of a bar.
    """
    check_has_bound(pipeline)
    process, parameterization = pipeline.scheduler.process, pipeline.scheduler.parameterization
    chosen = torch.arange(len(data))[:num_images] if indices is None else indices

    def measure(predict: Predict, x_0: Tensor, generator: torch.Generator) -> BitsPerDimEstimate:
        return estimate_bits_per_dim(process, parameterization, predict, x_0, generator, num_evaluations)

    with _bar(progress, len(chosen) * num_evaluations_of_estimate(process, num_evaluations), accelerator) as bar:
        batches = _of_batches(pipeline, data, chosen, seed, batch_size, accelerator, measure, bar)
    return BitsPerDimEstimate.joined(batches)


def exact_bits_per_dim_of(
    pipeline: ImprovedDDPMPipeline,
    data: ImageData,
    indices: Tensor,
    seed: int = 0,
    batch_size: int = 64,
    accelerator: Accelerator | None = None,
    progress: str | None = None,
) -> Tensor:
    """The bound, bits/dim, of each of the images of `data` at `indices` (N,), with every step of the chain: float32
    (N,) on the CPU, the same on every process. A class-conditional model is told the labels. `progress` is the title
    of a bar."""
    check_has_bound(pipeline)
    process, parameterization = pipeline.scheduler.process, pipeline.scheduler.parameterization

    def measure(predict: Predict, x_0: Tensor, generator: torch.Generator) -> Tensor:
        return exact_bits_per_dim(process, parameterization, predict, x_0, generator).total.cpu()

    with _bar(progress, len(indices) * process.num_timesteps, accelerator) as bar:
        return torch.cat(_of_batches(pipeline, data, indices, seed, batch_size, accelerator, measure, bar))


def _bar(title: str | None, evaluations: int, accelerator: Accelerator | None) -> tqdm:
    """It counts evaluations of one image, on the main process and where there is a title."""
    is_hidden = title is None or (accelerator is not None and not accelerator.is_main_process)
    return tqdm(total=evaluations, desc=title, unit=" evaluations", unit_scale=True, disable=is_hidden)


def _of_batches(
    pipeline: ImprovedDDPMPipeline,
    data: ImageData,
    indices: Tensor,
    seed: int,
    batch_size: int,
    accelerator: Accelerator | None,
    measure: Callable[[Predict, Tensor, torch.Generator], Measured],
    bar: tqdm,
) -> list[Measured]:
    """`measure(predict, x_0, generator)` of each batch, in their order; the processes share the batches."""
    check_has_likelihood(data)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    batches = indices.split(batch_size)
    own = range(rank, len(batches), world)
    found = []
    for number, batch in zip(own, data.batches((Draw(batches[i]) for i in own), pipeline.unet.device), strict=True):
        labels = (batch["labels"],) if isinstance(pipeline, ClassConditionalDDPMPipeline) else ()

        def predict(x_t: Tensor, timestep: Tensor, labels: tuple[Tensor, ...] = labels) -> Tensor:
            bar.update(min(len(x_t) * world, bar.total - bar.n))
            return pipeline.unet(x_t, timestep, *labels).sample

        found.append((number, measure(predict, batch["images"], generator_for(seed, "bits per dim", number))))
    if world > 1:
        found = gather_object(found)
    return [measured for _, measured in sorted(found, key=lambda pair: pair[0])]
