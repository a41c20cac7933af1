"""A UNet2DModel that knows its classes and can do without one, for classifier-free guidance."""

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from .unet_2d_improved import ImprovedUNet2DModel


class ClassConditionalUNet2DModel(ImprovedUNet2DModel):
    """UNet2DModel whose embedding table has one row per class and one more, the last, for "no class" (Ho & Salimans
    2022).

    The configuration is UNet2DModel's with `num_class_embeds` = number of classes + 1 and `class_embed_type` None, so
    a saved folder also loads as a stock UNet2DModel. The label embedding is added to the timestep's, as in OpenAI's
    networks. `out_channels` is the true width: twice `in_channels` where the variance is learned.
    """

    @property
    def null_class(self) -> int:
        """The label that means "no class"."""
        return self.num_classes

    @property
    def knows_null_class(self) -> bool:
        """Whether the network was ever shown "no class"; a row of zeros says that it was not.

        OpenAI's class-conditional networks were not. Training with label dropout fills the row.
        """
        row = self.class_embedding.weight[self.null_class]
        return row.is_meta or bool(row.any())  # on meta while a pipeline offloads it

    @property
    def num_classes(self) -> int:
        """The number of classes, "no class" not counted."""
        embeddings = self.config.num_class_embeds
        if embeddings is None or embeddings < 2 or self.config.class_embed_type is not None:
            raise ValueError(
                f"`num_class_embeds` is {embeddings} and `class_embed_type` {self.config.class_embed_type!r}: a "
                "class-conditional U-Net needs `num_class_embeds` = number of classes + 1 and no `class_embed_type`."
            )
        return embeddings - 1

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """The output for `sample` (B, C, H, W) at `timestep` (a number or (B,)) given `class_labels`, int64 (B,) in
        0..num_classes; None means no class for any sample."""
        if class_labels is None:
            class_labels = torch.full((len(sample),), self.null_class, device=sample.device)
        return super().forward(sample, timestep, class_labels, return_dict)
