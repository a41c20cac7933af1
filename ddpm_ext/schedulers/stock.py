"""Hands a model of ours, of any prediction and variance type, to a stock scheduler.

Stock schedulers understand an output of C channels. They are not given the network's own output but the velocity (to
PNDM, which averages outputs, the noise) that follows from the *clipped* x_0. That decides everything on a cosine
schedule: it ends at alphas_cumprod = 2e-9, where a small error in the noise is an x_0 of thousands, and samplers that
do not clip never recover from it. The velocity also keeps x_0 exact there, and with zero terminal SNR.
"""

import copy
import inspect
import math
from collections.abc import Mapping

import torch
from diffusers import (
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    SchedulerMixin,
)
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from ..diffusion.flow_matching import FlowMatching
from ..diffusion.parameterization import predict_epsilon, predict_velocity
from ..diffusion.process import GaussianDiffusion
from .flow_matching import FlowSampler, flow_scheduler, is_flow_matching
from .scheduling_improved_ddpm import ImprovedDDPMScheduler


# Just above the end of the linear schedule of Ho et al. 2020, 157: there, data in [-1, 1] leave no trace in the noise.
_LARGEST_SIGMA = 160.0

# The first three are done before a stock scheduler sees anything; the last is for models of another kind.
_NOT_FOR_STOCK = {"variance_type": None, "thresholding": False, "clip_sample": False, "use_flow_sigmas": False}


def trained_scheduler(config: Mapping[str, object]) -> ImprovedDDPMScheduler:
    """The scheduler that a DDPM was trained with, from the config of any made from it by `from_config`."""
    known = inspect.signature(ImprovedDDPMScheduler.__init__).parameters
    arguments = {name: config[name] for name in known if name in config}
    arguments["steps_offset"] = 0
    if arguments.get("variance_type") is None:
        arguments.pop("variance_type", None)
    return ImprovedDDPMScheduler(**arguments)


def scheduler_of_training(scheduler: SchedulerMixin) -> ImprovedDDPMScheduler | FlowMatchEulerDiscreteScheduler:
    """The scheduler that a model is saved with, of whatever objective, from any made from it by `from_config`."""
    return flow_scheduler(scheduler.config) if is_flow_matching(scheduler) else trained_scheduler(scheduler.config)


def process_of(scheduler: SchedulerMixin) -> GaussianDiffusion | FlowMatching:
    """How noise was added in the training of the model that `scheduler` belongs to."""
    if is_flow_matching(scheduler):
        return FlowMatching(scheduler.config.num_train_timesteps)
    return scheduler.process if hasattr(scheduler, "process") else trained_scheduler(scheduler.config).process


def sampler_for(scheduler: SchedulerMixin) -> "ImprovedDDPMScheduler | StockSampler | FlowSampler":
    """What a sampling loop of ours steps through for `scheduler`: ours itself, or a stock one that is handed x_0 (of
    a model of flow matching, its velocity).

    Stock DDPM and DDIM are replaced by ours of the same config, which do what they mean to do: theirs return NaN for
    some variance types, and step between wrong timesteps where the number of steps does not divide the chain.
    """
    if hasattr(scheduler, "network_timestep"):  # ours, or the copy of it in a folder with code, which is another class
        return scheduler
    if is_flow_matching(scheduler):
        return FlowSampler(scheduler)
    if isinstance(scheduler, DDPMScheduler | DDPMParallelScheduler):
        return trained_scheduler(scheduler.config)
    if isinstance(scheduler, DDIMScheduler | DDIMParallelScheduler):
        ddim = trained_scheduler(scheduler.config)
        ddim.eta = 0.0
        return ddim
    _check_is_sampler(scheduler)
    return StockSampler(scheduler)


def _check_is_sampler(scheduler: SchedulerMixin) -> None:
    """Refuses schedulers of other processes, and those that do not go from noise to an image."""
    name = type(scheduler).__name__
    step = list(inspect.signature(scheduler.step).parameters.values())
    needs_more = [parameter.name for parameter in step[3:] if parameter.default is parameter.empty]
    has_betas = "beta_schedule" in inspect.signature(type(scheduler).__init__).parameters
    if not has_betas or needs_more or "Inverse" in name:
        raise ValueError(
            f"`scheduler` is {name}, which does not sample from a noise schedule of betas: ImprovedDDPMScheduler and "
            "stock samplers such as DDIM, DPM-Solver++, UniPC, DEIS, PNDM, LMS, Euler, Heun and KDPM2 are accepted."
        )


def _capped_sigmas(process: GaussianDiffusion) -> Tensor:
    """Noise over signal of each step, float64 (T,), ending at `_LARGEST_SIGMA` at the most.

    A cosine schedule goes on to 22,000 and zero terminal SNR to infinity. That says nothing more of x_0, but it is
    where Heun and PNDM, averaging slopes, lose the small one, ancestral steps become NaN, and Karras grids spend half
    their steps. The cap itself falls from step to step, since LMS and DEIS divide by the differences.
    """
    sigmas = process.table["sqrt_one_minus_alphas_cumprod"] / process.table["sqrt_alphas_cumprod"]
    steps_left = process.num_timesteps - 1 - process.timesteps
    return sigmas.minimum(_LARGEST_SIGMA / (1 + 10 * steps_left / process.num_timesteps))


class StockSampler:
    """The sampling loop's view of a stock `scheduler`: what ours offers, in front of a copy of the stock one.

    What the model predicts is read from the scheduler's config, to which `from_config` carries it. The scheduler
    itself is left alone: neither its config nor its state changes.
    """

    def __init__(self, scheduler: SchedulerMixin):
        self.trained = trained_scheduler(scheduler.config)
        self.scheduler = copy.deepcopy(scheduler)
        self._language = "epsilon" if isinstance(scheduler, PNDMScheduler) else "v_prediction"
        self.scheduler.register_to_config(prediction_type=self._language)
        for name, nothing in _NOT_FOR_STOCK.items():
            if name in self.scheduler.config:
                self.scheduler.register_to_config(**{name: nothing})
        if isinstance(scheduler, PNDMScheduler):
            # Its Runge-Kutta start averages noise where it amplifies it most, and its steps are T // K long: those of
            # `linspace` are not.
            self.scheduler.register_to_config(skip_prk_steps=True, timestep_spacing="trailing")
        self._sigmas = _capped_sigmas(self.trained.process)
        self.scheduler.alphas_cumprod = (1 / (1 + self._sigmas**2)).float()

    @property
    def timesteps(self) -> Tensor:
        return self.scheduler.timesteps

    @property
    def init_noise_sigma(self) -> float | Tensor:
        return self.scheduler.init_noise_sigma

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Chooses the steps; a stock scheduler takes their number only."""
        most = self.trained.process.num_timesteps
        if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= most:
            raise ValueError(
                f"`num_inference_steps` is {num_inference_steps!r}: {type(self.scheduler).__name__} takes a whole "
                f"number from 1 to {most}; sections such as '10,15,25' are for ImprovedDDPMScheduler."
            )
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)  # it would look for the first timestep, and Karras grids repeat it

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """`sample` with its signal and noise scaled so that their squares add up to 1, as the network was trained."""
        self._scaled = self.scheduler.scale_model_input(sample, timestep)
        return self._scaled

    def network_timestep(self, timestep: Tensor) -> int | float:
        """The training timestep, perhaps fractional, of the noise that the sample at `timestep` really has."""
        sigmas = getattr(self.scheduler, "sigmas", None)
        if sigmas is None:
            return self.trained.process.timestep_of_sigma(float(self._sigmas[int(timestep)]))
        index = self.scheduler.step_index or 0
        if isinstance(self.scheduler, KDPM2DiscreteScheduler | KDPM2AncestralDiscreteScheduler):
            if not self.scheduler.state_in_first_order:  # the second stage lies between two grid points
                sigmas = self.scheduler.sigmas_interpol
                index -= isinstance(self.scheduler, KDPM2AncestralDiscreteScheduler)
        sigma = float(sigmas[index])
        if math.isnan(sigma):
            raise ValueError(
                f"`num_inference_steps` is {self.scheduler.num_inference_steps}: {type(self.scheduler).__name__} "
                "loses its way in steps as long as that; more steps are accepted."
            )
        return self.trained.process.timestep_of_sigma(sigma)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        eta: float | None = None,
    ) -> DDPMSchedulerOutput:
        """One step of the stock scheduler, from the clipped x_0 that `model_output` stands for; returns both."""
        t, scaled = self.network_timestep(timestep), self._scaled
        x_0 = self._predict_x_0(model_output, scaled, t)
        translate = predict_epsilon if self._language == "epsilon" else predict_velocity
        arguments: dict[str, object] = {"generator": generator, "eta": eta}
        accepted = inspect.signature(self.scheduler.step).parameters
        if eta is not None and "eta" not in accepted:
            raise ValueError(
                f"`eta` is {eta}: {type(self.scheduler).__name__} has no such setting; DDIMScheduler has."
            )
        arguments = {name: value for name, value in arguments.items() if name in accepted and value is not None}
        translated = translate(self.trained.process, x_0, scaled, t)
        stepped = self.scheduler.step(translated, timestep, sample, **arguments)
        return DDPMSchedulerOutput(stepped.prev_sample, x_0)

    def _predict_x_0(self, model_output: Tensor, x_t: Tensor, t: int | float) -> Tensor:
        mean_output = model_output[:, : x_t.shape[1]]  # a learned variance is of use to ancestral sampling only
        x_0 = self.trained.parameterization.predict_x_0(self.trained.process, mean_output, x_t, t)
        return x_0 if self.trained.clip is None else self.trained.clip(x_0)
