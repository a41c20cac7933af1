import diffusers
import pytest
import torch
from deepinv.models import DiffusersDenoiserWrapper
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from torch import Tensor

from ddpm_ext import ImprovedDDPMPipeline, ImprovedDDPMScheduler, ImprovedUNet2DModel
from ddpm_ext.diffusion import VARIANCE_TYPES
from ddpm_ext.sharing.plain_diffusers import closest_fixed_variance, to_plain_diffusers
from tests.conftest import tiny_class_conditional, tiny_unet


TOLERANCE = {"rtol": 0, "atol": 2e-4}  # stock tables are float32, whose variances are off by up to 4e-4 of themselves

STOCK_PREDICTIONS = ("epsilon", "sample", "v_prediction")


def model(
    prediction_type: str = "epsilon", variance_type: str = "fixed_small", channels: int = 1, **scheduler: object
) -> ImprovedDDPMPipeline:
    learns = variance_type.startswith("learned")
    pipeline = ImprovedDDPMPipeline(
        tiny_unet(channels, learns),
        ImprovedDDPMScheduler(prediction_type=prediction_type, variance_type=variance_type, **scheduler),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, steps: int = 10, **arguments: object) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    arguments |= {"num_inference_steps": steps, "output_type": "np"}  # stock pipelines did not always know "pt"
    return torch.from_numpy(pipeline(batch_size=2, generator=generator, **arguments).images)


def outputs(unet: UNet2DModel, labels: list[int] | None = None) -> Tensor:
    x_t = torch.randn((3, unet.config.in_channels, 8, 8), generator=torch.Generator().manual_seed(1))
    labels = None if labels is None else torch.tensor(labels)
    with torch.no_grad():
        return unet(x_t, torch.tensor([0, 300, 999]), labels).sample


# ------------------------------------------------------------------ the same numbers


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("prediction_type", STOCK_PREDICTIONS)
def test_the_classes_are_stock_and_the_network_is_the_half_that_predicts(prediction_type, variance_type):
    pipeline = model(prediction_type, variance_type, channels=3)
    plain = to_plain_diffusers(pipeline).pipeline
    assert [type(part) for part in (plain, plain.unet, plain.scheduler)] == [DDPMPipeline, UNet2DModel, DDPMScheduler]
    torch.testing.assert_close(outputs(plain.unet), outputs(pipeline.unet)[:, :3], rtol=0, atol=1e-6)
    assert plain.scheduler.config.prediction_type == prediction_type
    assert plain.scheduler.config.variance_type in ("fixed_small", "fixed_large")


SCHEDULES = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "linear", "num_train_timesteps": 250, "beta_start": 4e-4, "beta_end": 0.08},
    {"beta_schedule": "quad"},
    {"beta_schedule": "cosine"},
    {"beta_schedule": "sigmoid", "num_train_timesteps": 400},
    {"beta_schedule": "linear", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"beta_schedule": "sigmoid", "rescale_betas_zero_snr": True, "prediction_type": "sample"},
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stock_schedulers_read_the_same_noise_schedule(schedule, tmp_path):
    pipeline = model(**schedule)
    to_plain_diffusers(pipeline).pipeline.save_pretrained(tmp_path)
    stock = DDPMPipeline.from_pretrained(tmp_path).scheduler
    expected = pipeline.scheduler.process.table["alphas_cumprod"].float()
    for scheduler in (stock, DDIMScheduler.from_config(stock.config)):
        torch.testing.assert_close(scheduler.alphas_cumprod, expected, rtol=2e-5, atol=1e-7)  # T products in float32


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("prediction_type", STOCK_PREDICTIONS)
@pytest.mark.parametrize("beta_schedule", ["linear", "cosine"])
def test_the_stock_pipeline_draws_what_ours_draws(prediction_type, variance_type, beta_schedule):
    pipeline = model(prediction_type, variance_type, beta_schedule=beta_schedule)
    exported = to_plain_diffusers(pipeline)
    assert exported.left_out == ()
    torch.testing.assert_close(draw(exported.pipeline), draw(pipeline), **TOLERANCE)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stock_ddim_draws_what_ours_draws(schedule):
    """Where both step between the same timesteps, and stock DDIM is told to take the noise from the clipped x_0."""
    pipeline = model(timestep_spacing="trailing", **schedule)
    plain = to_plain_diffusers(pipeline).pipeline
    stock = DDIMPipeline(plain.unet, DDIMScheduler.from_config(plain.scheduler.config))
    torch.testing.assert_close(draw(stock, use_clipped_model_output=True), draw(pipeline, eta=0.0), **TOLERANCE)


@pytest.mark.parametrize("sampler", ["DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep"])
def test_the_samplers_that_clip_nothing_of_their_own_clip_x_0_as_ours(sampler):
    """At the end of a cosine schedule an x_0 that is not clipped is in the thousands."""
    pipeline = model(beta_schedule="cosine")
    plain = to_plain_diffusers(pipeline).pipeline
    scheduler = getattr(diffusers, f"{sampler}Scheduler").from_config(plain.scheduler.config)
    scheduler.set_timesteps(10)
    x = torch.randn((2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(plain.unet(x, t).sample, t, x).prev_sample
    assert x.abs().max() < 2
    unclipped = model(beta_schedule="cosine", clip_sample=False)
    assert not to_plain_diffusers(unclipped).pipeline.scheduler.config.thresholding


def test_half_precision_is_kept():
    pipeline = model(variance_type="learned_range")
    pipeline.to(torch.bfloat16)
    plain = to_plain_diffusers(pipeline).pipeline
    assert plain.unet.dtype == torch.bfloat16 and plain.unet.config.out_channels == 1


def test_the_export_is_independent_of_the_model():
    pipeline = model(variance_type="learned_range")
    plain = to_plain_diffusers(pipeline).pipeline
    before = outputs(plain.unet)
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter.zero_()
    assert torch.equal(outputs(plain.unet), before)
    assert pipeline.unet.config.out_channels == 2 and pipeline.scheduler.config.variance_type == "learned_range"


# ------------------------------------------------------------------ what is lost


@pytest.mark.parametrize("level, closest", [(1.0, "fixed_large"), (0.4, "fixed_large"), (-0.4, "fixed_small")])
def test_the_closest_fixed_variance_is_that_of_the_learned_range(level, closest):
    scheduler = ImprovedDDPMScheduler(variance_type="learned_range", beta_schedule="cosine")

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x_t, torch.full_like(x_t, level)], dim=1)

    assert closest_fixed_variance(scheduler, predict, (1, 4, 4)) == closest


def test_what_is_left_out_is_named():
    learned = to_plain_diffusers(model(variance_type="learned_range"))
    assert len(learned.left_out) == 1 and "the learned variance ('fixed_" in learned.left_out[0]
    assert to_plain_diffusers(model()).left_out == ()
    whole, one = to_plain_diffusers(tiny_class_conditional()), to_plain_diffusers(tiny_class_conditional(), "bird")
    assert whole.left_out[1] == "class names and guidance"
    assert one.left_out[1] == "all other classes, and guidance"


# ------------------------------------------------------------------ classes


def test_a_class_conditional_network_is_used_with_labels():
    pipeline = tiny_class_conditional()
    plain = to_plain_diffusers(pipeline).pipeline
    for labels in ([0, 1, 2], [3, 3, 3]):  # 3 is "no class"
        torch.testing.assert_close(
            outputs(plain.unet, labels), outputs(pipeline.unet, labels)[:, :1], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("label, row", [("bird", 2), (0, 0), ("1", 1), ("none", 3)])
def test_one_class_becomes_an_unconditional_model(label, row):
    pipeline = tiny_class_conditional()
    plain = to_plain_diffusers(pipeline, label).pipeline
    assert plain.unet.config.num_class_embeds is None
    torch.testing.assert_close(outputs(plain.unet), outputs(pipeline.unet, [row] * 3)[:, :1], rtol=0, atol=1e-5)
    assert draw(plain, 3).shape == (2, 8, 8, 1)


# ------------------------------------------------------------------ what cannot be said


class Doubled(UNet2DModel):
    def forward(self, *arguments: object, **named: object):
        output = super().forward(*arguments, **named)
        output.sample = 2 * output.sample
        return output


def test_a_network_that_is_more_than_its_configuration_is_refused():
    pipeline = model()
    pipeline.unet.__class__ = Doubled
    with pytest.raises(ValueError, match="the network, a Doubled, computes something else"):
        to_plain_diffusers(pipeline)


def test_what_stock_classes_have_no_word_for_is_refused():
    with pytest.raises(ValueError, match=r"`format` is 'diffusers', but the model predicts the posterior mean"):
        to_plain_diffusers(model("mean"))
    pipeline = model()
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="was trained by flow matching, which a DDPMPipeline cannot sample from"):
        to_plain_diffusers(pipeline)
    pipeline.scheduler = EDMEulerScheduler()
    with pytest.raises(ValueError, match="EDMEulerScheduler has no noise schedule of betas"):
        to_plain_diffusers(pipeline)
    pipeline = model()
    pipeline.unet = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="the network is a Linear: a UNet2DModel is accepted"):
        to_plain_diffusers(pipeline)


def test_a_class_must_be_one_of_the_models():
    with pytest.raises(ValueError, match="`class_label` is 3, but the model knows no classes"):
        to_plain_diffusers(model(), 3)
    with pytest.raises(ValueError, match="`class_labels` holds 'brid': .* Did you mean 'bird'"):
        to_plain_diffusers(tiny_class_conditional(), "brid")


# ------------------------------------------------------------------ other libraries


@pytest.mark.parametrize("variance_type", ["fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction_type", STOCK_PREDICTIONS)
def test_deepinv_denoises_as_we_do(prediction_type, variance_type, tmp_path):
    pipeline = model(prediction_type, variance_type, channels=3, beta_schedule="linear")
    to_plain_diffusers(pipeline).pipeline.save_pretrained(tmp_path)
    denoiser = DiffusersDenoiserWrapper(str(tmp_path))
    process = pipeline.scheduler.process
    for t in (5, 400, 800):
        noise_over_signal = process.table["sqrt_one_minus_alphas_cumprod"][t] / process.table["sqrt_alphas_cumprod"][t]
        sigma = float(noise_over_signal) / 2  # deepinv's images are in [0, 1]
        noisy = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(t))
        with torch.no_grad():
            theirs = denoiser(noisy, sigma)
            x_t = (2 * noisy - 1) * process.table["sqrt_alphas_cumprod"][t].float()
            # deepinv turns the step into a float in [0, 1] and back, which may lose one
            step = int(torch.tensor(t).float() / 999 * 999)
            output = pipeline.unet(x_t, torch.tensor([step, step])).sample[:, :3]
            ours = pipeline.scheduler.parameterization.predict_x_0(process, output, x_t, t).clamp(-1, 1)
        torch.testing.assert_close(theirs, (ours + 1) / 2, rtol=0, atol=1e-3)


def test_a_network_that_only_ours_can_be_is_refused():
    config = {**tiny_unet().config, "attention_head_dim": [4, 8]}
    network = ImprovedUNet2DModel.from_config(config)
    with pytest.raises(ValueError, match="equally many heads on levels of different widths.*'self_contained'"):
        to_plain_diffusers(ImprovedDDPMPipeline(network, ImprovedDDPMScheduler()))
