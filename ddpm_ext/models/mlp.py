"""A multilayer perceptron that denoises points, in the place that a U-Net has for images."""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn


class MLPDenoiser(ModelMixin, ConfigMixin):
    """The output for points x_t at t: an embedding of t beside x_t, through linear layers with ReLU between them.

        h = ReLU(W_t sinusoids(t)) [+ class embedding]        as wide as the first hidden layer
        output = MLP([x_t, h])

    It is called as a UNet2DModel is. `in_channels` is the number of coordinates; `out_channels` the same, or twice
    that where the variance is learned. `num_class_embeds`, as in ClassConditionalUNet2DModel, is the number of classes
    + 1, the last row being "no class"; None for a model that knows no classes.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int = 2,
        hidden_sizes: Sequence[int] = (128, 128, 128),
        num_class_embeds: int | None = None,
    ):
        super().__init__()
        if len(hidden_sizes) == 0 or hidden_sizes[0] % 2:
            raise ValueError(
                f"`hidden_sizes` is {list(hidden_sizes)}: at least one size is accepted, of which the first, that of "
                "the time embedding too, must be even (sines and cosines)."
            )
        if num_class_embeds is not None and num_class_embeds < 2:
            raise ValueError(f"`num_class_embeds` is {num_class_embeds}: the number of classes + 1 is accepted.")
        width = hidden_sizes[0]
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.class_embedding = None if num_class_embeds is None else nn.Embedding(num_class_embeds, width)
        layers: list[nn.Module] = []
        for size_in, size_out in zip([in_channels + width, *hidden_sizes[:-1]], hidden_sizes, strict=True):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden_sizes[-1], out_channels))

    @property
    def num_classes(self) -> int | None:
        """The number of classes, "no class" not counted; None for a model that knows none."""
        return None if self.class_embedding is None else self.config.num_class_embeds - 1

    @property
    def null_class(self) -> int | None:
        """The label that means "no class"; None for a model that knows no classes."""
        return self.num_classes

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """The output, (B, out_channels), for `sample` (B, in_channels) at `timestep` (a number or (B,)) given
        `class_labels`, int64 (B,) in 0..num_classes; None means no class for any point."""
        t = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embedding = self.time_embedding(self.time_proj(t).to(sample.dtype))
        if self.class_embedding is not None:
            if class_labels is None:
                class_labels = torch.full((len(sample),), self.null_class, device=sample.device)
            embedding = embedding + self.class_embedding(class_labels)
        elif class_labels is not None:
            raise ValueError("`class_labels` was given, but the model is unconditional and knows no classes.")
        output = self.layers(torch.cat([sample, embedding], dim=1))
        return UNet2DOutput(sample=output) if return_dict else (output,)
