"""UNet2DModel described as papers do: widths per level and the resolutions at which there is attention."""

from collections.abc import Sequence

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D


# OpenAI's multipliers of 128 channels by image size (Dhariwal & Nichol 2021, code), and a small net for the smallest.
_WIDTHS = {
    8: (64, 128),
    16: (128, 256),
    32: (128, 256, 256, 256),
    64: (128, 256, 384, 512),
    128: (128, 128, 256, 384, 512),
    256: (128, 128, 256, 256, 512, 512),
}

# What OpenAI's 32 groups of 128 channels come to. A norm of single channels takes the mean out of each, and the last
# one stands right before the output: such a network cannot say how bright the noise is, and its samples are tinted.
_CHANNELS_PER_GROUP = 4


def unet_config(
    sample_size: tuple[int, int],
    channels: int,
    learns_variance: bool = False,
    num_classes: int | None = None,
    block_out_channels: Sequence[int] | None = None,
    layers_per_block: int = 2,
    attention_resolutions: Sequence[int] | None = None,
    attention_head_dim: int = 8,
    dropout: float = 0.0,
    resnet_time_scale_shift: str = "default",
    norm_num_groups: int | None = None,
) -> dict[str, object]:
    """The constructor arguments of UNet2DModel, or of ClassConditionalUNet2DModel where `num_classes` is given.

    `sample_size` is (height, width) and must be divisible by 2 for every level after the first.
    `attention_resolutions` are feature-map heights; by default 16, 8 and 4. `block_out_channels` defaults to OpenAI's
    widths for the nearest size, and `norm_num_groups` to at most 32 groups of at least 4 channels.
    """
    height, width = sample_size
    if block_out_channels is None:
        block_out_channels = _WIDTHS[min(_WIDTHS, key=lambda size: (abs(size - min(sample_size)), size))]
    factor = 2 ** (len(block_out_channels) - 1)
    if height % factor or width % factor:
        sizes = (max(1, round(side / factor)) * factor for side in (height, width))
        raise ValueError(
            f"`resolution` is {height}x{width}: a U-Net of {len(block_out_channels)} levels halves it "
            f"{len(block_out_channels) - 1} times, so both sides must be multiples of {factor}, for example "
            f"{'x'.join(map(str, sizes))}; or give fewer `block_out_channels`."
        )
    heights = [height // 2**level for level in range(len(block_out_channels))]
    attended = (16, 8, 4) if attention_resolutions is None else attention_resolutions
    unknown = [size for size in attention_resolutions or () if size not in heights]
    if unknown:
        raise ValueError(f"`attention_resolutions` holds {unknown[0]}: this U-Net's feature maps are {heights} high.")
    # The middle of the network, as wide as its last level, always has attention.
    with_attention = [c for c, size in zip(block_out_channels, heights, strict=True) if size in attended]
    narrowest = min([*with_attention, block_out_channels[-1]])
    if narrowest < attention_head_dim:
        raise ValueError(
            f"`attention_head_dim` is {attention_head_dim}: a level with attention has {narrowest} channels, so at "
            "most that many are accepted."
        )
    down = tuple("AttnDownBlock2D" if size in attended else "DownBlock2D" for size in heights)
    up = tuple("AttnUpBlock2D" if size in attended else "UpBlock2D" for size in reversed(heights))
    groups = _groups(block_out_channels) if norm_num_groups is None else norm_num_groups
    uneven = [width for width in block_out_channels if width % groups]
    if uneven:
        raise ValueError(
            f"`norm_num_groups` is {groups}: {uneven[0]} channels, one of `block_out_channels`, are no multiple of it."
        )
    config: dict[str, object] = {
        "sample_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": 2 * channels if learns_variance else channels,
        "block_out_channels": tuple(block_out_channels),
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": layers_per_block,
        "attention_head_dim": attention_head_dim,
        "norm_num_groups": groups,
        "dropout": dropout,
        "resnet_time_scale_shift": resnet_time_scale_shift,
    }
    if resnet_time_scale_shift == "scale_shift":  # the middle attention has no group norm otherwise
        config["attn_norm_num_groups"] = groups
    if num_classes is not None:
        config["num_class_embeds"] = num_classes + 1
    return config


def _groups(widths: Sequence[int]) -> int:
    """At most 32 that divide all widths, of at least `_CHANNELS_PER_GROUP` channels, or one."""
    most = min(32, max(1, min(widths) // _CHANNELS_PER_GROUP))
    return max(groups for groups in range(1, most + 1) if all(width % groups == 0 for width in widths))


def is_blind_to_brightness(unet: UNet2DModel) -> bool:
    """Whether the norm right before the output takes the mean out of each channel by itself."""
    return unet.conv_norm_out.num_groups == unet.conv_norm_out.num_channels


@torch.no_grad()
def zero_initialize(unet: UNet2DModel) -> None:
    """Zeroes the last layer of every residual branch and of the network, as OpenAI's networks start (Ho et al. 2020,
    code).

    Each block then starts as the identity and the first prediction is 0, whose loss for noise is exactly 1. diffusers
    does not do this; it belongs to training from scratch and is never applied to loaded weights.
    """
    last = [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    last += [module.to_out[0] for module in unet.modules() if isinstance(module, Attention)]
    for layer in [*last, unet.conv_out]:
        for parameter in layer.parameters():
            parameter.zero_()
