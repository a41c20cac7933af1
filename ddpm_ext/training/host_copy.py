"""A copy of tensors in the host's memory: what a run writes to disk while it goes on to change the tensors themselves.

`TrainingState` takes one for each checkpoint. All are taken into the same memory: to ask the system for that much,
page by page, can take several times as long as to copy into it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .sharding import whole


class HostCopy:
    """Copies for the process that `keeps` them; the others only help where FSDP has divided the tensors among all."""

    def __init__(self, keeps: bool) -> None:
        self._keeps = keeps
        self._taken: object = None

    @torch.no_grad()
    def take(self, values: Mapping[str, object]) -> dict[str, object] | None:
        """`values` with all of each tensor that they hold, however deep in mappings, lists and tuples, in the host's
        memory; None where it is not kept. Every process must ask, and the copy before must not be needed any more."""
        copied = _copied(values, self._taken) if self._keeps else _gathered(values)
        self._taken = copied
        return copied


def _copied(value: object, former: object) -> object:
    """A copy of `value`, in the memory of `former` where that is of the same kind."""
    if isinstance(value, Tensor):
        full = whole(value)
        fits = isinstance(former, Tensor) and _layout(former) == _layout(full)
        there = former if fits else torch.empty_like(full, device="cpu", requires_grad=False)
        return there.copy_(full)
    if isinstance(value, Mapping):
        formers = former if isinstance(former, Mapping) else {}
        return {name: _copied(item, formers.get(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        formers = former if isinstance(former, list | tuple) and len(former) == len(value) else [None] * len(value)
        return type(value)(_copied(item, of_item) for item, of_item in zip(value, formers, strict=True))
    return value


def _gathered(value: object) -> None:
    """Goes through `value` as `_copied` does, and keeps nothing."""
    if isinstance(value, Tensor):
        whole(value)
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            _gathered(item)


def _layout(tensor: Tensor) -> tuple[torch.dtype, torch.Size, tuple[int, ...]]:
    return tensor.dtype, tensor.shape, tensor.stride()
