"""Stock schedulers on models of flow matching: for Gaussian data, N(0.3, 0.5^2), the velocity is known."""

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from ddpm_ext import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline, MLPDenoiser, PointsDDPMPipeline
from ddpm_ext.pipelines.loading import load_pipeline
from ddpm_ext.schedulers.flow_matching import FlowSampler, flow_scheduler, is_flow_matching
from ddpm_ext.schedulers.samplers import default_sampler, make_sampler
from ddpm_ext.schedulers.stock import process_of, sampler_for, scheduler_of_training
from tests.conftest import tiny_pipeline, tiny_unet


MEAN, DEVIATION = 0.3, 0.5
TRAINED = flow_scheduler({"num_train_timesteps": 1000})


@pytest.fixture(autouse=True)
def quiet():
    diffusers.logging.set_verbosity_error()  # `from_config` tells of every key that another class does not know
    yield
    diffusers.logging.set_verbosity_warning()


class GaussianVelocity(MLPDenoiser):
    """The velocity of N((1 - s) m, (1 - s)^2 d^2 + s^2), s = t / 1000."""

    def forward(self, sample: Tensor, timestep: Tensor, class_labels=None, return_dict=True) -> UNet2DOutput:
        s = timestep[0].double() / 1000
        variance = (1 - s) ** 2 * DEVIATION**2 + s**2
        centred = sample - (1 - s) * MEAN
        return UNet2DOutput(sample=((s - (1 - s) * DEVIATION**2) / variance * centred - MEAN).to(sample.dtype))


def noise_of_quantiles(count: int = 2000) -> Tensor:
    values = torch.special.ndtri((torch.arange(2 * count, dtype=torch.float64) + 0.5) / (2 * count))
    return (values / values.std(correction=0)).float().view(count, 2)


def points(scheduler: SchedulerMixin, steps: int, **more: object) -> Tensor:
    pipeline = PointsDDPMPipeline(GaussianVelocity(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    noise = noise_of_quantiles()
    generator = torch.Generator().manual_seed(0)
    return pipeline(len(noise), noise=noise, num_inference_steps=steps, generator=generator, **more).points


def of_class(name: str, **settings: object) -> SchedulerMixin:
    return getattr(diffusers, name).from_config(TRAINED.config, **settings)


SECOND_ORDER = {
    "heun": of_class("FlowMatchHeunDiscreteScheduler"),
    "heun, shifted": diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0),
    "dpmsolver++": of_class("DPMSolverMultistepScheduler"),
    "dpmsolver++ single": of_class("DPMSolverSinglestepScheduler"),
    "unipc": of_class("UniPCMultistepScheduler"),
}


# ------------------------------------------------------------------ the right answer


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_50_steps_carry_noise_to_the_data(name):
    """The flow of a Gaussian is x_0 = m + d noise, point by point."""
    drawn = points(SECOND_ORDER[name], 50)
    torch.testing.assert_close(drawn, MEAN + DEVIATION * noise_of_quantiles(), rtol=0, atol=0.02)


def test_euler_converges_to_the_data():
    drawn = points(TRAINED, 1000)
    torch.testing.assert_close(drawn, MEAN + DEVIATION * noise_of_quantiles(), rtol=0, atol=0.004)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_euler_lands_where_eulers_rule_does(steps, shift):
    """x - mean is multiplied by 1 + (s' - s) slope(s) from each s to the next; the s are even, then shifted."""
    s = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    s = shift * s / (1 + (shift - 1) * s)
    slope = (s - (1 - s) * DEVIATION**2) / ((1 - s) ** 2 * DEVIATION**2 + s**2)
    factor = float((1 + (s[1:] - s[:-1]) * slope[:-1]).prod())
    drawn = points(FlowMatchEulerDiscreteScheduler(shift=shift), steps)
    torch.testing.assert_close(drawn, MEAN + factor * noise_of_quantiles(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"shift": 0.5}])
def test_other_grids_converge_too(settings):
    drawn = points(FlowMatchEulerDiscreteScheduler(**settings), 500)
    torch.testing.assert_close(drawn, MEAN + DEVIATION * noise_of_quantiles(), rtol=0, atol=0.03)


def test_it_is_the_loop_of_diffusers_pipelines_for_flux():
    pipeline = tiny_pipeline()
    pipeline.scheduler = TRAINED
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = pipeline(2, noise=noise, num_inference_steps=6, output_type="pt").images

    scheduler, x = FlowMatchEulerDiscreteScheduler(), noise
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 6, 6).tolist())
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(pipeline.unet(x, t.expand(2)).sample, t, x).prev_sample
    torch.testing.assert_close(drawn, (x / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


# ------------------------------------------------------------------ what a callback sees


@pytest.mark.parametrize("name", ["euler", "heun", "dpmsolver++", "unipc"])
def test_a_callback_sees_the_data_that_each_point_moves_towards(name):
    seen = []
    drawn = points(make_sampler(name, TRAINED), 5, callback_on_step_end=lambda *step: seen.append(step) or {})
    assert len(seen) == (9 if name == "heun" else 5) and torch.equal(seen[-1][3]["prev_sample"], drawn)
    for _, _, t, tensors in seen:
        variance = (1 - t / 1000) ** 2 * DEVIATION**2 + (t / 1000) ** 2
        share = (1 - t / 1000) * DEVIATION**2 / variance
        expected = MEAN + share * (tensors["sample"] - (1 - t / 1000) * MEAN)  # the mean of x_0 given x_t
        torch.testing.assert_close(tensors["pred_original_sample"], expected, rtol=0, atol=1e-5)
    assert seen[0][2] == pytest.approx(1000, abs=1.01)


# ------------------------------------------------------------------ saving and loading


def tiny_flow(num_classes: int | None = None) -> ImprovedDDPMPipeline:
    unet = tiny_unet(num_classes=num_classes)
    if num_classes is None:
        return ImprovedDDPMPipeline(unet, flow_scheduler({"num_train_timesteps": 1000}))
    return ClassConditionalDDPMPipeline(unet, flow_scheduler({"num_train_timesteps": 1000}))


def draw(pipeline: ImprovedDDPMPipeline, *arguments: object) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    more = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": 4, "output_type": "pt"}
    return pipeline(*arguments, **more).images


@pytest.mark.parametrize("load", [DiffusionPipeline.from_pretrained, lambda folder: load_pipeline(str(folder))])
def test_a_saved_pipeline_draws_the_same(load, tmp_path):
    pipeline = tiny_flow()
    pipeline.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is ImprovedDDPMPipeline and type(loaded.scheduler) is FlowMatchEulerDiscreteScheduler
    assert torch.equal(draw(loaded, 3), draw(pipeline, 3))
    for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "FlowMatchHeunDiscreteScheduler"):
        for one in (pipeline, loaded):
            one.scheduler = getattr(diffusers, name).from_config(one.scheduler.config)
        assert torch.equal(draw(loaded, 3), draw(pipeline, 3))


def test_a_saved_class_conditional_pipeline_draws_the_same_with_guidance(tmp_path):
    pipeline = tiny_flow(num_classes=3)
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert torch.equal(draw(loaded, [0, 2], 2.0), draw(pipeline, [0, 2], 2.0))
    assert not torch.allclose(draw(loaded, [0, 2], 2.0), draw(loaded, [0, 2], 1.0), atol=1e-3)


def test_samplers_made_from_one_another_know_what_was_trained(tmp_path):
    for scheduler in (TRAINED, FlowMatchEulerDiscreteScheduler(shift=2.0), *SECOND_ORDER.values()):
        scheduler.save_pretrained(tmp_path)
        for one in (scheduler, type(scheduler).from_pretrained(tmp_path)):
            assert is_flow_matching(one) and isinstance(sampler_for(one), FlowSampler)
            assert isinstance(scheduler_of_training(one), FlowMatchEulerDiscreteScheduler)
            assert process_of(one).num_timesteps == 1000 and default_sampler(one) == "euler"


def test_flow_sigmas_are_left_alone_on_a_ddpm():
    plain, flowing = tiny_pipeline(), tiny_pipeline()
    kind = diffusers.DPMSolverMultistepScheduler
    plain.scheduler = kind.from_config(plain.scheduler.config)
    flowing.scheduler = kind.from_config(flowing.scheduler.config, use_flow_sigmas=True)
    assert torch.equal(draw(plain, 2), draw(flowing, 2))


# ------------------------------------------------------------------ refusals


NOT_OF_FLOWS = ["DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DEISMultistepScheduler"]


@pytest.mark.parametrize("name", NOT_OF_FLOWS)
def test_samplers_of_noise_schedules_are_refused(name):
    with pytest.raises(ValueError, match=f"`scheduler` is {name}, and the model was trained by flow matching"):
        points(of_class(name), 3)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "pndm", "deis", "euler_ancestral"])
def test_names_of_such_samplers_are_refused(name):
    with pytest.raises(ValueError, match=f"`sampler` is '{name}', .*: one of euler, heun, dpmsolver\\+\\+, unipc is"):
        make_sampler(name, TRAINED)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_schedulers_of_flow_matching_are_refused_on_a_ddpm(name):
    pipeline = tiny_pipeline()
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)
    with pytest.raises(ValueError, match=f"`scheduler` is {name}, which does not sample from a noise schedule"):
        draw(pipeline, 1)


@pytest.mark.parametrize(
    ("settings", "arguments", "sentence"),
    [
        ({"use_dynamic_shifting": True}, {}, "`use_dynamic_shifting` of FlowMatchEulerDiscreteScheduler is true"),
        ({"invert_sigmas": True}, {}, "`invert_sigmas` of FlowMatchEulerDiscreteScheduler is true"),
        ({}, {"eta": 0.5}, "`eta` is 0.5: samplers of flow matching have no such setting"),
        ({}, {"steps": 0}, "`num_inference_steps` is 0: .* 1 to 1000 is accepted"),
        ({}, {"steps": 1001}, "`num_inference_steps` is 1001"),
        ({}, {"steps": "ddim50"}, "`num_inference_steps` is 'ddim50'"),
    ],
)
def test_a_mistake_gets_one_sentence(settings, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        points(FlowMatchEulerDiscreteScheduler(**settings), **{"steps": 3, **arguments})
