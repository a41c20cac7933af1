"""Improved DDPM for diffusers: importing this package makes its models and pipelines known to `from_pretrained`.

Nothing heavy is imported before it is used: `--help` and a mistake in an argument are answered at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .registration import register_with_diffusers


if TYPE_CHECKING:
    from diffusers import ModelMixin, SchedulerMixin

    from .models import (
        ClassConditionalUNet2DModel,
        ConvDenoiser,
        ImprovedUNet2DModel,
        MLPDenoiser,
        OneHotUNet2DModel,
    )
    from .pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline, PointsDDPMPipeline
    from .schedulers import ImprovedDDPMScheduler


__version__ = "0.1.0"

__all__ = [
    "ClassConditionalDDPMPipeline",
    "ClassConditionalUNet2DModel",
    "ConvDenoiser",
    "ImprovedDDPMPipeline",
    "ImprovedDDPMScheduler",
    "ImprovedUNet2DModel",
    "MLPDenoiser",
    "ModelMixin",
    "OneHotUNet2DModel",
    "PointsDDPMPipeline",
    "SchedulerMixin",
]

_HOMES = {
    "ClassConditionalDDPMPipeline": "ddpm_ext.pipelines",
    "ClassConditionalUNet2DModel": "ddpm_ext.models",
    "ConvDenoiser": "ddpm_ext.models",
    "ImprovedDDPMPipeline": "ddpm_ext.pipelines",
    "ImprovedDDPMScheduler": "ddpm_ext.schedulers",
    "ImprovedUNet2DModel": "ddpm_ext.models",
    "MLPDenoiser": "ddpm_ext.models",
    "OneHotUNet2DModel": "ddpm_ext.models",
    "PointsDDPMPipeline": "ddpm_ext.pipelines",
    "ModelMixin": "diffusers",  # this and the next: looked for in the module that a saved index names
    "SchedulerMixin": "diffusers",
}


def __getattr__(name: str) -> type:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


register_with_diffusers()
