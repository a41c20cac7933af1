"""A UNet2DModel that can also say what OpenAI's U-Nets need: heads by number, rescaled timesteps, float64."""

import math
from collections.abc import Mapping, Sequence

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn


class ImprovedUNet2DModel(UNet2DModel):
    """UNet2DModel two of whose arguments take more, and no others: a stock UNet2DModel refuses a configuration that
    it would compute otherwise.

    - `attention_head_dim` may be a list with one width per level, so that levels of different widths have equally
      many heads, as OpenAI's `num_heads` asks for.
    - `time_embedding_type` may be "openai": the sinusoids are `time_embedding_dim` / 4 in number, whatever the width
      of the first level, and of the timestep times 1000 / `num_train_timesteps` (`rescale_timesteps` in Nichol &
      Dhariwal 2021, code).

    A network in float64 computes its sinusoids in float64 too; UNet2DModel's never leave float32.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        center_input_sample: bool = False,
        time_embedding_type: str = "positional",
        time_embedding_dim: int | None = None,
        freq_shift: int = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        mid_block_type: str | None = "UNetMidBlock2D",
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        block_out_channels: tuple[int, ...] = (224, 448, 672, 896),
        layers_per_block: int = 2,
        mid_block_scale_factor: float = 1,
        downsample_padding: int = 1,
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        dropout: float = 0.0,
        act_fn: str = "silu",
        attention_head_dim: int | Sequence[int] | None = 8,
        norm_num_groups: int = 32,
        attn_norm_num_groups: int | None = None,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "default",
        add_attention: bool = True,
        class_embed_type: str | None = None,
        num_class_embeds: int | None = None,
        num_train_timesteps: int | None = None,
    ):
        has_width_per_level = isinstance(attention_head_dim, Sequence)
        is_openai = time_embedding_type == "openai"
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            center_input_sample=center_input_sample,
            time_embedding_type="positional" if is_openai else time_embedding_type,
            time_embedding_dim=time_embedding_dim,
            freq_shift=freq_shift,
            flip_sin_to_cos=flip_sin_to_cos,
            down_block_types=down_block_types,
            mid_block_type=mid_block_type,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            mid_block_scale_factor=mid_block_scale_factor,
            downsample_padding=downsample_padding,
            downsample_type=downsample_type,
            upsample_type=upsample_type,
            dropout=dropout,
            act_fn=act_fn,
            attention_head_dim=None if has_width_per_level else attention_head_dim,
            norm_num_groups=norm_num_groups,
            attn_norm_num_groups=attn_norm_num_groups,
            norm_eps=norm_eps,
            resnet_time_scale_shift=resnet_time_scale_shift,
            add_attention=add_attention,
            class_embed_type=class_embed_type,
            num_class_embeds=num_class_embeds,
            num_train_timesteps=num_train_timesteps,
        )
        # The constructor above has written what it was given.
        self.register_to_config(attention_head_dim=attention_head_dim, time_embedding_type=time_embedding_type)
        if has_width_per_level:
            self._split_heads(attention_head_dim)
        if isinstance(self.time_proj, Timesteps):
            number, scale = self.time_proj.num_channels, 1.0
            if is_openai:
                width = time_embedding_dim or 4 * block_out_channels[0]
                number, scale = width // 4, 1000 / (num_train_timesteps or 1000)
                self.time_embedding = TimestepEmbedding(number, width)
            self.time_proj = Sinusoids(number, flip_sin_to_cos, freq_shift, scale)

    def _split_heads(self, attention_head_dim: Sequence[int]) -> None:
        """Splits the attention of each level, made as one head, into heads of its width."""
        levels = len(self.down_blocks)
        if len(attention_head_dim) != levels:
            raise ValueError(f"`attention_head_dim` holds {len(attention_head_dim)} widths: one per level, {levels}.")
        blocks = [*zip(self.down_blocks, attention_head_dim, strict=True), (self.mid_block, attention_head_dim[-1])]
        blocks += zip(reversed(self.up_blocks), attention_head_dim, strict=True)
        for block, width in blocks:
            for attention in filter(None, getattr(block, "attentions", ())):
                if attention.inner_dim % width:
                    raise ValueError(
                        f"`attention_head_dim` holds {width}: a level with attention has {attention.inner_dim} "
                        "channels, and a divisor of that is accepted."
                    )
                attention.heads = attention.sliceable_head_dim = attention.inner_dim // width
                attention.scale = width**-0.5

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """The output for `sample` (B, C, H, W) at `timestep`, a number or (B,), which may be fractional."""
        timestep = torch.as_tensor(timestep, device=sample.device)
        if self.dtype == torch.float64:
            timestep = timestep.double()
        return super().forward(sample, timestep, class_labels, return_dict)


def is_stock(config: Mapping[str, object]) -> bool:
    """Whether a stock UNet2DModel of `config` computes what an ImprovedUNet2DModel does (but for float64)."""
    return not isinstance(config.get("attention_head_dim"), Sequence) and config.get("time_embedding_type") != "openai"


class Sinusoids(nn.Module):
    """The timestep embedding of Vaswani et al. 2017, section 3.5, as diffusers' Timesteps computes it; in float64
    where the timesteps are."""

    def __init__(self, number: int, flip_sin_to_cos: bool, freq_shift: float, scale: float = 1.0) -> None:
        super().__init__()
        self.number, self.flip_sin_to_cos, self.freq_shift, self.scale = number, flip_sin_to_cos, freq_shift, scale

    def forward(self, timesteps: Tensor) -> Tensor:
        """(B, `number`) for `timesteps` (B,)."""
        dtype = torch.float64 if timesteps.dtype == torch.float64 else torch.float32
        half = self.number // 2
        exponents = -math.log(10000) * torch.arange(half, dtype=dtype, device=timesteps.device)
        frequencies = torch.exp(exponents / (half - self.freq_shift))
        angles = (timesteps.to(dtype) * self.scale)[:, None] * frequencies
        parts = [angles.cos(), angles.sin()] if self.flip_sin_to_cos else [angles.sin(), angles.cos()]
        return nn.functional.pad(torch.cat(parts, dim=1), (0, self.number % 2))
