"""Converts the U-Nets of improved-diffusion, guided-diffusion and deepinv to pipelines of ours, weight by weight.

    converted = convert_openai("ema_0.9999_500000.pt", "--image_size 64 --num_channels 128 ...")
    converted.pipeline.save_pretrained("iddpm-64")

The network computes what OpenAI's does (to rounding) and the scheduler is that of its training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor

from ddpm_ext.models import ClassConditionalUNet2DModel, ImprovedUNet2DModel, is_stock
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from ddpm_ext.schedulers import ImprovedDDPMScheduler

from .openai_command_line import read_flags
from .openai_flags import OpenAIFlags
from .openai_mismatch import Shapes, check_keys
from .openai_network import layers, network_config, scheduler_config
from .weight_files import read_weights


_TIME_EMBED, _LABELS = "time_embed.0.weight", "label_emb.weight"
_CONV_IN, _CONV_OUT = "input_blocks.0.0.weight", "out.2.weight"


@dataclass(frozen=True)
class Converted:
    """A pipeline, the flags that it was read with, and the keys of the checkpoint that it has no use for."""

    pipeline: ImprovedDDPMPipeline
    flags: OpenAIFlags
    unused_keys: list[str]


def convert_openai(checkpoint: str | Path, flags: str = "", library: str | None = None) -> Converted:
    """The pipeline of the network in file `checkpoint` (.safetensors, or .pt, of which only tensors are read).

    `flags` is the command line that trained it; what it does not say has the default of `library`: "improved",
    "guided" or "deepinv", or None where the flags tell. ValueError, in one sentence, where file, flags and network do
    not go together. OpenAI's class-conditional networks were never shown "no class", so guidance is refused until
    such a network is trained further with label dropout.
    """
    weights, others = read_weights(Path(checkpoint))
    _check_kind({name: tuple(tensor.shape) for name, tensor in weights.items()})
    parsed = read_flags(flags, library, num_channels=weights[_TIME_EMBED].shape[1])
    converted = convert_weights(weights, parsed)
    return Converted(converted.pipeline, parsed, [*converted.unused_keys, *others])


def convert_weights(weights: Mapping[str, Tensor], flags: OpenAIFlags) -> Converted:
    """The pipeline of the network with `weights`, by OpenAI's names, that `flags` built; see `convert_openai`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    of_labels = shapes.get(_LABELS) or (1000,)  # OpenAI's code always says 1000; the table of embeddings knows
    unet = empty_unet(flags, shapes[_CONV_IN][1], of_labels[0] if flags.class_cond else None)
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers(flags) for kind in ("weight", "bias")}
    ours = {name: tuple(parameter.shape) for name, parameter in unet.named_parameters()}
    expected = {key: shape for key, name in names.items() if (shape := _shape_of_theirs(name, ours)) is not None}
    unused = check_keys(shapes, expected, flags)
    state: dict[str, Tensor] = {}
    for key in expected:
        state |= _translated(names[key], weights[key].float(), flags)
    unet.load_state_dict(state, strict=True, assign=True)
    scheduler = ImprovedDDPMScheduler(**scheduler_config(flags))
    pipeline = ClassConditionalDDPMPipeline if flags.class_cond else ImprovedDDPMPipeline
    return Converted(pipeline(unet.eval(), scheduler), flags, unused)


def _check_kind(shapes: Shapes) -> None:
    """ValueError where the keys are not those of a U-Net that takes an image and a timestep."""
    dimensions = {_TIME_EMBED: 2, _CONV_IN: 4, "output_blocks.0.0.in_layers.2.weight": 4, _CONV_OUT: 4}
    for key, number in dimensions.items():
        if len(shapes.get(key, ())) != number:
            raise ValueError(
                "`checkpoint` holds no U-Net of improved-diffusion, guided-diffusion or deepinv: it has no "
                f"{number}-dimensional {key}, and its first key is {next(iter(shapes))}."
            )
    channels, outputs = shapes[_CONV_IN][1], shapes[_CONV_OUT][0]
    if channels == 6 and outputs in (3, 6):
        raise ValueError(
            "`checkpoint` holds a network for super-resolution, which also takes a small image: only networks that "
            "take as many channels as an image has are accepted."
        )


def empty_unet(flags: OpenAIFlags, in_channels: int, num_classes: int | None) -> UNet2DModel:
    """The network that `flags` built, without memory for its weights; class-conditional for `num_classes`."""
    config = network_config(flags, in_channels, num_classes)
    with torch.device("meta"):
        if num_classes is not None:
            return ClassConditionalUNet2DModel(**config)
        return UNet2DModel(**config) if is_stock(config) else ImprovedUNet2DModel(**config)


def _shape_of_theirs(name: str, ours: Shapes) -> tuple[int, ...] | None:
    """The shape of OpenAI's weight that becomes our `name`; None where our network has no such layer."""
    shape = ours.get(name.replace("to_qkv", "to_q"))
    if shape is None:
        return None
    if name == "class_embedding.weight":
        return (shape[0] - 1, *shape[1:])
    is_convolution = len(shape) == 2 and (".to_qkv." in name or ".to_out." in name)
    rows = 3 * shape[0] if ".to_qkv." in name else shape[0]
    return (rows, *shape[1:], *((1,) if is_convolution else ()))


def _translated(name: str, weight: Tensor, flags: OpenAIFlags) -> dict[str, Tensor]:
    """OpenAI's `weight` as our parameter `name`, or as three of them."""
    if name == "class_embedding.weight":  # with a row for "no class", which zeros mark as unknown
        return {name: torch.cat([weight, torch.zeros_like(weight[:1])])}
    if ".to_qkv." in name:
        parts = _split_qkv(weight.flatten(1) if weight.ndim > 1 else weight, flags)
        return {
            name.replace("to_qkv", f"to_{letter}"): part.clone() for letter, part in zip("qkv", parts, strict=True)
        }
    return {name: weight.squeeze(-1) if ".to_out." in name and weight.ndim == 3 else weight}


def _split_qkv(weight: Tensor, flags: OpenAIFlags) -> Tensor:
    """(3, C, ...) of queries, keys and values, each [head][channel], from (3C, ...) in one of OpenAI's two orders:
    [head][q, k, v][channel], the older one, or [q, k, v][head][channel]."""
    width = len(weight) // 3
    if flags.use_new_attention_order:
        return weight.unflatten(0, (3, width))
    head_dim = flags.head_dim(width)
    by_head = weight.unflatten(0, (width // head_dim, 3, head_dim))
    return by_head.transpose(0, 1).flatten(1, 2)
