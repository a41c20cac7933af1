"""Samples from models of flow matching by diffusers' own schedulers for straight paths.

What the network learned is read from the scheduler's config: those of diffusers' flow matching all have a `shift`, and
`from_config` carries it over to DPM-Solver++ and UniPC, which are then told to follow a straight path.
"""

import copy
import inspect
from collections.abc import Mapping

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from ..diffusion.flow_matching import FlowMatching


_FLOW_SCHEDULERS = (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler)
_CAN_FOLLOW_FLOWS = (DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, UniPCMultistepScheduler)
_ACCEPTED = ", ".join(cls.__name__ for cls in (*_FLOW_SCHEDULERS, *_CAN_FOLLOW_FLOWS))


def is_flow_matching(scheduler: SchedulerMixin) -> bool:
    """Whether the model that `scheduler` belongs to was trained by flow matching, as far as its config tells."""
    if isinstance(scheduler, _FLOW_SCHEDULERS):
        return "beta_schedule" not in scheduler.config  # which one that was made for a DDPM has
    return "shift" in scheduler.config or scheduler.config.get("prediction_type") == "flow_prediction"


def flow_scheduler(config: Mapping[str, object]) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler that a model of flow matching is saved with, from the config of any made from it by `from_config`,
    or from `num_train_timesteps` alone."""
    known = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
    scheduler = FlowMatchEulerDiscreteScheduler(**{name: config[name] for name in known if name in config})
    scheduler.register_to_config(_use_default_values=[])  # or `from_config` would leave out `shift` at its default
    return scheduler


class FlowSampler:
    """The sampling loop's view of a stock `scheduler` that follows a straight path: a copy of it, and what it lacks.

    The steps are equally long but for the scheduler's `shift`, as in diffusers' pipelines for Flux. Left alone, its
    flow-matching schedulers go from 1 to 1/T and spend the last step on the last thousandth.
    """

    init_noise_sigma = 1.0

    def __init__(self, scheduler: SchedulerMixin):
        _check_follows_flows(scheduler)
        self.path = FlowMatching(scheduler.config.num_train_timesteps)
        self.scheduler = copy.deepcopy(scheduler)
        if isinstance(scheduler, _CAN_FOLLOW_FLOWS):
            is_set = scheduler.config.use_flow_sigmas  # else it comes from `from_config` alone
            shift = scheduler.config.flow_shift if is_set else scheduler.config.get("shift", 1.0)
            self.scheduler.register_to_config(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, variance_type=None
            )

    @property
    def timesteps(self) -> Tensor:
        return self.scheduler.timesteps

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Chooses the steps, by their number only."""
        most = self.path.num_timesteps
        if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= most:
            raise ValueError(
                f"`num_inference_steps` is {num_inference_steps!r}: with flow matching, a whole number from 1 to "
                f"{most} is accepted."
            )
        if isinstance(self.scheduler, _FLOW_SCHEDULERS):
            self.scheduler.sigma_max, self.scheduler.sigma_min = 1.0, 1 / num_inference_steps  # before their shift
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        self.scheduler.set_begin_index(0)  # it would look for the first timestep, and Heun repeats them

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """`sample` as it is."""
        return sample

    def network_timestep(self, timestep: Tensor) -> float:
        """T times the share of noise in the sample at hand; `timestep` itself some schedulers round."""
        return float(self.scheduler.sigmas[self.scheduler.step_index or 0]) * self.path.num_timesteps

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        eta: float | None = None,
    ) -> DDPMSchedulerOutput:
        """One step of the stock scheduler along the velocity `model_output`, and the x_0 that it points at."""
        if eta is not None:
            raise ValueError(f"`eta` is {eta}: samplers of flow matching have no such setting.")
        x_0 = self.path.predict_x_0(model_output, sample, self.network_timestep(timestep))
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        noisy = {"generator": generator} if takes_generator else {}
        return DDPMSchedulerOutput(self.scheduler.step(model_output, timestep, sample, **noisy).prev_sample, x_0)


def _check_follows_flows(scheduler: SchedulerMixin) -> None:
    if not isinstance(scheduler, (*_FLOW_SCHEDULERS, *_CAN_FOLLOW_FLOWS)):
        raise ValueError(
            f"`scheduler` is {type(scheduler).__name__}, and the model was trained by flow matching: {_ACCEPTED} are "
            "accepted."
        )
    for name in ("use_dynamic_shifting", "invert_sigmas"):
        if scheduler.config.get(name):
            raise ValueError(f"`{name}` of {type(scheduler).__name__} is true: with flow matching, false is accepted.")
