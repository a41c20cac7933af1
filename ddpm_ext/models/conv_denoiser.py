"""The smallest network that removes noise from images: two convolutions, which see five pixels across."""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn


class ConvDenoiser(ModelMixin, ConfigMixin):
    """3x3 convolution, batch norm, ReLU, 3x3 convolution; called as a UNet2DModel is, but the timestep is not told.

    It can only smooth: no pixel knows of another more than two away. Its loss is what the first minute of training
    any denoiser reaches, and its samples are textures. `out_channels` is twice `in_channels` where the variance is
    learned.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        hidden_channels: int = 64,
    ):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden_channels, 3, padding=1, bias=False),  # the norm has one
            nn.BatchNorm2d(hidden_channels),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, out_channels, 3, padding=1),
        )

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """The output for `sample` (B, C, H, W), of any size. `timestep` changes nothing."""
        output = self.layers(sample)
        return UNet2DOutput(sample=output) if return_dict else (output,)
