"""Networks that FSDP has divided among the processes: made whole for checkpoints and samples, and divided again.

`TrainingState` calls this for whatever it saves and loads. With any other distribution a tensor is whole as it is and
nothing here communicates; with FSDP every process must take part in each call, in the same order.
"""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor


def check_distribution(accelerator: Accelerator) -> None:
    """ValueError for what accelerate offers and we cannot make whole again."""
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("`fsdp_version` of accelerate's configuration is 1: with `use_fsdp`, only 2 is accepted.")
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"`distributed_type` of accelerate's configuration is {kind.value}: one process, MULTI_GPU, MULTI_CPU or "
            "FSDP is accepted."
        )


def is_sharded(network: nn.Module) -> bool:
    """Whether each process holds only its share of `network`."""
    return any(isinstance(parameter, DTensor) for parameter in network.parameters())


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`, on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Copies `values`, whole and the same on every process, into `tensors`: all of each, or this process's share."""
    for tensor, value in zip(tensors, values, strict=True):
        if isinstance(tensor, DTensor):
            value = distribute_tensor(
                value.detach().to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None
            )
        tensor.copy_(value)


def optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """The state of `optimizer` by the names of `network`'s parameters; with FSDP, each process's share."""
    return get_optimizer_state_dict(network, optimizer)


def load_optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, object]) -> None:
    """Takes up what `optimizer_state` returned, made whole, under this or another distribution."""
    laid_out = {name: _laid_out_as(parameter, state["state"][name]) for name, parameter in network.named_parameters()}
    options = StateDictOptions(full_state_dict=is_sharded(network))
    set_optimizer_state_dict(network, optimizer, {**state, "state": laid_out}, options=options)


def _laid_out_as(parameter: Tensor, moments: dict[str, Tensor]) -> dict[str, Tensor]:
    """The fused optimizer goes through a weight and its moments by address, so in memory they must lie alike."""
    is_last = parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if is_last else torch.contiguous_format
    return {
        name: value.contiguous(memory_format=form) if value.shape == parameter.shape else value
        for name, value in moments.items()
    }
