"""Improved DDPM for diffusers: importing this package makes its models and pipelines known to `from_pretrained`."""

from diffusers import ModelMixin, SchedulerMixin  # looked for in the module that a saved index names

from .models import ClassConditionalUNet2DModel, ImprovedUNet2DModel
from .pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from .registration import register
from .schedulers import ImprovedDDPMScheduler


__version__ = "0.1.0"

__all__ = [
    "ClassConditionalDDPMPipeline",
    "ClassConditionalUNet2DModel",
    "ImprovedDDPMPipeline",
    "ImprovedDDPMScheduler",
    "ImprovedUNet2DModel",
    "ModelMixin",
    "SchedulerMixin",
]

register(ClassConditionalDDPMPipeline, ImprovedDDPMPipeline)
