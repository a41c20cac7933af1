"""Which steps of the training chain a shorter chain visits.

A number K means K steps spread evenly from T-1 down to 0. A string is in OpenAI's notation (Nichol & Dhariwal 2021,
code): "10,15,25" divides the chain into three equal sections and spreads 10, 15 and 25 steps over them; "ddim50" takes
every s-th step from 0 on, as the DDIM paper does (Song et al. 2021, appendix D.3).
"""

import torch
from torch import Tensor


TIMESTEP_SPACINGS = ("linspace", "trailing")


def space_timesteps(num_train_timesteps: int, spec: int | str, timestep_spacing: str = "linspace") -> Tensor:
    """The timesteps kept, int64, ascending, for a chain of T = `num_train_timesteps`.

    `spec` is the number of steps, or a string in OpenAI's notation. `timestep_spacing` concerns numbers only:
    `linspace` runs from T-1 to 0 inclusive, `trailing` divides T into equal parts and takes the end of each
    (Lin et al. 2024, table 2). Both start at T-1 for every number of steps.
    """
    if isinstance(spec, str):
        return torch.tensor(_openai_timesteps(num_train_timesteps, spec))
    if isinstance(spec, bool) or not isinstance(spec, int) or not 1 <= spec <= num_train_timesteps:
        raise ValueError(
            f"`num_inference_steps` is {spec!r}: a whole number from 1 to {num_train_timesteps}, the length of the "
            "training chain, or a string such as '10,15,25' or 'ddim50' is accepted."
        )
    if timestep_spacing == "trailing":
        return torch.tensor([round((i + 1) * num_train_timesteps / spec) - 1 for i in range(spec)])
    if spec == 1:
        return torch.tensor([num_train_timesteps - 1])
    return torch.tensor(_section(0, num_train_timesteps, spec))


def _openai_timesteps(num_train_timesteps: int, spec: str) -> list[int]:
    if spec.startswith("ddim") and spec[4:].isdecimal():
        count = int(spec[4:])
        for stride in range(1, num_train_timesteps + 1):
            if len(range(0, num_train_timesteps, stride)) == count:
                return list(range(0, num_train_timesteps, stride))
        raise ValueError(
            f"`num_inference_steps` is '{spec}': no whole stride visits exactly {count} of {num_train_timesteps} "
            "steps; use a plain number for even spacing."
        )
    parts = spec.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ValueError(
            f"`num_inference_steps` is '{spec}': a number, one number per section such as '10,15,25', or 'ddim' and a "
            "number such as 'ddim50' is accepted."
        )
    counts = [int(part) for part in parts]
    shortest, longer = divmod(num_train_timesteps, len(counts))
    kept, start = [], 0
    for i, count in enumerate(counts):
        size = shortest + (i < longer)
        if count > size:
            raise ValueError(
                f"`num_inference_steps` is '{spec}': section {i + 1} has {size} of the {num_train_timesteps} steps, "
                f"so it cannot keep {count} of them."
            )
        kept += _section(start, size, count)
        start += size
    if not kept:
        raise ValueError(f"`num_inference_steps` is '{spec}': at least one step must be kept.")
    return kept


def _section(start: int, size: int, count: int) -> list[int]:
    """`count` of `size` steps from the first to the last; a single one is the first, as in OpenAI's code."""
    stride = (size - 1) / (count - 1) if count > 1 else 1
    position, kept = 0.0, []
    for _ in range(count):
        kept.append(start + round(position))
        position += stride  # by repeated addition, whose rounding decides ties as the reference's does
    return kept
