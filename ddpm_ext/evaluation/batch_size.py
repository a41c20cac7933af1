"""How many images to draw at once where nobody says: on a GPU as many as its memory holds, on a CPU a few.

`generate` asks before its first batch; a network that is compiled for batches of one size must be asked about before.
"""

import math

import torch
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size
from torch import Tensor

from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline


_ON_CPU = 64
_MOST = 1024  # which fill any GPU
_MARGIN = 1.25  # for the few tensors of the images' size that samplers keep from step to step


def fitting_batch_size(
    pipeline: ImprovedDDPMPipeline,
    num_images: int,
    is_guided: bool = False,
    accelerator: Accelerator | None = None,
) -> int:
    """How many of `num_images`, shared by the processes, each draws at once: as many as fit, and every time as many.

    On a GPU, it evaluates the network to find out, with both halves of the guided batch where `is_guided`. All
    processes get the same number. RuntimeError of PyTorch where not even one image fits.
    """
    world = accelerator.num_processes if accelerator is not None else 1
    share = math.ceil(num_images / world)
    if pipeline.device.type == "cpu":
        return min(_ON_CPU, share)

    def evaluate(batch_size: int) -> int:
        _evaluate(pipeline, math.ceil(batch_size * _MARGIN) * (2 if is_guided else 1))
        return batch_size

    fitting = find_executable_batch_size(evaluate, starting_batch_size=min(_MOST, share))()
    if world > 1:
        fitting = int(accelerator.gather(torch.tensor([fitting], device=accelerator.device)).min())
    return math.ceil(share / math.ceil(share / fitting))


@torch.no_grad()
def _evaluate(pipeline: ImprovedDDPMPipeline, batch_size: int) -> None:
    def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(batch_size, *shape, dtype=dtype, device=pipeline.device)

    labels = [zeros(dtype=torch.long)] if isinstance(pipeline, ClassConditionalDDPMPipeline) else []
    pipeline.unet(zeros(*pipeline.sample_shape, dtype=pipeline.unet.dtype), zeros(dtype=torch.long), *labels)
