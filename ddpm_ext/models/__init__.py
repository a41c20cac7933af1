"""Networks: a class-conditional U-Net, U-Nets described by the few numbers that papers give, an MLP for points."""

from .mlp import MLPDenoiser
from .unet_2d_class_conditional import ClassConditionalUNet2DModel
from .unet_2d_improved import ImprovedUNet2DModel, is_stock
from .unet_configs import unet_config, zero_initialize


__all__ = [
    "ClassConditionalUNet2DModel",
    "ImprovedUNet2DModel",
    "MLPDenoiser",
    "is_stock",
    "unet_config",
    "zero_initialize",
]
