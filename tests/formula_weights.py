"""Weights by formula, so that what another library computes with them can be kept without keeping the weights."""

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def formula_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A float64 tensor per name: a sine of the place, with a phase from the name's CRC-32, as large as weights are."""
    weights = {}
    for name, shape in shapes.items():
        tensor = torch.zeros(shape, dtype=torch.float64)
        places = torch.arange(tensor.numel(), dtype=torch.float64)
        wave = torch.sin(places * 1.7 + places**2 * 0.013 + zlib.crc32(name.encode()) % 1000)
        is_scale = len(shape) == 1 and name.endswith("weight")
        gain = 1.5 / max(1, tensor[:1].numel()) ** 0.5 if len(shape) > 1 else 0.3
        weights[name] = torch.round((is_scale + gain * wave) * 4096).reshape(shape) / 4096  # exact in float32
    return weights


def formula_images(shape: tuple[int, ...]) -> Tensor:
    """A float64 batch of images of order 1."""
    return formula_weights({"images": (*shape, 1)})["images"].squeeze(-1)
