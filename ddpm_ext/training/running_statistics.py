"""What a network learns without gradients: the running means and variances of batch norm, one set for a whole run.

They are kept as the weights are: checkpoints hold them, and the averaged network has averages of them over the same
updates, because those of the newest weights do not fit it. While training, batch norm sees the batch of one process at
a time, so that another number of processes is another (equally good) run; networks without it have no such limit.
"""

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class RunningStatistics:
    """The buffers of `network`; `averages` are their averages where the weights are averaged, else themselves."""

    def __init__(self, network: nn.Module, accelerator: Accelerator, is_averaged: bool) -> None:
        self.accelerator = accelerator
        self.newest: list[Tensor] = list(network.buffers())
        self.averages = [tensor.clone() for tensor in self.newest] if is_averaged else self.newest

    @torch.no_grad()
    def update(self, ema_decay: float | None) -> None:
        """Takes up what an update left; every process must call it. `ema_decay` is that of the weights' average."""
        floating = [tensor for tensor in self.newest if tensor.is_floating_point()]
        if floating and self.accelerator.num_processes > 1:
            mean = self.accelerator.reduce(torch.cat([tensor.flatten() for tensor in floating]), "mean")
            for tensor, part in zip(floating, mean.split([tensor.numel() for tensor in floating]), strict=True):
                tensor.copy_(part.view_as(tensor))
        if ema_decay is None or self.averages is self.newest:
            return
        for average, tensor in zip(self.averages, self.newest, strict=True):
            if tensor.is_floating_point():
                average.lerp_(tensor, 1 - ema_decay)
            else:
                average.copy_(tensor)
