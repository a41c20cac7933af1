import json

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from ddpm_ext import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline, ImprovedDDPMScheduler
from ddpm_ext.pipelines.guidance import guided_output
from ddpm_ext.pipelines.loading import load_pipeline
from tests.conftest import NAMES, tiny_class_conditional, tiny_pipeline, tiny_unet


TOLERANCE = {"rtol": 0, "atol": 1e-4}  # float32 through a few steps; one level of 8 bits is 4e-3


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(pipeline, seed: int = 0, steps: int = 4, **arguments: object) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return pipeline(generator=generator, num_inference_steps=steps, output_type="pt", **arguments).images


# ------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_output_types_are_the_same_image(channels, mode):
    pipeline = tiny_pipeline(channels, sample_size=(8, 16))
    tensor = draw(pipeline, batch_size=2)
    assert tensor.shape == (2, channels, 8, 16) and tensor.min() >= 0 and tensor.max() <= 1

    def again(output_type: str) -> object:
        return pipeline(2, torch.Generator().manual_seed(0), 4, output_type=output_type).images

    array, pictures = again("np"), again("pil")
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert all(isinstance(picture, Image.Image) and picture.mode == mode for picture in pictures)
    assert pictures[0].size == (16, 8)
    expected = (tensor[1] * 255).round().to(torch.uint8).permute(1, 2, 0).squeeze(2 if channels == 1 else ()).numpy()
    np.testing.assert_array_equal(np.asarray(pictures[1]), expected)


def test_without_return_dict_there_is_a_tuple(pipeline, class_conditional):
    result = pipeline(num_inference_steps=2, return_dict=False)
    assert isinstance(result, tuple) and len(result) == 1 and len(result[0]) == 1
    assert isinstance(class_conditional(0, num_inference_steps=2, return_dict=False), tuple)


def test_an_unknown_output_type_is_refused(pipeline):
    with pytest.raises(ValueError, match="`output_type` is 'latent': 'pil', 'np' or 'pt' is accepted"):
        pipeline(output_type="latent")


# ------------------------------------------------------------------ what decides an image


def test_the_same_seed_gives_the_same_image_after_saving_and_loading(class_conditional, tmp_path):
    before = draw(class_conditional, class_labels=["bird", "airplane"], guidance_scale=2.0)
    assert torch.equal(draw(class_conditional, class_labels=["bird", "airplane"], guidance_scale=2.0), before)
    class_conditional.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded, class_labels=["bird", "airplane"], guidance_scale=2.0), before)
    assert not torch.equal(draw(class_conditional, 1, class_labels=["bird", "airplane"], guidance_scale=2.0), before)


@pytest.mark.parametrize("scheduler", ["ours", "EulerAncestralDiscreteScheduler", "SASolverScheduler"])
def test_with_a_generator_per_image_an_image_does_not_depend_on_its_batch(pipeline, scheduler):
    import diffusers

    if scheduler != "ours":
        pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
    together = pipeline(3, generators(5, 6, 7), 6, output_type="pt").images
    alone = pipeline(1, generators(6), 6, output_type="pt").images
    torch.testing.assert_close(alone[0], together[1], **TOLERANCE)
    reversed_ = pipeline(3, generators(7, 6, 5), 6, output_type="pt").images
    torch.testing.assert_close(reversed_.flip(0), together, **TOLERANCE)


def test_a_list_of_generators_must_have_one_per_image(pipeline, class_conditional):
    with pytest.raises(ValueError, match="`generator` is a list of 2: one per sample, here 3, is accepted"):
        pipeline(3, generators(1, 2), 2)
    with pytest.raises(ValueError, match="`generator` is a list of 2: one per sample, here 1, is accepted"):
        class_conditional(0, generator=generators(1, 2), num_inference_steps=2)


def test_noise_replaces_the_draw_of_x_T(pipeline):
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    given = [draw(pipeline, seed, batch_size=2, noise=noise, eta=0.0) for seed in (1, 2)]
    assert torch.equal(*given)  # without noise on the way, x_T decides everything
    torch.testing.assert_close(given[0], draw(pipeline, 0, batch_size=2, eta=0.0), **TOLERANCE)
    with pytest.raises(ValueError, match=r"`noise` has shape \(2, 1, 8, 8\): \(3, 1, 8, 8\) is accepted"):
        pipeline(3, noise=noise, num_inference_steps=2)


def test_eta_runs_from_deterministic_to_noisy(pipeline):
    noise = torch.randn(1, 1, 8, 8)
    still = draw(pipeline, 1, noise=noise, eta=0.0)
    assert torch.equal(draw(pipeline, 2, noise=noise, eta=0.0), still)
    assert not torch.equal(draw(pipeline, 1, noise=noise, eta=1.0), draw(pipeline, 2, noise=noise, eta=1.0))
    # fixed_small is DDIM at eta = 1 (Song et al. 2021, section 4.1)
    torch.testing.assert_close(draw(pipeline, 1, noise=noise, eta=1.0), draw(pipeline, 1, noise=noise), **TOLERANCE)


def test_steps_may_be_in_openais_notation(pipeline):
    assert torch.equal(draw(pipeline, steps="5"), draw(pipeline, steps=5))
    assert not torch.equal(draw(pipeline, steps="2,3"), draw(pipeline, steps=5))


def test_the_users_scheduler_is_left_as_it_was(class_conditional):
    class_conditional.scheduler.set_timesteps(7)
    config = dict(class_conditional.scheduler.config)
    class_conditional.scheduler.eta = 0.0
    draw(class_conditional, class_labels=0, eta=1.0)
    assert class_conditional.scheduler.eta == 0.0
    assert dict(class_conditional.scheduler.config) == config


def test_half_precision_networks_sample_in_single_precision():
    pipeline = tiny_pipeline()
    reference = draw(pipeline, steps=3)
    pipeline.to(torch.bfloat16)
    images = draw(pipeline, steps=3)
    assert pipeline.unet.dtype == torch.bfloat16
    assert images.dtype == torch.float32 and images.isfinite().all()
    torch.testing.assert_close(images, reference, rtol=0, atol=0.1)  # bfloat16 has 8 bits, and steps amplify


@pytest.mark.parametrize("disable", [False, True])
def test_the_progress_bar_counts_steps_and_can_be_turned_off(pipeline, capsys, disable):
    pipeline.set_progress_bar_config(disable=disable)
    draw(pipeline, steps=5)
    shown = capsys.readouterr().err
    assert shown == "" if disable else "5/5" in shown


# ------------------------------------------------------------------ classes


def test_classes_are_asked_for_by_name_by_id_or_both(class_conditional):
    assert class_conditional.class_names == list(NAMES)
    expected = draw(class_conditional, class_labels=[2, 0, 1])
    for labels in (["bird", "airplane", "automobile"], ["bird", 0, "1"], torch.tensor([2, 0, 1]), (2, 0, 1)):
        assert torch.equal(draw(class_conditional, class_labels=labels), expected)
    for one in ("bird", 2, [2], torch.tensor(2), np.int64(2)):
        assert class_conditional.label_ids(one) == [2]


@pytest.mark.parametrize(
    "labels, sentence",
    [
        ("brid", r"`class_labels` holds 'brid': ids 0 to 2 or names \(airplane, .* Did you mean 'bird'\?"),
        (["bird", "xyz"], r"`class_labels` holds 'xyz': ids 0 to 2 or names \([^)]*\) are accepted\.$"),
        (3, r"`class_labels` holds 3: ids 0 to 2"),  # the null class is no class
        ([0, -1], r"`class_labels` holds -1: ids 0 to 2"),
        ("-1", r"`class_labels` holds '-1'"),
        (1.5, r"`class_labels` holds 1\.5"),
        ([0, 1.5], r"`class_labels` holds 1\.5"),
        ([True], r"`class_labels` holds True"),
        ([None], r"`class_labels` holds None"),
        ([], r"`class_labels` is empty"),
        (torch.tensor([[0, 1]]), r"`class_labels` holds \[0, 1\]"),
    ],
)
def test_what_is_no_class_is_refused(class_conditional, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        class_conditional(labels, num_inference_steps=2)


def test_names_that_look_like_numbers_are_names():
    pipeline = tiny_class_conditional(("5", "1", "7"))
    assert pipeline.label_ids(["5", "7", "1", "0", 1]) == [0, 2, 1, 0, 1]


def test_without_names_ids_are_the_names():
    scheduler = ImprovedDDPMScheduler(variance_type="learned_range")
    pipeline = ClassConditionalDDPMPipeline(tiny_unet(learns_variance=True, num_classes=3), scheduler)
    assert pipeline.class_names == ["0", "1", "2"]
    assert pipeline.label_ids("2") == [2]


def test_two_class_names_survive_saving_and_loading(tmp_path):
    """diffusers takes a list of two for a library and a class; hence a dictionary."""
    tiny_class_conditional(("cat", "dog")).save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert loaded.class_names == ["cat", "dog"]
    assert loaded.label_ids(["dog", "cat"]) == [1, 0]


# ------------------------------------------------------------------ guidance


class LabelledConstants(nn.Module):
    """Says `mean + label` for each pixel and, as variance, `variance + label`; counts what it is asked."""

    null_class = num_classes = 3
    knows_null_class = True
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.config = tiny_unet(num_classes=3, learns_variance=True).config
        self.asked: list[list[int]] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> UNet2DOutput:
        assert len(x) == len(t) == len(labels)
        self.asked.append(labels.tolist())
        label = labels.view(-1, 1, 1, 1).float()
        return UNet2DOutput(torch.cat([x + 10 * (label + 1), torch.ones_like(x) * label / 10], dim=1))


@pytest.fixture
def constants(class_conditional) -> LabelledConstants:
    class_conditional.unet = LabelledConstants()
    return class_conditional.unet


@pytest.mark.parametrize("guidance_scale", [0.0, 0.5, 1.5, 4.0])
def test_guidance_moves_the_mean_and_keeps_the_variance_of_the_class(class_conditional, constants, guidance_scale):
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    output = guided_output(class_conditional.unet, x, torch.tensor([5, 5]), labels, guidance_scale)
    assert constants.asked == [[0, 2, 3, 3]]
    conditional, unconditional = 10 * (labels + 1), 40
    expected = x + (unconditional + guidance_scale * (conditional - unconditional)).view(2, 1, 1, 1)
    torch.testing.assert_close(output[:, :1], expected)
    torch.testing.assert_close(output[:, 1:], (labels / 10).view(2, 1, 1, 1).expand(2, 1, 8, 8))


def test_without_guidance_the_network_runs_once_per_image(class_conditional, constants):
    draw(class_conditional, class_labels=[1, 0], steps=3)
    assert constants.asked == [[1, 0]] * 3
    draw(class_conditional, class_labels=[1, 0], steps=3, guidance_scale=2.0)
    assert constants.asked[3:] == [[1, 0, 3, 3]] * 3


def test_guidance_of_0_ignores_the_class_and_1_is_the_limit_of_more(class_conditional):
    noise = torch.randn(1, 1, 8, 8)

    def at(label: int, scale: float) -> Tensor:
        return draw(class_conditional, class_labels=label, guidance_scale=scale, noise=noise, eta=0.0)

    torch.testing.assert_close(at(0, 0.0), at(2, 0.0), **TOLERANCE)
    torch.testing.assert_close(at(0, 1.0), at(0, 1.0 + 1e-6), **TOLERANCE)


def test_guidance_needs_a_network_that_was_shown_images_without_their_class(class_conditional):
    table = class_conditional.unet.class_embedding.weight.data
    table[class_conditional.unet.null_class] = 0  # as in converted networks, which know classes only
    assert not class_conditional.unet.knows_null_class
    draw(class_conditional, class_labels=1)
    for scale in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"`guidance_scale` is .*: only 1 is accepted, .* training it further"):
            draw(class_conditional, class_labels=1, guidance_scale=scale)
    table[class_conditional.unet.null_class, 0] = 1e-6
    draw(class_conditional, class_labels=1, guidance_scale=1.5)


# ------------------------------------------------------------------ loading


def test_stock_pipelines_are_opened_as_ours(tmp_path):
    unet = tiny_unet()
    DDPMPipeline(unet, DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path))
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is ImprovedDDPMPipeline and type(loaded.unet) is UNet2DModel
    ours = ImprovedDDPMPipeline(unet, ImprovedDDPMScheduler(beta_schedule="cosine"))
    ours.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(loaded), draw(ours), **TOLERANCE)


def test_ours_are_opened_as_what_they_are(saved):
    assert type(load_pipeline(str(saved("class_conditional")))) is ClassConditionalDDPMPipeline
    assert type(load_pipeline(str(saved("unconditional")))) is ImprovedDDPMPipeline


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`model` is .*, which holds no pipeline: .*model_index\.json"):
        load_pipeline(str(tmp_path))


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_a_folder_as_google_published_them_is_opened_as_it_is(tmp_path):
    """As google/ddpm-cifar10-32: all files at the root, configs with few keys, attention by its first names."""
    torch.manual_seed(0)
    config = {
        "attention_head_dim": None,
        "block_out_channels": [16, 32],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "norm_num_groups": 16,
        "sample_size": 8,
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    }
    unet = UNet2DModel(**config).eval()
    weights = unet.state_dict()
    for new, old in OLD_NAMES.items():
        weights = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in weights.items()}
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    chain = {
        "beta_schedule": "linear",
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "variance_type": "fixed_large",
    }
    files = {
        "model_index": {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        },
        "config": {"_class_name": "UNet2DModel", **config},
        "scheduler_config": {"_class_name": "DDPMScheduler", **chain},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**content, "_diffusers_version": "0.1.1"}))

    ours = draw(ImprovedDDPMPipeline(unet, ImprovedDDPMScheduler(**chain)), batch_size=2)
    for pipeline in (load_pipeline(str(tmp_path)), ImprovedDDPMPipeline.from_pretrained(tmp_path)):
        assert type(pipeline) is ImprovedDDPMPipeline
        torch.testing.assert_close(draw(pipeline, batch_size=2), ours, **TOLERANCE)
