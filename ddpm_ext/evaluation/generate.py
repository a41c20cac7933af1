"""Many images from a pipeline, shared over the processes of an accelerated run.

Image i depends on the seed and on i alone: not on the batch it is made in, nor on the number of processes. (Batches of
another size round otherwise, by a level in a few pixels. The processes share out whole batches, so that their number
does not even do that.)
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from ddpm_ext.pipelines.pipeline_improved_ddpm import StepCallback
from ddpm_ext.randomness import generator_for
from ddpm_ext.schedulers.stock import sampler_for

from .batch_size import fitting_batch_size


@dataclass(frozen=True)
class Sampling:
    """How images are drawn: the pipeline's own arguments, and the seed that settles all of them.

    `batch_size` None draws as many at once as fit. `mixed_precision` is the network's alone.
    """

    seed: int = 0
    batch_size: int | None = None
    num_inference_steps: int | str = 250
    guidance_scale: float = 1.0
    eta: float | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """Within it, the network works in `mixed_precision` on `device`."""
        if self.mixed_precision == "no":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16 if self.mixed_precision == "bf16" else torch.float16)

    def with_batch_size(
        self, pipeline: ImprovedDDPMPipeline, num_images: int, accelerator: Accelerator | None = None
    ) -> "Sampling":
        """The same, with the `batch_size` that fits where there is none; every process must ask."""
        if self.batch_size is not None:
            return self
        with self.autocast(pipeline.device):
            fitting = fitting_batch_size(pipeline, num_images, self.guidance_scale != 1, accelerator)
        return replace(self, batch_size=fitting)


def generate(
    pipeline: ImprovedDDPMPipeline,
    num_images: int,
    sampling: Sampling,
    class_labels: Sequence[int] | None = None,
    accelerator: Accelerator | None = None,
    progress: str | None = None,
    announce: Callable[[float], None] | None = None,
) -> Tensor:
    """`num_images` images, uint8 (N, C, H, W), the same on every process.

    `class_labels`, one id per image, are required by a class-conditional pipeline and refused by any other. `progress`
    is the title of a bar that counts images. `announce` is told, after the first batch, how many seconds all of them
    will take.
    """
    check_sampling(pipeline, sampling, class_labels is not None)
    sampling = sampling.with_batch_size(pipeline, num_images, accelerator)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    share = -(-num_images // world)
    batches = [list(batch) for batch in _batches(num_images, min(sampling.batch_size, share))]
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    started = time.perf_counter()
    with tqdm(total=num_images, desc=progress, unit="image", disable=progress is None or rank > 0) as bar:
        for batch in batches[rank::world]:
            labels = None if class_labels is None else [class_labels[i] for i in batch]
            parts.append(quantize(draw(pipeline, batch, sampling, labels)).cpu())
            if len(parts) == 1 and announce is not None and rank == 0:
                announce((time.perf_counter() - started) * -(-len(batches) // world))
            bar.update(min(len(batch) * world, num_images - bar.n))
    if world == 1:
        return torch.cat(parts)
    return _in_order(parts, batches, pipeline, accelerator)


def initial_noise(pipeline: ImprovedDDPMPipeline, num_images: int, seed: int) -> Tensor:
    """The standard normal (N, C, H, W) that `generate` starts from, whatever the sampler."""
    return pipeline.initial_noise(num_images, _generators(seed, range(num_images)))


def _generators(seed: int, batch: Sequence[int]) -> list[torch.Generator]:
    return [generator_for(seed, "image", i) for i in batch]


def _batches(num_images: int, batch_size: int) -> list[range]:
    return [range(start, min(start + batch_size, num_images)) for start in range(0, num_images, batch_size)]


def check_sampling(pipeline: ImprovedDDPMPipeline, sampling: Sampling, has_labels: bool) -> None:
    """ValueError where `pipeline` cannot sample so."""
    if isinstance(pipeline, ClassConditionalDDPMPipeline):
        if not has_labels:
            raise ValueError("`class_labels` must be given: the model is class-conditional.")
    elif has_labels:
        raise ValueError("`class_labels` was given, but the model is unconditional and knows no classes.")
    elif sampling.guidance_scale != 1:
        raise ValueError(
            f"`guidance_scale` is {sampling.guidance_scale}, but the model is unconditional: there is no class to "
            "guide towards, and only 1 is accepted."
        )
    sampler_for(pipeline.scheduler).set_timesteps(sampling.num_inference_steps)


def draw(
    pipeline: ImprovedDDPMPipeline,
    numbers: Sequence[int],
    sampling: Sampling,
    labels: Sequence[int] | None,
    callback_on_step_end: StepCallback | None = None,
) -> Tensor:
    """The images of these `numbers`, in one batch: (B, C, H, W) in [0, 1]."""
    common = {
        "generator": _generators(sampling.seed, numbers),
        "num_inference_steps": sampling.num_inference_steps,
        "eta": sampling.eta,
        "output_type": "pt",
        "callback_on_step_end": callback_on_step_end,
    }
    with sampling.autocast(pipeline.device):
        if isinstance(pipeline, ClassConditionalDDPMPipeline):
            return pipeline(labels, sampling.guidance_scale, **common).images
        return pipeline(len(numbers), **common).images


def labels_like(reference: Tensor | None, num_classes: int, num_images: int) -> list[int]:
    """A class for each of `num_images`, evenly mixed: as frequent as in the labels `reference` (N,), or all alike.

    A distance to images of uneven classes would otherwise measure the choice of the classes.
    """
    counts = torch.ones(num_classes) if reference is None else reference.bincount(minlength=num_classes)
    wanted = counts.double() / counts.sum() * num_images
    rounded = wanted.floor()
    rest = num_images - int(rounded.sum())
    rounded[(wanted - rounded).argsort(descending=True, stable=True)[:rest]] += 1
    places = [((i + 0.5) / count, label) for label, count in enumerate(rounded.tolist()) for i in range(int(count))]
    return [label for _, label in sorted(places)]


def duration(seconds: float) -> str:
    """`seconds` for a reader: "8 s", "3 min 20 s", "5 h 12 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def quantize(images: Tensor) -> Tensor:
    """Images in [0, 1] to uint8, rounded."""
    return (images * 255).round().to(torch.uint8)


def _in_order(
    parts: list[Tensor], batches: list[list[int]], pipeline: ImprovedDDPMPipeline, accelerator: Accelerator
) -> Tensor:
    """All processes' images in the order of their numbers; process r made the batches r, r + world, ..."""
    world = accelerator.num_processes
    each, size = -(-len(batches) // world), len(batches[0])  # all batches are of this size, but for the last
    padded = torch.zeros(each * size, *pipeline.sample_shape, dtype=torch.uint8)
    if parts:
        own = torch.cat(parts)
        padded[: len(own)] = own
    gathered = accelerator.gather(padded.to(accelerator.device)).cpu()
    by_batch = gathered.view(world, each, size, *padded.shape[1:]).transpose(0, 1)
    return by_batch.flatten(0, 2)[: sum(map(len, batches))]
