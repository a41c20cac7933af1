"""A network through torch.compile, for many samples: compiling takes about a minute, which a few do not win back."""

import torch
from diffusers import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor


def compile_network(network: ModelMixin) -> None:
    """From now on, `network` is compiled for batches of the size that it is first called with.

    It would be compiled anew for each other size, so that those are called as before: the last batch is often smaller.
    ValueError at the first call, where torch.compile fails.
    """
    plain = network.forward
    compiled = torch.compile(plain, dynamic=False)
    size: int | None = None

    def forward(x_t: Tensor, *conditions: Tensor) -> BaseOutput:
        nonlocal size
        if size is not None:
            return (compiled if len(x_t) == size else plain)(x_t, *conditions)
        try:
            output = compiled(x_t, *conditions)
        except (RuntimeError, ImportError, OSError) as error:
            raise ValueError(
                f"`compile` is true, but torch.compile fails here ({' '.join(str(error).split())[:200].rstrip('.')}): "
                "on a CPU, a C++ compiler may be what is missing."
            ) from error
        size = len(x_t)
        return output

    network.forward = forward
