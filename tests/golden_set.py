"""The golden set: what OpenAI's diffusion code computes (see golden/README.md).

It is read from the folder that the environment variable DDPM_EXT_GOLDEN names, else from `golden/` beside this file.
Names of arrays are paths: `<process>/f64/<quantity>`. Nothing here assumes a T, a shape or a list of processes.
"""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_ext.diffusion import GaussianDiffusion, Parameterization, make_betas
from ddpm_ext.diffusion.noise_schedules import linear_ends
from ddpm_ext.diffusion.respacing import space_timesteps


FOLDER = Path(os.environ.get("DDPM_EXT_GOLDEN") or Path(__file__).parent / "golden")

# The tolerances of the set, for float64. `error` says of what they are tolerances.
TABLES = 1e-9
SAMPLES = 1e-9
LOSSES = 1e-7
LOSSES_AT_0 = 1e-5
LOG_LIKELIHOOD = 1e-4

PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "prev": "mean"}


class GoldenFile:
    """One file of the set: its arrays by name, as tensors (half-precision noise as float64)."""

    def __init__(self, name: str):
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
            self._arrays = dict(file)

    def __getitem__(self, name: str) -> Tensor:
        array = self._arrays[name]
        return torch.from_numpy(array.astype(np.float64) if array.dtype == np.float16 else np.array(array))

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def children(self, *path: str) -> list[str]:
        """The names directly below `path`, in the order of the file."""
        depth = len(path)
        parts = (name.split("/") for name in self._arrays)
        return list(dict.fromkeys(p[depth] for p in parts if len(p) > depth and tuple(p[:depth]) == path))

    def paths(self, *path: str) -> list[tuple[str, ...]]:
        """The rest of every name below `path`."""
        parts = (tuple(name.split("/")) for name in self._arrays)
        return [p[len(path) :] for p in parts if len(p) > len(path) and p[: len(path)] == path]


@cache
def golden(name: str) -> GoldenFile:
    """The file `name`.npz."""
    return GoldenFile(name)


def schedule_arguments(tag: str) -> Mapping[str, str | int | float]:
    """The arguments of `make_betas` (and of the scheduler) for a process named `<schedule>_<T>` or `..._<spec>`."""
    schedule, steps = tag.split("_")[:2]
    beta_start, beta_end = linear_ends(int(steps)) if schedule == "linear" else (1e-4, 0.02)
    return {
        "beta_schedule": schedule,
        "num_train_timesteps": int(steps),
        "beta_start": beta_start,
        "beta_end": beta_end,
    }


def spec_of(tag: str) -> str | None:
    """How the process is respaced, None where it is not."""
    parts = tag.split("_")
    return parts[2] if len(parts) > 2 and parts[2] != "full" else None


@cache
def process_of(tag: str) -> GaussianDiffusion:
    """Our process of that name."""
    process = GaussianDiffusion(make_betas(**schedule_arguments(tag)))
    spec = spec_of(tag)
    return process if spec is None else process.respace(space_timesteps(process.num_timesteps, spec))


def toy_model(x: Tensor, t: float, parameterization: Parameterization) -> Tensor:
    """The set's stand-in for a network, which is told `t`."""
    channel = torch.arange(x.shape[1], dtype=x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    mean = 0.3 * x + 0.1 * np.sin(t / 100) + 0.02 * channel
    return torch.cat([mean, 0.5 * np.cos(t / 50) + 0.2 * x], 1) if parameterization.learns_variance else mean


def error(actual: Tensor | float, expected: Tensor, floor: float = 0.0) -> float:
    """The largest |actual - expected| / max(|expected|, `floor`); NaN if anything is.

    `floor` 0 is the relative error, 1 the relative or the absolute one, whichever is smaller.
    """
    actual, expected = torch.broadcast_tensors(torch.as_tensor(actual, dtype=torch.float64), expected.double())
    difference = (actual - expected).abs()
    relative = difference / expected.abs().clamp(min=floor)
    return float(torch.where(difference == 0, 0.0, relative).max())
