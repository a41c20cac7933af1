import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor

from ddpm_ext import ImprovedDDPMScheduler, MLPDenoiser, PointsDDPMPipeline
from ddpm_ext.pipelines.loading import load_pipeline


def tiny(num_classes: int | None = None, **scheduler: object) -> PointsDDPMPipeline:
    torch.manual_seed(0)
    scheduler = ImprovedDDPMScheduler(**{"beta_schedule": "cosine", **scheduler})
    channels = scheduler.parameterization.output_channels(2)
    classes = None if num_classes is None else num_classes + 1
    pipeline = PointsDDPMPipeline(MLPDenoiser(2, channels, (16, 16), classes), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: PointsDDPMPipeline, *arguments: object, **more: object) -> Tensor:
    more = {"num_inference_steps": 6, **more}
    return pipeline(*arguments, generator=torch.Generator().manual_seed(0), **more).points


class GaussianOracle(MLPDenoiser):
    """The noise that is expected in x_t when the data are N(mean, std^2 I)."""

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput:
        process, t = ImprovedDDPMScheduler().process, timestep[0].item()  # a stock sampler's may be fractional
        signal = process.coefficient("sqrt_alphas_cumprod", t, sample)
        noise = process.coefficient("sqrt_one_minus_alphas_cumprod", t, sample)
        mean, variance = torch.tensor([0.3, -0.2]), 0.1**2
        x_0 = mean + signal * variance * (sample - signal * mean) / (signal**2 * variance + noise**2)
        return UNet2DOutput(sample=(sample - signal * x_0) / noise)


@pytest.mark.parametrize("sampler", ["ours", "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_points_of_a_perfect_network_are_those_of_the_data(sampler):
    pipeline = PointsDDPMPipeline(GaussianOracle(), ImprovedDDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    if sampler != "ours":
        pipeline.scheduler = getattr(diffusers, sampler).from_config(pipeline.scheduler.config)
    points = draw(pipeline, 4000, num_inference_steps=250)
    assert points.shape == (4000, 2)
    # 4,000 points, of which the standard error is 0.0016, and few steps, which make ancestral samples too narrow
    torch.testing.assert_close(points.mean(0), torch.tensor([0.3, -0.2]), rtol=0, atol=0.02)
    torch.testing.assert_close(points.std(0), torch.tensor([0.1, 0.1]), rtol=0, atol=0.02)


def test_a_saved_pipeline_opens_with_plain_diffusers_and_draws_the_same(tmp_path):
    pipeline = tiny(num_classes=3)
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is PointsDDPMPipeline and type(loaded.unet) is MLPDenoiser
    assert torch.equal(draw(loaded, 4, [0, 1, 2, 0], 2.0), draw(pipeline, 4, [0, 1, 2, 0], 2.0))


@pytest.mark.parametrize("variance_type", ["fixed_small", "learned", "learned_range"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction", "mean"])
def test_every_prediction_and_variance_type_is_sampled(prediction_type, variance_type):
    points = draw(tiny(prediction_type=prediction_type, variance_type=variance_type), 5)
    assert points.shape == (5, 2) and points.isfinite().all()


def test_guidance_1_is_the_class_and_0_is_none():
    pipeline = tiny(num_classes=3)
    assert torch.equal(draw(pipeline, 4, 1), draw(pipeline, 4, torch.ones(4, dtype=torch.int64)))
    torch.testing.assert_close(draw(pipeline, 4, 1, 0.0), draw(pipeline, 4), rtol=0, atol=1e-5)
    assert not torch.allclose(draw(pipeline, 4, 1, 3.0), draw(pipeline, 4, 1), atol=1e-3)


def test_a_callback_sees_every_step():
    seen = []
    pipeline = tiny()
    points = draw(pipeline, 4, callback_on_step_end=lambda *step: seen.append(step) or {})
    assert [step for _, step, _, _ in seen] == list(range(6)) and pipeline.num_timesteps == 6
    assert torch.equal(seen[-1][3]["prev_sample"], points)


@pytest.mark.parametrize(
    ("classes", "arguments", "sentence"),
    [
        (None, {"class_labels": 1}, "`class_labels` was given, but the model is unconditional"),
        (None, {"guidance_scale": 2.0}, "`guidance_scale` is 2.0, but no `class_labels`"),
        (3, {"class_labels": 3}, "`class_labels` holds 3: 0 to 2 are accepted"),
        (3, {"class_labels": [0, 1]}, "or one for each of 4 points"),
        (3, {"class_labels": 0.5}, "whole number"),
        (3, {"noise": torch.zeros(4, 3)}, r"`noise` has shape \(4, 3\): \(4, 2\) is accepted"),
        (None, {"num_points": 0}, "`num_points` is 0"),
    ],
)
def test_a_mistake_gets_one_sentence(classes, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw(tiny(classes), **{"num_points": 4, **arguments})


def test_scripts_for_images_refuse_points(tmp_path):
    tiny().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a PointsDDPMPipeline"):
        load_pipeline(str(tmp_path))
