"""A network through torch.compile, for many samples: compiling takes about a minute, which a few do not win back."""

from collections.abc import Callable

import torch
from diffusers import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor


COMPILER_ERRORS = (RuntimeError, ImportError, OSError)
COMPILER_HINT = "on a CPU, a C++ compiler may be what is missing"


def compiler_failure(error: Exception) -> str:
    """What one of `COMPILER_ERRORS` says, as the beginning of a sentence."""
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return f"torch.compile fails here ({reason})"


def compile_network(network: ModelMixin) -> None:
    """From now on, `network` is compiled for batches of the size that it is first called with.

    It would be compiled anew for each other size, so that those are called as before: the last batch is often smaller.
    Its weights take the channels-last layout. On a GPU, an evaluation is one CUDA graph, launched at once. ValueError
    at the first call, where torch.compile fails.
    """
    plain = network.to(memory_format=torch.channels_last).forward
    compiled = _with_cuda_graphs(plain) if network.device.type == "cuda" else torch.compile(plain, dynamic=False)
    size: int | None = None

    def forward(x_t: Tensor, *conditions: Tensor) -> BaseOutput:
        nonlocal size
        if size is not None:
            return (compiled if len(x_t) == size else plain)(x_t, *conditions)
        try:
            output = compiled(x_t, *conditions)
        except COMPILER_ERRORS as error:
            raise ValueError(f"`compile` is true, but {compiler_failure(error)}: {COMPILER_HINT}.") from error
        size = len(x_t)
        return output

    network.forward = forward


def _with_cuda_graphs(plain: Callable[..., BaseOutput]) -> Callable[..., BaseOutput]:
    compiled = torch.compile(plain, dynamic=False, mode="reduce-overhead")

    def forward(*inputs: Tensor) -> BaseOutput:
        torch.compiler.cudagraph_mark_step_begin()
        output = compiled(*inputs)
        # What a graph returns lies in its own memory, which the next evaluation writes over; samplers look back.
        return type(output)(**{name: value.clone() for name, value in output.items()})

    return forward
