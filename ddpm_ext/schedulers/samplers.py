"""The samplers that the scripts know by name."""

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin

from ..diffusion.checks import one_of
from .flow_matching import flow_scheduler, is_flow_matching
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
_OF_FLOW_MATCHING = {
    "euler": diffusers.FlowMatchEulerDiscreteScheduler,
    "heun": diffusers.FlowMatchHeunDiscreteScheduler,
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}

SAMPLERS = ("ddpm", "ddim", *_STOCK)


def default_sampler(scheduler: SchedulerMixin) -> str:
    """The sampler of the model that `scheduler` belongs to where none is asked for."""
    return "euler" if is_flow_matching(scheduler) else "ddpm"


def default_steps(sampler: str) -> str:
    """How many steps it takes where no number is asked for."""
    return {"ddpm": "250", "ddim": "50"}.get(sampler, "20")


def check_sampler(sampler: str, scheduler: SchedulerMixin) -> None:
    """ValueError where no `sampler` is called so, or none of that name fits the model that `scheduler` belongs to."""
    one_of("sampler", sampler, SAMPLERS)
    if is_flow_matching(scheduler) and sampler not in _OF_FLOW_MATCHING:
        names = ", ".join(_OF_FLOW_MATCHING)
        raise ValueError(
            f"`sampler` is {sampler!r}, but the model was trained by flow matching: one of {names} is accepted."
        )


def make_sampler(sampler: str, scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler called `sampler` for the model that `scheduler` belongs to."""
    check_sampler(sampler, scheduler)
    if is_flow_matching(scheduler):
        return _of_flow_matching(sampler, flow_scheduler(scheduler.config))
    trained = trained_scheduler(scheduler.config)
    if sampler == "ddim":
        trained.eta = 0.0
    return _STOCK[sampler].from_config(trained.config) if sampler in _STOCK else trained


def _of_flow_matching(sampler: str, trained: FlowMatchEulerDiscreteScheduler) -> SchedulerMixin:
    config, cls = trained.config, _OF_FLOW_MATCHING[sampler]
    if sampler == "euler":
        return trained
    if sampler == "heun":
        return cls(config.num_train_timesteps, config.shift)
    follows_flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": config.shift}
    return cls(config.num_train_timesteps, **follows_flow)
