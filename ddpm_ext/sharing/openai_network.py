"""OpenAI's U-Nets in diffusers' terms: the configuration of one and the names of its layers.

The key names are those of improved-diffusion, guided-diffusion and deepinv, which share them.
"""

from collections.abc import Iterator, Mapping

from ddpm_ext.diffusion.noise_schedules import linear_ends
from ddpm_ext.models import unet_config

from .openai_flags import OpenAIFlags


_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "qkv": "to_qkv", "proj_out": "to_out.0"}


def network_config(flags: OpenAIFlags, in_channels: int, num_classes: int | None) -> dict[str, object]:
    """The constructor arguments of ImprovedUNet2DModel, or of ClassConditionalUNet2DModel for `num_classes` classes,
    for the network that `flags` built."""
    head_dims = [max(1, flags.head_dim(width)) for width in flags.widths]
    used = {head_dims[-1], *(dim for dim, attends in zip(head_dims, flags.attends, strict=True) if attends)}
    config = unet_config(
        sample_size=(flags.image_size, flags.image_size),
        channels=in_channels,
        learns_variance=flags.learn_sigma,
        num_classes=num_classes,
        block_out_channels=flags.widths,
        layers_per_block=flags.num_res_blocks,
        attention_resolutions=[flags.image_size // 2**level for level, attends in enumerate(flags.attends) if attends],
        attention_head_dim=min(used),
        dropout=flags.dropout,
        resnet_time_scale_shift="scale_shift" if flags.use_scale_shift_norm else "default",
        norm_num_groups=32,  # whatever the widths
    )
    if len(used) > 1:  # as many heads at every level, of different widths
        config["attention_head_dim"] = head_dims
    if flags.resblock_updown:
        for name, plain, own in (
            ("down", "DownBlock2D", "ResnetDownsampleBlock2D"),
            ("up", "UpBlock2D", "ResnetUpsampleBlock2D"),
        ):
            config[f"{name}_block_types"] = tuple(
                own if kind == plain else kind for kind in config[f"{name}_block_types"]
            )
            config[f"{name}sample_type"] = "resnet"
    rescales = flags.rescale_timesteps and flags.diffusion_steps != 1000
    if rescales or flags.widths[0] != flags.num_channels:
        config["time_embedding_type"] = "openai"
        config["time_embedding_dim"] = 4 * flags.num_channels
        config["num_train_timesteps"] = flags.diffusion_steps if rescales else None
    return config


def scheduler_config(flags: OpenAIFlags) -> dict[str, object]:
    """The arguments of ImprovedDDPMScheduler for the chain that `flags` trained on."""
    fixed = "fixed_small" if flags.sigma_small else "fixed_large"
    config: dict[str, object] = {
        "num_train_timesteps": flags.diffusion_steps,
        "beta_schedule": flags.noise_schedule,
        "prediction_type": "sample" if flags.predict_xstart else "epsilon",
        "variance_type": "learned_range" if flags.learn_sigma else fixed,
        "clip_sample": flags.clip_denoised,
    }
    if flags.noise_schedule == "linear":
        config["beta_start"], config["beta_end"] = linear_ends(flags.diffusion_steps)
    return config


def layers(flags: OpenAIFlags) -> Iterator[tuple[str, str]]:
    """Each layer of the network in the order of the data: OpenAI's name and diffusers'.

    Layers that only some networks have (`skip_connection`, `label_emb`) are named too. An attention's `to_qkv` stands
    for diffusers' three.
    """
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "label_emb", "class_embedding"
    yield "input_blocks.0.0", "conv_in"
    yield from _down(flags)
    yield from _parts("middle_block.0", "mid_block.resnets.0", _RESNET)
    yield from _parts("middle_block.1", "mid_block.attentions.0", _ATTENTION)
    yield from _parts("middle_block.2", "mid_block.resnets.1", _RESNET)
    yield from _up(flags)
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"


def _down(flags: OpenAIFlags) -> Iterator[tuple[str, str]]:
    block = 1
    for level, attends in enumerate(flags.attends):
        for layer in range(flags.num_res_blocks):
            yield from _parts(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{layer}", _RESNET)
            if attends:
                yield from _parts(f"input_blocks.{block}.1", f"down_blocks.{level}.attentions.{layer}", _ATTENTION)
            block += 1
        if level < len(flags.attends) - 1:
            if flags.resblock_updown:
                yield from _parts(f"input_blocks.{block}.0", f"down_blocks.{level}.downsamplers.0", _RESNET)
            else:
                yield f"input_blocks.{block}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            block += 1


def _up(flags: OpenAIFlags) -> Iterator[tuple[str, str]]:
    block = 0
    for up, attends in enumerate(reversed(flags.attends)):
        for layer in range(flags.num_res_blocks + 1):
            yield from _parts(f"output_blocks.{block}.0", f"up_blocks.{up}.resnets.{layer}", _RESNET)
            if attends:
                yield from _parts(f"output_blocks.{block}.1", f"up_blocks.{up}.attentions.{layer}", _ATTENTION)
            if layer == flags.num_res_blocks and up < len(flags.attends) - 1:
                place = 2 if attends else 1
                if flags.resblock_updown:
                    yield from _parts(f"output_blocks.{block}.{place}", f"up_blocks.{up}.upsamplers.0", _RESNET)
                else:
                    yield f"output_blocks.{block}.{place}.conv", f"up_blocks.{up}.upsamplers.0.conv"
            block += 1


def _parts(theirs: str, ours: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for their_part, our_part in names.items():
        yield f"{theirs}.{their_part}", f"{ours}.{our_part}"
