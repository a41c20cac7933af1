"""Stock samplers on our models: for Gaussian data, N(0.3, 0.5^2), the perfect network and the right answer are known.

The perfect network is told a time, perhaps between two steps; its alphas_cumprod there is interpolated here anew.
"""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from ddpm_ext import ImprovedDDPMPipeline, ImprovedDDPMScheduler
from ddpm_ext.diffusion import PREDICTION_TYPES
from ddpm_ext.schedulers.samplers import SAMPLERS, make_sampler
from ddpm_ext.schedulers.stock import StockSampler, sampler_for
from tests.conftest import tiny_pipeline


MEAN, DEVIATION = 0.3, 0.5
WITHIN = 0.03

KARRAS = {"use_karras_sigmas": True}
DETERMINISTIC = {
    "deis": ("DEISMultistepScheduler", {}),
    "deis, Karras": ("DEISMultistepScheduler", KARRAS),
    "dpmsolver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {}),
    "dpmsolver++, Karras": ("DPMSolverMultistepScheduler", KARRAS),
    "dpmsolver++ single": ("DPMSolverSinglestepScheduler", {}),
    "dpmsolver++ single, Karras": ("DPMSolverSinglestepScheduler", KARRAS),
    "heun": ("HeunDiscreteScheduler", {}),
    "heun, Karras": ("HeunDiscreteScheduler", KARRAS),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2, Karras": ("KDPM2DiscreteScheduler", KARRAS),
    "lms": ("LMSDiscreteScheduler", {}),
    "lms, Karras": ("LMSDiscreteScheduler", KARRAS),
    "pndm": ("PNDMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "unipc, Karras": ("UniPCMultistepScheduler", KARRAS),
}
STOCHASTIC = {
    "dpmsolver++ sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "kdpm2 ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "sasolver": ("SASolverScheduler", {}),
    "sasolver, Karras": ("SASolverScheduler", KARRAS),
}
# These shrink the deviation by about 3/steps (ancestral ones 6/steps) of itself, as their own rule says.
FIRST_ORDER = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler, Karras": ("EulerDiscreteScheduler", KARRAS),
    "euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
}
# Their rule is for consistency models, whose every output is a sample: on others they have no right answer.
DISTILLED = {"lcm": ("LCMScheduler", {}), "tcd": ("TCDScheduler", {})}
ALL = {**DETERMINISTIC, **STOCHASTIC, **FIRST_ORDER, **DISTILLED}


class PerfectNetwork(ModelMixin, ConfigMixin):
    """The best network for Gaussian data that `scheduler` could have trained; variance channels say nonsense."""

    @register_to_config
    def __init__(self, sample_size: int = 32, in_channels: int = 1):
        super().__init__()
        self.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))

    def trained_with(self, scheduler: ImprovedDDPMScheduler, mean: float = MEAN, deviation: float = DEVIATION):
        self.mean, self.deviation = mean, deviation
        self.parameterization = scheduler.parameterization
        abar = scheduler.process.table["alphas_cumprod"].numpy()
        self.is_zero_snr = abar[-1] == 0
        self.log_sigmas = 0.5 * np.log((1 - abar) / abar.clip(2.0**-24 if self.is_zero_snr else 0))
        before = np.concatenate([[1.0], abar[:-1]])
        self.posterior = (
            (1 - abar / before) * before**0.5 / (1 - abar),
            (1 - before) * (abar / before) ** 0.5 / (1 - abar),
        )
        self.asked: list[tuple[float, float]] = []  # the time told, and the deviation of what it came with
        return self

    def noise_at(self, t: float) -> float:
        """sqrt(1 - alphas_cumprod) at `t`."""
        sigma = np.exp(np.interp(t, np.arange(len(self.log_sigmas)), self.log_sigmas))
        return float(sigma / np.hypot(1, sigma))

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor]:
        t = t[0].item()
        self.asked.append((t, x.std().item()))
        noise = self.noise_at(t)
        signal = (1 - noise**2) ** 0.5
        x = x.double()
        x_0 = self.mean + signal * self.deviation**2 / (signal**2 * self.deviation**2 + noise**2) * (
            x - signal * self.mean
        )
        eps = (x - signal * x_0) / noise
        from_x_0, from_x_t = (np.interp(t, np.arange(len(column)), column) for column in self.posterior)
        output = {
            "epsilon": eps,
            "sample": x_0,
            "v_prediction": signal * eps - noise * x_0,
            "mean": from_x_0 * x_0 + from_x_t * x,
        }[self.parameterization.prediction_type].float()
        if self.parameterization.learns_variance:
            output = torch.cat([output, torch.zeros_like(output)], dim=1)
        return (output,)


class Unbounded(ImprovedDDPMPipeline):
    """The pipeline, without the clamp to the range of images."""

    def _decode(self, x: Tensor, output_type: str) -> Tensor:
        return x


def trained(prediction_type: str = "epsilon", **settings: object) -> ImprovedDDPMScheduler:
    settings = {"beta_schedule": "cosine", "clip_sample": False, "variance_type": "learned_range", **settings}
    return ImprovedDDPMScheduler(prediction_type=prediction_type, **settings)


def stock(name: str, scheduler: ImprovedDDPMScheduler) -> diffusers.SchedulerMixin:
    class_name, settings = ALL[name]
    return getattr(diffusers, class_name).from_config(scheduler.config, **settings)


def quantiles(side: int, channels: int = 1) -> Tensor:
    """A standard normal "image" whose values are evenly spread quantiles, so that its mean and deviation are exact."""
    values = torch.special.ndtri((torch.arange(side**2, dtype=torch.float64) + 0.5) / side**2)
    values = (values / values.std(correction=0)).float()
    return (
        values[torch.randperm(side**2, generator=torch.Generator().manual_seed(0))]
        .view(1, 1, side, side)
        .expand(1, channels, side, side)
    )


def sample(network: PerfectNetwork, scheduler: diffusers.SchedulerMixin, steps: int) -> Tensor:
    pipeline = Unbounded(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    noise = quantiles(network.config.sample_size, network.config.in_channels)
    return pipeline(noise=noise, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images


def assert_is_the_data(images: Tensor, within: float = WITHIN) -> None:
    assert images.mean().item() == pytest.approx(MEAN, rel=within)
    assert images.std(correction=0).item() == pytest.approx(DEVIATION, rel=within)


# ------------------------------------------------------------------ the right answer


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_50_steps_give_the_mean_and_deviation_of_the_data(name, schedule):
    scheduler = trained(beta_schedule=schedule)
    network = PerfectNetwork().trained_with(scheduler)
    assert_is_the_data(sample(network, stock(name, scheduler), 50))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_50_noisy_steps_give_the_mean_and_deviation_of_the_data(name):
    scheduler = trained()
    network = PerfectNetwork(sample_size=256).trained_with(scheduler)
    # Standard errors with 65,536 values: 0.7 % of the mean, 0.3 % of the deviation; 3 of them are allowed for.
    images = sample(network, stock(name, scheduler), 50)
    assert images.mean().item() == pytest.approx(MEAN, rel=WITHIN + 0.02)
    assert images.std().item() == pytest.approx(DEVIATION, rel=WITHIN + 0.01)


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_samplers_of_first_order_converge_to_the_data(name):
    scheduler = trained()
    network = PerfectNetwork(sample_size=128).trained_with(scheduler)
    within = WITHIN if name in ("ddim", "euler", "euler, Karras") else WITHIN + 0.03  # 2 standard errors of the mean
    assert_is_the_data(sample(network, stock(name, scheduler), 250), within)


@pytest.mark.parametrize("steps", [4, 10, 50])
def test_euler_lands_where_eulers_rule_does(steps):
    """x - mean is multiplied by 1 + (sigma' - sigma) sigma / (deviation^2 + sigma^2) from each sigma to the next."""
    scheduler = trained(beta_schedule="linear")
    euler = stock("euler", scheduler)
    euler.set_timesteps(steps)
    sigmas = euler.sigmas.double()
    factors = 1 + (sigmas[1:] - sigmas[:-1]) * sigmas[:-1] / (DEVIATION**2 + sigmas[:-1] ** 2)
    images = sample(PerfectNetwork().trained_with(scheduler), euler, steps)
    assert images.std(correction=0).item() == pytest.approx(float(sigmas[0] * factors.prod()), rel=1e-3)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample", "mean"])
@pytest.mark.parametrize("name", ["dpmsolver++", "unipc", "heun", "lms", "pndm", "unipc, Karras", "sasolver"])
def test_models_of_zero_terminal_snr(name, prediction_type):
    scheduler = trained(prediction_type, beta_schedule="linear", rescale_betas_zero_snr=True)
    network = PerfectNetwork(sample_size=128).trained_with(scheduler)
    assert_is_the_data(sample(network, stock(name, scheduler), 50), WITHIN if name != "sasolver" else WITHIN + 0.03)


@pytest.mark.parametrize("name", ["heun", "kdpm2", "pndm", "dpmsolver++", "unipc", "deis", "lms"])
def test_the_steep_end_of_a_cosine_schedule_does_not_spoil_20_steps(name):
    """Its sigma goes to 22,000: averaging slopes over such a step would leave Heun with 2.4 times the deviation."""
    scheduler = trained()
    assert_is_the_data(sample(PerfectNetwork().trained_with(scheduler), stock(name, scheduler), 20), within=0.06)


# ------------------------------------------------------------------ every model, every sampler


@pytest.mark.parametrize("name", ALL)
def test_every_kind_of_model_gives_the_same_images(name):
    """Perfect networks agree, whatever they predict, of however many channels, with a learned variance or without."""
    reference = None
    for channels, variance_type in ((3, "fixed_small"), (1, "learned"), (3, "learned_range"), (4, "learned_range")):
        for prediction_type in PREDICTION_TYPES:
            scheduler = trained(prediction_type, variance_type=variance_type, num_train_timesteps=100)
            network = PerfectNetwork(8, channels).trained_with(scheduler)
            images = sample(network, stock(name, scheduler), 6)
            assert images.shape == (1, channels, 8, 8)
            if name in DETERMINISTIC or name in ("ddim", "euler"):
                reference = images[:, :1] if reference is None else reference
                # float32 noise, read as x_0 at sigma = 160, is right to 1e-5, and a predicted mean to 1e-3
                torch.testing.assert_close(images, reference.expand_as(images), rtol=0, atol=5e-3)
            assert images.isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("name", sorted(ALL.keys() - {"kdpm2 ancestral"}))  # which needs more, see below
def test_few_steps_stay_finite(name, steps):
    scheduler = trained(clip_sample=True, num_train_timesteps=100)
    network = PerfectNetwork(8).trained_with(scheduler)
    assert sample(network, stock(name, scheduler), steps).isfinite().all()


@pytest.mark.parametrize("name", sorted(ALL.keys() - DISTILLED.keys()))
def test_x_0_is_clipped_before_the_stock_sampler_sees_it(name):
    scheduler = trained("sample", clip_sample=True, num_train_timesteps=100)
    network = PerfectNetwork(8).trained_with(scheduler, mean=5.0, deviation=0.01)
    images = sample(network, stock(name, scheduler), 10)
    torch.testing.assert_close(images, torch.ones_like(images), rtol=0, atol=0.1)  # the noise of the last step is left


@pytest.mark.parametrize("name", sorted(DETERMINISTIC.keys() | {"ddim", "euler", "euler, Karras"}))
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_network_is_told_the_time_of_the_noise_that_it_sees(name, schedule):
    """When all data are 0, x_t is noise alone and every rule is exact: its size says what time it is."""
    scheduler = trained(beta_schedule=schedule)
    network = PerfectNetwork().trained_with(scheduler, mean=0.0, deviation=0.0)
    sample(network, stock(name, scheduler), 8)
    times = [t for t, _ in network.asked]
    assert times[0] > 990 and min(times) >= 0 and len(times) >= 8
    for t, deviation in network.asked:
        assert deviation == pytest.approx(network.noise_at(t), rel=2e-3, abs=5e-5)  # float32 at sigma = 160
    if "Karras" in name:
        assert any(t != round(t) for t in times)


# ------------------------------------------------------------------ whose scheduler it is


@pytest.mark.parametrize("name", ALL)
def test_the_users_scheduler_is_not_changed(name):
    scheduler = trained(clip_sample=True, num_train_timesteps=100)
    theirs = stock(name, scheduler)
    theirs.set_timesteps(5)
    config, timesteps, abar = dict(theirs.config), theirs.timesteps.clone(), theirs.alphas_cumprod.clone()
    first = sample(PerfectNetwork(8).trained_with(scheduler), theirs, 3)
    assert dict(theirs.config) == config
    torch.testing.assert_close(theirs.timesteps, timesteps, rtol=0, atol=0, equal_nan=True)  # KDPM2 ancestral's own
    assert torch.equal(theirs.alphas_cumprod, abar)
    assert torch.equal(sample(PerfectNetwork(8).trained_with(scheduler), theirs, 3), first)


def test_a_stock_sampler_on_the_pipeline_survives_saving(tmp_path):
    pipeline = tiny_pipeline(learns_variance=True, prediction_type="mean")
    pipeline.scheduler = diffusers.UniPCMultistepScheduler.from_config(
        ImprovedDDPMScheduler(prediction_type="mean", variance_type="learned", beta_schedule="sigmoid").config
    )

    def draw(pipeline) -> Tensor:
        return pipeline(2, torch.Generator().manual_seed(0), 5, output_type="pt").images

    pipeline.save_pretrained(tmp_path)
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is diffusers.UniPCMultistepScheduler
    assert torch.equal(draw(loaded), draw(pipeline))


@pytest.mark.parametrize(
    "class_name", ["DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler"]
)
def test_stock_ddpm_and_ddim_are_replaced_by_ours(class_name):
    scheduler = trained("v_prediction", variance_type="learned")
    replaced = sampler_for(getattr(diffusers, class_name).from_config(scheduler.config))
    assert type(replaced) is ImprovedDDPMScheduler
    assert replaced.parameterization == scheduler.parameterization
    assert replaced.eta == (0.0 if "DDIM" in class_name else None)


def test_ours_is_used_as_it_is():
    scheduler = trained()
    assert sampler_for(scheduler) is scheduler
    assert type(sampler_for(stock("unipc", scheduler))) is StockSampler


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "class_name",
    [
        "CMStochasticIterativeScheduler",
        "DDIMInverseScheduler",
        "DPMSolverMultistepInverseScheduler",
        "EDMDPMSolverMultistepScheduler",
        "EDMEulerScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "IPNDMScheduler",
        "RePaintScheduler",
    ],
)
def test_schedulers_of_other_processes_are_refused(class_name):
    scheduler = getattr(diffusers, class_name).from_config(trained().config)
    with pytest.raises(ValueError, match=f"`scheduler` is {class_name}, which does not sample from a noise schedule"):
        sampler_for(scheduler)


@pytest.mark.parametrize("steps", ["10,15,25", 0, 1001, 2.5])
def test_stock_samplers_take_a_number_of_steps(steps):
    with pytest.raises(ValueError, match=r"`num_inference_steps` is .* UniPCMultistepScheduler takes a whole number"):
        sampler_for(stock("unipc", trained())).set_timesteps(steps)


def test_steps_that_a_stock_sampler_cannot_take_are_named():
    scheduler = trained()
    network = PerfectNetwork(8).trained_with(scheduler)
    with pytest.raises(ValueError, match="`num_inference_steps` is 2: KDPM2AncestralDiscreteScheduler loses its way"):
        sample(network, stock("kdpm2 ancestral", scheduler), 2)


def test_eta_is_refused_where_it_would_do_nothing():
    scheduler = trained()
    pipeline = Unbounded(PerfectNetwork(8).trained_with(scheduler), stock("unipc", scheduler))
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match=r"`eta` is 0\.5: UniPCMultistepScheduler has no such setting"):
        pipeline(num_inference_steps=2, eta=0.5)


# ------------------------------------------------------------------ samplers by name


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_are_known_by_name(name):
    scheduler = trained("v_prediction", clip_sample=True)
    sampler = make_sampler(name, scheduler)
    images = sample(PerfectNetwork().trained_with(scheduler), sampler, 20)
    assert images.mean().item() == pytest.approx(MEAN, abs=0.06)
    # however they got there, all samplers of a model have the same trained scheduler
    assert make_sampler("ddpm", sampler).config["prediction_type"] == "v_prediction"
    assert make_sampler("ddpm", sampler).config["variance_type"] == "learned_range"


def test_an_unknown_sampler_suggests_a_known_one():
    with pytest.raises(ValueError, match=r"`sampler` is 'uni_pc': .*Did you mean 'unipc'\?"):
        make_sampler("uni_pc", trained())
