"""A strided U-Net as a course builds its first one: batch norm, no timestep, labels as maps of ones and zeros."""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn.functional import one_hot


class OneHotUNet2DModel(ModelMixin, ConfigMixin):
    """A U-Net of strided convolutions (4x4, stride 2, padding 1) with batch norm and ReLU, called as a UNet2DModel is.

    One convolution per entry of `block_out_channels` halves the image; as many transposed ones double it again, and
    beside the output of each stands what had its size on the way down, in the end the image itself. A last 3x3
    convolution reads both. The timestep is not told: how noisy x_t is, the network sees for itself.

    With `num_class_embeds`, the number of classes + 1 as in ClassConditionalUNet2DModel, a label is a map per class,
    of ones for its own and zeros for the others, beside the features at the bottleneck and one level up. The last
    label, "no class", is zeros everywhere.

    Batch norm makes an image depend on the others of its batch while training, on each process by itself; in `eval()`
    running means stand for them. `out_channels` is twice `in_channels` where the variance is learned.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | tuple[int, int] = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: Sequence[int] = (72, 96, 128, 196, 256),
        num_class_embeds: int | None = None,
    ):
        super().__init__()
        _check(sample_size, block_out_channels, num_class_embeds)
        classes = 0 if num_class_embeds is None else num_class_embeds - 1
        widths = [in_channels, *block_out_channels]
        self.down_blocks = nn.ModuleList(
            _halve_or_double(nn.Conv2d, wide, narrow) for wide, narrow in zip(widths, widths[1:], strict=False)
        )
        self.up_blocks = nn.ModuleList()
        incoming = widths[-1]
        for level in range(len(block_out_channels) - 1, -1, -1):
            outgoing = widths[level] if level > 0 else max(1, widths[1] // 2)
            labels = classes if level >= len(block_out_channels) - 2 else 0
            self.up_blocks.append(_halve_or_double(nn.ConvTranspose2d, incoming + labels, outgoing))
            incoming = outgoing + widths[level]
        self.conv_out = nn.Conv2d(incoming, out_channels, 3, padding=1)

    @property
    def num_classes(self) -> int | None:
        """The number of classes, "no class" not counted; None for a model that knows none."""
        return None if self.config.num_class_embeds is None else self.config.num_class_embeds - 1

    @property
    def null_class(self) -> int | None:
        """The label that means "no class"; None for a model that knows no classes."""
        return self.num_classes

    @property
    def knows_null_class(self) -> bool:
        """True: nothing in the weights would tell that it was never shown "no class"."""
        return True

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """The output for `sample` (B, C, H, W) given `class_labels`, int64 (B,) in 0..num_classes; None means no class
        for any sample. `timestep` changes nothing."""
        labels = self._label_maps(sample, class_labels)
        skips, features = [], sample
        for block in self.down_blocks:
            skips.append(features)
            features = block(features)
        for level, block in enumerate(self.up_blocks):
            if labels is not None and level < 2:
                features = torch.cat([features, labels.expand(-1, -1, *features.shape[2:])], dim=1)
            features = torch.cat([block(features), skips.pop()], dim=1)
        output = self.conv_out(features)
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _label_maps(self, sample: Tensor, class_labels: Tensor | None) -> Tensor | None:
        """(B, num_classes, 1, 1), or None for a model that knows no classes."""
        if self.num_classes is None:
            if class_labels is not None:
                raise ValueError("`class_labels` was given, but the model is unconditional and knows no classes.")
            return None
        if class_labels is None:
            return sample.new_zeros(len(sample), self.num_classes, 1, 1)
        return one_hot(class_labels, self.num_classes + 1)[:, :-1, None, None].to(sample.dtype)


def _halve_or_double(convolution: type[nn.Module], in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=False),  # the norm has one
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _check(
    sample_size: int | tuple[int, int], block_out_channels: Sequence[int], num_class_embeds: int | None
) -> None:
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    levels = len(block_out_channels)
    if levels < 2:
        raise ValueError(f"`block_out_channels` is {list(block_out_channels)}: at least two levels are accepted.")
    if height % 2**levels or width % 2**levels:
        raise ValueError(
            f"`sample_size`, the `resolution` of a training script, is {height}x{width}: a strided U-Net of {levels} "
            f"levels halves it {levels} times, so both sides must be multiples of {2**levels}; or give fewer "
            "`block_out_channels`."
        )
    if num_class_embeds is not None and num_class_embeds < 2:
        raise ValueError(f"`num_class_embeds` is {num_class_embeds}: the number of classes + 1 is accepted.")
