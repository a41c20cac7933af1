"""The scheduler of improved DDPM for diffusers: a configuration, a table of coefficients and a step.

It accepts DDPMScheduler's configuration and adds no key to it, so that stock samplers can be made from its config and
it from theirs. It holds no formula: `process` is the forward process, `parameterization` the reverse one, and
training, sampling and likelihood use these same two objects.
"""

from collections.abc import Callable, Sequence

import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..diffusion.checks import one_of
from ..diffusion.noise_schedules import canonical_beta_schedule, make_betas, rescale_zero_terminal_snr
from ..diffusion.parameterization import Parameterization, clip_to, ddim_distribution, dynamic_threshold
from ..diffusion.process import GaussianDiffusion
from ..diffusion.respacing import TIMESTEP_SPACINGS, space_timesteps


logger = logging.get_logger(__name__)

_VARIANCE_ALIASES = {"fixed_small_log": "fixed_small", "fixed_large_log": "fixed_large"}


class ImprovedDDPMScheduler(DDPMScheduler):
    """Ancestral sampling with fixed or learned variance (Ho et al. 2020; Nichol & Dhariwal 2021).

    The arguments are DDPMScheduler's. What differs:

    - `beta_schedule` also takes `quad` and `cosine`, stored as `scaled_linear` and `squaredcos_cap_v2`.
    - `prediction_type` also takes `mean`, the posterior mean.
    - `variance_type` is one of `fixed_small`, `fixed_large`, `learned` (the network returns the *log*-variance, as
      OpenAI's do) and `learned_range`. The `_log` names of stock configs mean the same and are stored without `_log`.
    - `timestep_spacing` is `linspace` or `trailing`. The stock default, `leading`, starts below T-1, where the samples
      are no longer pure noise; it is read as `linspace`.
    - Coefficients are computed in float64, no noise is added at the last step whatever the spacing, and `timestep` may
      be None in a loop that visits every step.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ):
        if steps_offset:
            raise ValueError(f"`steps_offset` is {steps_offset}: only 0 is accepted, since the chain starts at T-1.")
        if timestep_spacing == "leading":
            logger.info("`timestep_spacing` 'leading' starts below T-1; 'linspace' is used instead.")
            timestep_spacing = "linspace"
        one_of("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)
        variance_type = _VARIANCE_ALIASES.get(variance_type, variance_type)
        self.parameterization = Parameterization(prediction_type, variance_type)

        if trained_betas is not None:
            betas = torch.as_tensor(trained_betas, dtype=torch.float64)
            if len(betas) != num_train_timesteps:
                raise ValueError(
                    f"`trained_betas` holds {len(betas)} variances: `num_train_timesteps` = {num_train_timesteps} "
                    "needs one for each step."
                )
        else:
            beta_schedule = canonical_beta_schedule(beta_schedule)
            betas = make_betas(beta_schedule, num_train_timesteps, beta_start, beta_end)
            if beta_schedule == "sigmoid":  # stock samplers other than DDPM do not know it, but all take the numbers
                trained_betas = betas.tolist()
        if rescale_betas_zero_snr:
            if prediction_type == "epsilon":
                raise ValueError(
                    "`rescale_betas_zero_snr` is True with `prediction_type` 'epsilon': at T-1 there is no signal "
                    "left, "
                    "so the noise is the input itself and says nothing of x_0; 'v_prediction', 'sample' and 'mean' "
                    "are accepted."
                )
            betas = rescale_zero_terminal_snr(betas)
        self.process = GaussianDiffusion(betas)

        # What code written for DDPMScheduler reads; float32, and read by nothing of ours.
        self.betas = self.process.table["betas"].float()
        self.alphas = 1 - self.betas
        self.alphas_cumprod = self.process.table["alphas_cumprod"].float()
        self.one = torch.tensor(1.0)
        self.init_noise_sigma = 1.0
        self.eta: float | None = None  # what `step` takes where it is given none: None is ancestral sampling
        self.variance_type = variance_type
        self.num_inference_steps = None
        self.custom_timesteps = False
        self._visit(self.process)

        # Write the canonical names, and hide no key from `from_config`: a live config drops keys that are at their
        # defaults, so that another class would fill in its own.
        self.register_to_config(
            beta_schedule=beta_schedule,
            trained_betas=None if trained_betas is None else [float(beta) for beta in trained_betas],
            variance_type=variance_type,
            timestep_spacing=timestep_spacing,
            _use_default_values=[],
        )

    # ------------------------------------------------------------------ the chain that is visited

    def set_timesteps(
        self,
        num_inference_steps: int | str | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Chooses the steps to visit: a number, OpenAI's notation ("10,15,25", "ddim50"), or a list of `timesteps`."""
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("Exactly one of `num_inference_steps` and `timesteps` must be given.")
        self.custom_timesteps = timesteps is not None
        if timesteps is None:
            timesteps = space_timesteps(len(self), num_inference_steps, self.config.timestep_spacing)
        self._visit(self.process.respace(timesteps), device)
        self.num_inference_steps = self.chain.num_timesteps

    def _visit(self, chain: GaussianDiffusion, device: str | torch.device | None = None) -> None:
        self.chain = chain
        self.timesteps = chain.timesteps.flip(0).to(device)
        self._row_of = {timestep: row for row, timestep in enumerate(chain.timesteps.tolist())}
        self._step_index: int | None = None
        self._begin_index: int | None = None

    @property
    def step_index(self) -> int | None:
        """How many steps of the chain are done; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Where in `timesteps` a loop that gives no timesteps starts."""
        self._begin_index = begin_index
        self._step_index = None

    def previous_timestep(self, timestep: int | Tensor) -> int:
        """The timestep visited after `timestep`, or -1 for the clean sample."""
        row = self._row(timestep)
        return int(self.chain.timesteps[row - 1]) if row else -1

    def _row(self, timestep: int | Tensor | None) -> int:
        """The row of the chain's table, from the host's own count where `timestep` is on a device (or None)."""
        on_device = isinstance(timestep, Tensor) and timestep.device.type != "cpu"
        if timestep is None or on_device:
            if self._step_index is None and on_device and self._begin_index is None:
                return self._row(timestep.cpu())
            done = self._step_index if self._step_index is not None else self._begin_index or 0
            if done >= self.chain.num_timesteps:
                raise ValueError(f"`step` was called after the last of {done} steps: call `set_timesteps` first.")
            return self.chain.num_timesteps - 1 - done
        if isinstance(timestep, Tensor) and timestep.numel() != 1:
            raise ValueError(f"`timestep` has shape {tuple(timestep.shape)}: one timestep for the batch is accepted.")
        row = self._row_of.get(float(timestep))
        if row is None:
            visited = self.timesteps.tolist()
            raise ValueError(
                f"`timestep` is {float(timestep):g}, which this chain does not visit: its {len(visited)} steps run "
                f"from {visited[0]} to {visited[-1]}; see `scheduler.timesteps`."
            )
        return row

    def network_timestep(self, timestep: int | Tensor) -> int | Tensor:
        """What the network is told at `timestep`: the same."""
        return timestep

    # ------------------------------------------------------------------ one step

    @property
    def clip(self) -> Callable[[Tensor], Tensor] | None:
        """What is done to the predicted x_0: dynamic thresholding, clipping or nothing."""
        if self.config.thresholding:
            return dynamic_threshold(self.config.dynamic_thresholding_ratio, self.config.sample_max_value)
        return clip_to(self.config.clip_sample_range) if self.config.clip_sample else None

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor | None,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        eta: float | None = None,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """x_{t-1} ~ p(x_{t-1} | x_t) (Ho et al. 2020, algorithm 2), in float32 at least.

        `model_output`: (B, C, ...), or (B, 2C, ...) where the variance is learned. `timestep`: one for the whole
        batch; None means the next of the chain. `generator`: one, or one per sample. `eta`: None for ancestral
        sampling with the model's variance, a number in [0, 1] for DDIM. Returns x_{t-1} and the estimate of x_0, both
        of `sample`'s dtype.
        """
        row = self._row(timestep)
        self._step_index = self.chain.num_timesteps - row
        dtype = torch.promote_types(sample.dtype, torch.float32)
        x_t = sample.to(dtype)
        x_0, distribution = self.parameterization.reverse(self.chain, model_output.to(dtype), x_t, row, self.clip)
        eta = self.eta if eta is None else eta
        if eta is not None:
            distribution = ddim_distribution(self.chain, x_0, x_t, row, eta)
        previous = distribution.mean
        if row > 0 and eta != 0:  # the last step returns its mean
            noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
            previous = distribution.sample(noise.to(dtype))
        if sample.dtype != dtype:
            previous, x_0 = previous.to(sample.dtype), x_0.to(sample.dtype)
        return DDPMSchedulerOutput(previous, x_0) if return_dict else (previous, x_0)

    # ------------------------------------------------------------------ what else DDPMScheduler offers

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t for timesteps of the *training* chain, (B,), in the dtype of `original_samples` (float32 inside)."""
        rows = self._training_rows(timesteps, original_samples)
        return self.process.add_noise(original_samples, noise, rows).to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The target of `v_prediction` for x_0 = `sample` (Salimans & Ho 2022)."""
        rows = self._training_rows(timesteps, sample)
        velocity = Parameterization("v_prediction").target(self.process, sample, noise, sample, rows)
        return velocity.to(sample.dtype)

    def _training_rows(self, timesteps: Tensor, like: Tensor) -> Tensor:
        if timesteps.is_floating_point():
            raise ValueError(f"`timesteps` is of dtype {timesteps.dtype}: whole numbers are accepted.")
        timesteps, count = timesteps.reshape(-1), len(like)
        if len(timesteps) not in (1, count):
            raise ValueError(
                f"`timesteps` holds {len(timesteps)} timesteps: 1 or {count}, one per sample, is accepted."
            )
        wrong = (timesteps < 0) | (timesteps >= len(self))
        if wrong.device.type == "cpu" and wrong.any():  # elsewhere, looking would wait for the device
            last = len(self) - 1
            raise ValueError(f"`timesteps` holds {timesteps[wrong][0]}: the training chain's are 0 to {last}.")
        return timesteps.to(like.device).expand(count)

    def _get_variance(
        self, t: int | Tensor, predicted_variance: Tensor | None = None, variance_type: str | None = None
    ) -> Tensor:
        parameterization = Parameterization(
            self.parameterization.prediction_type, variance_type or self.parameterization.variance_type
        )
        like = predicted_variance if predicted_variance is not None else torch.ones(1)
        return torch.as_tensor(
            parameterization.log_variance(self.chain, predicted_variance, like, self._row(t)), dtype=like.dtype
        ).exp()

    def _threshold_sample(self, sample: Tensor) -> Tensor:
        return dynamic_threshold(self.config.dynamic_thresholding_ratio, self.config.sample_max_value)(sample)
