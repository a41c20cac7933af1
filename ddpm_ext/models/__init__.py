"""Networks: a class-conditional U-Net, U-Nets described by the few numbers that papers give, the small ones of a
course, an MLP for points."""

from .conv_denoiser import ConvDenoiser
from .mlp import MLPDenoiser
from .unet_2d_class_conditional import ClassConditionalUNet2DModel
from .unet_2d_improved import ImprovedUNet2DModel, is_stock
from .unet_2d_one_hot import OneHotUNet2DModel
from .unet_configs import is_blind_to_brightness, unet_config, zero_initialize


__all__ = [
    "ClassConditionalUNet2DModel",
    "ConvDenoiser",
    "ImprovedUNet2DModel",
    "MLPDenoiser",
    "OneHotUNet2DModel",
    "is_blind_to_brightness",
    "is_stock",
    "unet_config",
    "zero_initialize",
]
