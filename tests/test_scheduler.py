"""ImprovedDDPMScheduler: its config among stock schedulers, its chain, and its step."""

import itertools
import json

import diffusers
import pytest
import torch

from ddpm_ext.diffusion import PREDICTION_TYPES, VARIANCE_TYPES, GaussianDiffusion
from ddpm_ext.schedulers import ImprovedDDPMScheduler


SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
STOCK = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
)
SHAPE = (2, 3, 4, 4)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def model_output(scheduler: ImprovedDDPMScheduler, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    channels = scheduler.parameterization.output_channels(x.shape[1])
    return normal(len(x), channels, *x.shape[2:], seed=seed, dtype=x.dtype)


# ------------------------------------------------------------------ config


def config_of(scheduler, way: str):
    """A scheduler's config as another class gets it: the live object, or what its JSON file says."""
    return scheduler.config if way == "live" else json.loads(scheduler.to_json_string())


@pytest.mark.parametrize("way", ("live", "json"))
@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stock_schedulers_understand_the_config_and_give_it_back(schedule, name, way):
    """Also where every key is at its default, which diffusers leaves out of a live config."""
    ours = ImprovedDDPMScheduler(beta_schedule=schedule, prediction_type="v_prediction", variance_type="learned_range")
    stock = getattr(diffusers, name).from_config(config_of(ours, way))
    torch.testing.assert_close(stock.alphas_cumprod, ours.alphas_cumprod, rtol=1e-5, atol=1e-6)
    assert stock.config.prediction_type == "v_prediction"
    assert stock.config.timestep_spacing == "linspace"
    back = ImprovedDDPMScheduler.from_config(config_of(stock, way))
    assert torch.equal(back.process.table["betas"], ours.process.table["betas"])
    assert back.parameterization == ours.parameterization


@pytest.mark.parametrize("way", ("live", "json"))
@pytest.mark.parametrize("name", STOCK)
def test_defaults_survive_the_round_trip(name, way):
    ours = ImprovedDDPMScheduler()
    back = ImprovedDDPMScheduler.from_config(
        config_of(getattr(diffusers, name).from_config(config_of(ours, way)), way)
    )
    keys = set(json.loads(ours.to_json_string())) - {"_class_name", "_diffusers_version"}
    assert {key: back.config[key] for key in keys} == {key: ours.config[key] for key in keys}


def test_it_adds_no_key_to_the_stock_config():
    stock = set(json.loads(diffusers.DDPMScheduler().to_json_string()))
    assert set(json.loads(ImprovedDDPMScheduler().to_json_string())) <= stock


def test_it_is_saved_and_loaded(tmp_path):
    ours = ImprovedDDPMScheduler(37, beta_schedule="sigmoid", prediction_type="mean", variance_type="learned")
    ours.save_pretrained(tmp_path)
    back = ImprovedDDPMScheduler.from_pretrained(tmp_path)
    assert torch.equal(back.process.table["betas"], ours.process.table["betas"])
    assert back.parameterization == ours.parameterization


@pytest.mark.parametrize("stock_type, ours", (("fixed_small_log", "fixed_small"), ("fixed_large_log", "fixed_large")))
def test_names_of_stock_variances_mean_the_same(stock_type, ours):
    scheduler = ImprovedDDPMScheduler.from_config(diffusers.DDPMScheduler(variance_type=stock_type).config)
    assert scheduler.config.variance_type == ours
    assert scheduler._get_variance(999).isfinite()


@pytest.mark.parametrize("alias, name", (("quad", "scaled_linear"), ("cosine", "squaredcos_cap_v2")))
def test_names_of_the_literature_are_stored_as_those_of_diffusers(alias, name):
    scheduler = ImprovedDDPMScheduler(beta_schedule=alias)
    assert scheduler.config.beta_schedule == name
    stock = diffusers.DDIMScheduler.from_config(scheduler.config)
    torch.testing.assert_close(stock.alphas_cumprod, scheduler.alphas_cumprod, rtol=1e-5, atol=1e-6)


def test_sigmoid_is_stored_as_numbers_since_most_stock_schedulers_do_not_know_it():
    ours = ImprovedDDPMScheduler(beta_schedule="sigmoid")
    assert ours.config.trained_betas == ours.process.table["betas"].tolist()
    torch.testing.assert_close(ours.betas, diffusers.DDPMScheduler(beta_schedule="sigmoid").betas, rtol=1e-5, atol=0.0)


def test_trained_betas_are_the_chain():
    betas = [0.1, 0.2, 0.5, 0.9]
    scheduler = ImprovedDDPMScheduler(4, trained_betas=betas)
    assert scheduler.process.table["betas"].tolist() == betas
    assert ImprovedDDPMScheduler.from_config(scheduler.config).process.table["betas"].tolist() == betas


@pytest.mark.parametrize("prediction_type", ("v_prediction", "sample", "mean"))
def test_zero_terminal_snr_samples(prediction_type):
    scheduler = ImprovedDDPMScheduler(prediction_type=prediction_type, rescale_betas_zero_snr=True)
    assert scheduler.process.snr(999) == 0
    back = ImprovedDDPMScheduler.from_config(config_of(scheduler, "json"))
    assert torch.equal(back.process.table["betas"], scheduler.process.table["betas"])  # not rescaled twice
    x = normal(*SHAPE)
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps:
        x = scheduler.step(model_output(scheduler, x), t, x, generator=torch.Generator().manual_seed(0)).prev_sample
    assert x.isfinite().all()


# ------------------------------------------------------------------ the chain


def test_sections_and_lists_of_timesteps_choose_the_chain():
    scheduler = ImprovedDDPMScheduler(100)
    scheduler.set_timesteps("3,3,7")
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == 13
    scheduler.set_timesteps("ddim25")
    assert scheduler.timesteps.tolist() == list(range(96, -1, -4))
    scheduler.set_timesteps(timesteps=[50, 99, 3])
    assert scheduler.timesteps.tolist() == [99, 50, 3]
    assert [scheduler.previous_timestep(t) for t in (99, 50, 3)] == [50, 3, -1]


def test_leading_is_read_as_linspace_since_it_starts_below_the_noisiest_step():
    scheduler = ImprovedDDPMScheduler.from_config(diffusers.DDPMScheduler(timestep_spacing="leading").config)
    scheduler.set_timesteps(7)
    assert scheduler.config.timestep_spacing == "linspace" and scheduler.timesteps[0] == 999


# ------------------------------------------------------------------ the step


@pytest.mark.parametrize("begin", (0, 4))
def test_step_without_timestep_equals_step_with(begin):
    """Also in a loop that starts late, as image-to-image does."""
    results = []
    for give in (True, False):
        scheduler = ImprovedDDPMScheduler(variance_type="learned_range", beta_schedule="cosine")
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(begin)
        generator, x = torch.Generator().manual_seed(0), normal(*SHAPE)
        for i, t in enumerate(scheduler.timesteps[begin:]):
            output = model_output(scheduler, x, seed=i)
            x = scheduler.step(output, t if give else None, x, generator=generator).prev_sample
        assert scheduler.step_index == 10
        results.append(x)
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", (int, float, torch.tensor))
def test_timesteps_may_be_numbers_or_tensors(kind):
    scheduler, x = ImprovedDDPMScheduler(), normal(*SHAPE)
    scheduler.set_timesteps(10)
    expected = scheduler.step(x, scheduler.timesteps[3], x, generator=torch.Generator().manual_seed(0)).prev_sample
    t = kind(int(scheduler.timesteps[3]))
    found = scheduler.step(x, t, x, generator=torch.Generator().manual_seed(0), return_dict=False)
    assert isinstance(found, tuple) and torch.equal(found[0], expected)


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("spacing, count", itertools.product(("linspace", "trailing"), (1, 10)))
def test_the_last_step_adds_no_noise(variance_type, spacing, count):
    """Whatever its timestep: with trailing spacing, it is not 0. And it draws none."""
    scheduler, x = ImprovedDDPMScheduler(variance_type=variance_type, timestep_spacing=spacing), normal(*SHAPE)
    scheduler.set_timesteps(count)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    step = scheduler.step(model_output(scheduler, x), scheduler.timesteps[-1], x, generator=generator)
    torch.testing.assert_close(step.prev_sample, step.pred_original_sample)
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
def test_with_a_generator_per_image_an_image_does_not_depend_on_its_batch(variance_type):
    def images(seeds: list[int]) -> torch.Tensor:
        scheduler = ImprovedDDPMScheduler(variance_type=variance_type)
        scheduler.set_timesteps(5)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = torch.stack([torch.randn(SHAPE[1:], generator=generator) for generator in generators])
        for t in scheduler.timesteps:
            output = torch.cat([0.3 * x, 0.1 * x], 1)[:, : scheduler.parameterization.output_channels(SHAPE[1])]
            x = scheduler.step(output, t, x, generator=generators).prev_sample
        return x

    together = images([7, 8, 9])
    assert torch.equal(images([8]), together[1:2])
    assert torch.equal(images([9, 7]), together[[2, 0]])


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("prediction_type, variance_type", itertools.product(PREDICTION_TYPES, VARIANCE_TYPES))
def test_half_precision_samples_stay_finite(dtype, prediction_type, variance_type):
    """On the schedule where x_0 is 20,000 times what the noise says: the arithmetic is float32."""
    scheduler = ImprovedDDPMScheduler(
        beta_schedule="cosine", prediction_type=prediction_type, variance_type=variance_type
    )
    scheduler.set_timesteps(20)
    x, generator = normal(*SHAPE, dtype=dtype), torch.Generator().manual_seed(0)
    for i, t in enumerate(scheduler.timesteps):
        step = scheduler.step(model_output(scheduler, x, seed=i), t, x, generator=generator)
        x = step.prev_sample
        assert x.dtype == step.pred_original_sample.dtype == dtype
        assert x.isfinite().all() and step.pred_original_sample.abs().max() <= 1


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_half_precision_is_rounded_once_after_the_step(dtype, prediction_type):
    scheduler = ImprovedDDPMScheduler(beta_schedule="cosine", prediction_type=prediction_type)
    x, output = normal(*SHAPE, dtype=dtype), normal(*SHAPE, seed=1, dtype=dtype)
    for t in (999, 500, 3):
        half = scheduler.step(output, t, x, eta=0.0)
        single = scheduler.step(output.float(), t, x.float(), eta=0.0)
        assert torch.equal(half.prev_sample, single.prev_sample.to(dtype))
        assert torch.equal(half.pred_original_sample, single.pred_original_sample.to(dtype))


def test_eta_0_is_deterministic_and_eta_1_is_as_noisy_as_fixed_small():
    x, output = normal(*SHAPE), normal(*SHAPE, seed=1)
    scheduler = ImprovedDDPMScheduler()
    scheduler.set_timesteps(10)

    def step(seed: int, eta: float | None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return scheduler.step(output, scheduler.timesteps[4], x, generator=generator, eta=eta).prev_sample

    assert torch.equal(step(0, 0.0), step(1, 0.0))
    assert not torch.equal(step(0, 0.5), step(1, 0.5))
    torch.testing.assert_close(step(0, 1.0), step(0, None), rtol=1e-5, atol=1e-5)


def test_ddim_is_stock_ddim_with_the_noise_of_the_clipped_x_0():
    ours, stock = ImprovedDDPMScheduler(), diffusers.DDIMScheduler(timestep_spacing="trailing")
    stock.set_timesteps(50)
    ours.set_timesteps(timesteps=stock.timesteps.flip(0))
    assert torch.equal(ours.timesteps, stock.timesteps)
    x = y = normal(*SHAPE)
    for i, t in enumerate(ours.timesteps):
        output = normal(*SHAPE, seed=i)
        x = ours.step(output, t, x, eta=0.0).prev_sample
        y = stock.step(output, t, y, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_dynamic_thresholding_is_applied_to_x_0():
    scheduler = ImprovedDDPMScheduler(prediction_type="sample", thresholding=True, sample_max_value=100.0)
    x, x_0 = normal(*SHAPE), 5 * normal(*SHAPE, seed=1)
    found = scheduler.step(x_0, 500, x).pred_original_sample
    bound = x_0.abs().flatten(1).quantile(0.995, dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(found, x_0.clamp(-bound, bound) / bound)


@pytest.mark.parametrize("dtype", (torch.float16, torch.float32, torch.float64))
def test_noising_and_velocity_are_the_process_in_the_samples_dtype(dtype):
    """Of the training chain, whatever chain is visited; one timestep per image."""
    scheduler, stock = ImprovedDDPMScheduler(), diffusers.DDPMScheduler()
    scheduler.set_timesteps(10)
    x_0, noise, t = normal(*SHAPE, dtype=dtype), normal(*SHAPE, seed=1, dtype=dtype), torch.tensor([0, 777])
    tolerance = 1e-2 if dtype == torch.float16 else 1e-4
    for name in ("add_noise", "get_velocity"):
        found = getattr(scheduler, name)(x_0, noise, t)
        assert found.dtype == dtype
        expected = getattr(stock, name)(x_0.float(), noise.float(), t)
        torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)
    process = GaussianDiffusion(scheduler.process.table["betas"])
    exact = process.add_noise(x_0.double(), noise.double(), t)
    torch.testing.assert_close(scheduler.add_noise(x_0, noise, t), exact.to(dtype))


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
def test_the_variance_it_reports_is_a_variance(variance_type):
    """Stock returns a variance, a standard deviation or a logarithm, by type."""
    scheduler = ImprovedDDPMScheduler(variance_type=variance_type)
    predicted = torch.full((1, 3), -2.0)
    t = 500
    table = {name: float(column[t]) for name, column in scheduler.process.table.items()}
    low, high = table["posterior_log_variance"], table["log_betas"]
    expected = {
        "fixed_small": table["posterior_variance"],
        "fixed_large": table["betas"],
        "learned": float(predicted[0, 0].exp()),
        "learned_range": torch.tensor(-0.5 * high + 1.5 * low).exp().item(),
    }[variance_type]
    found = scheduler._get_variance(t, predicted)
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-5, atol=0.0)
