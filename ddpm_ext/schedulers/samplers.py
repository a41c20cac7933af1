"""The samplers that the scripts know by name."""

import diffusers
from diffusers import SchedulerMixin

from ..diffusion.checks import one_of
from .stock import trained_scheduler


_STOCK = {
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "deis": diffusers.DEISMultistepScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "pndm": diffusers.PNDMScheduler,
}

SAMPLERS = ("ddpm", "ddim", *_STOCK)


def make_sampler(sampler: str, scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler called `sampler` for the model that `scheduler` belongs to."""
    one_of("sampler", sampler, SAMPLERS)
    trained = trained_scheduler(scheduler.config)
    if sampler == "ddim":
        trained.eta = 0.0
    return _STOCK[sampler].from_config(trained.config) if sampler in _STOCK else trained
