"""What a training script for images can be told of the network; see `arguments`."""

from dataclasses import dataclass
from typing import Literal

from .argument_rules import Count, Counts, Group, ShareBelowOne, Text, flag


@dataclass(frozen=True)
class ModelArguments(Group):
    _argument_group_name = "Model (a U-Net, from its widths or from a configuration)"

    model_type: Literal["unet", "one_hot_unet", "conv"] = flag(
        "unet",
        "diffusers' U-Net, of which all below speak; a strided U-Net with batch norm that is not told the timestep and"
        " gets labels as maps (block_out_channels: 72 96 128 196 256); or two convolutions (64).",
    )
    model_config_name_or_path: Text | None = flag(
        None,
        "Folder, file or Hub repository whose network's config.json is built, untrained, in place of what the other"
        " arguments here say.",
    )
    block_out_channels: Counts | None = flag(
        None,
        "Channels of each level, from the full image down; every level after the first halves height and width"
        " (default: OpenAI's widths for the size nearest to the images').",
    )
    layers_per_block: Count = flag(2, "Residual blocks per level.")
    attention_resolutions: Counts | None = flag(
        None,
        "Heights, in pixels, of the feature maps that get self-attention (default: 16 8 4, where there are such).",
        metavar="PIXELS",
    )
    attention_head_dim: Count = flag(8, "Channels per attention head.")
    dropout: ShareBelowOne = flag(0.0, "Probability of dropping an activation.", metavar="P")
    resnet_time_scale_shift: Literal["default", "scale_shift"] = flag(
        "default", "How the timestep enters a residual block: added, or as scale and shift of the normalised features."
    )
    norm_num_groups: Count | None = flag(
        None,
        "Groups of the group norms (default: at most 32, of at least 4 channels each). With one channel in each, the"
        " network does not see how bright an image is, and samples are tinted.",
        metavar="GROUPS",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _OF_UNETS if self.model_type != "unet" else ():
            value = getattr(self, name)
            if value != getattr(ModelArguments, name):
                raise ValueError(
                    f"`{name}` is {value!r} but `model_type` is {self.model_type!r}: only 'unet' has a use for it."
                )


_OF_UNETS = (
    "layers_per_block",
    "attention_resolutions",
    "attention_head_dim",
    "dropout",
    "resnet_time_scale_shift",
    "norm_num_groups",
)
