import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput

from ddpm_ext import ClassConditionalUNet2DModel, ImprovedUNet2DModel
from ddpm_ext.models import is_stock, unet_config, zero_initialize
from tests.conftest import tiny_unet


def test_no_labels_mean_the_null_class():
    unet = tiny_unet(num_classes=3)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    null = torch.full((2,), unet.null_class)
    torch.testing.assert_close(unet(x, t).sample, unet(x, t, null).sample, rtol=0, atol=0)


def test_the_null_class_is_the_last_row_and_no_class():
    unet = tiny_unet(num_classes=3)
    assert (unet.num_classes, unet.null_class, unet.class_embedding.num_embeddings) == (3, 3, 4)


def test_labels_decide_the_output():
    unet = tiny_unet(num_classes=3)
    x, t = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1), torch.tensor([500] * 4)
    outputs = unet(x, t, torch.arange(4)).sample
    for i in range(4):
        for j in range(i):
            assert (outputs[i] - outputs[j]).abs().max() > 1e-4


def test_a_timestep_may_be_a_number_or_one_per_sample():
    unet = tiny_unet(num_classes=3)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(unet(x, 5).sample, unet(x, torch.tensor([5, 5])).sample)
    torch.testing.assert_close(unet(x, 5).sample, unet(x, 5, return_dict=False)[0], rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{}, {"num_class_embeds": 1}, {"class_embed_type": "timestep"}])
def test_a_network_without_classes_says_what_it_needs(settings):
    unet = ClassConditionalUNet2DModel(**{**unet_config((8, 8), 1, block_out_channels=(8, 16)), **settings})
    with pytest.raises(ValueError, match=r"`num_class_embeds` is .* number of classes \+ 1"):
        _ = unet.num_classes


@pytest.mark.parametrize("shift", ["default", "scale_shift"])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_zero_initialized_networks_start_by_predicting_0(num_classes, shift):
    config = unet_config(
        (8, 8), 1, True, num_classes, (8, 16), attention_resolutions=(4,), resnet_time_scale_shift=shift
    )
    unet = (UNet2DModel if num_classes is None else ClassConditionalUNet2DModel)(**config)
    zero_initialize(unet)
    x = torch.randn(2, 1, 8, 8)
    labels = () if num_classes is None else (torch.tensor([0, 1]),)
    assert torch.equal(unet(x, torch.tensor([0, 999]), *labels).sample, torch.zeros(2, 2, 8, 8))


def test_zero_initialized_networks_can_learn():
    unet = tiny_unet()
    zero_initialize(unet)
    unet(torch.randn(2, 1, 8, 8), 3).sample.sub(1).pow(2).mean().backward()
    assert unet.conv_out.weight.grad.abs().max() > 0


@pytest.mark.parametrize("sample_size", [(8, 8), (8, 16), (24, 16)])
@pytest.mark.parametrize("learns_variance", [False, True])
def test_images_need_not_be_square(sample_size, learns_variance):
    unet = tiny_unet(3, learns_variance, sample_size=sample_size)
    x = torch.randn(1, 3, *sample_size)
    assert unet(x, 3).sample.shape == (1, 6 if learns_variance else 3, *sample_size)
    height, width = sample_size
    assert unet.config.sample_size == (height if height == width else sample_size)


@pytest.mark.parametrize(
    "sample_size, widths, sentence",
    [
        ((30, 30), (8, 8, 8), r"`resolution` is 30x30: .* multiples of 4, for example 32x32; or give fewer"),
        ((8, 9), (8, 16), r"`resolution` is 8x9: .* multiples of 2, for example 8x8"),
        ((8, 2), (8, 8, 8), r"`resolution` is 8x2: .* for example 8x4"),
    ],
)
def test_a_size_that_cannot_be_halved_says_which_can(sample_size, widths, sentence):
    with pytest.raises(ValueError, match=sentence):
        unet_config(sample_size, 1, block_out_channels=widths)


def test_the_sizes_that_an_error_suggests_are_accepted():
    for size in range(1, 40):
        try:
            unet_config((size, 2 * size), 1, block_out_channels=(8, 8, 8))
        except ValueError as error:
            suggested = str(error).split("for example ")[1].split(";")[0]
            unet_config(tuple(int(side) for side in suggested.split("x")), 1, block_out_channels=(8, 8, 8))


def test_attention_stands_where_it_is_asked_for():
    config = unet_config((32, 64), 3, block_out_channels=(8, 8, 16), attention_resolutions=(16,))
    assert config["down_block_types"] == ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D")
    assert config["up_block_types"] == ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    assert config["sample_size"] == (32, 64)
    config = unet_config((32, 32), 3)
    assert config["down_block_types"] == ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    assert config["block_out_channels"] == (128, 256, 256, 256)


def test_attention_at_a_size_that_does_not_occur_is_refused():
    with pytest.raises(ValueError, match=r"`attention_resolutions` holds 5: .* \[8, 4\] high"):
        unet_config((8, 8), 1, block_out_channels=(8, 16), attention_resolutions=(4, 5))


@pytest.mark.parametrize("widths", [(8, 16), (24, 40), (7, 14), (64, 96)])
def test_widths_need_not_be_multiples_of_32(widths):
    config = unet_config((8, 8), 1, block_out_channels=widths, attention_resolutions=())
    assert all(width % config["norm_num_groups"] == 0 for width in widths)
    assert UNet2DModel(**config)(torch.randn(1, 1, 8, 8), 3).sample.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    "widths, groups",
    [((128, 256), 32), ((256, 512), 32), ((96, 192), 24), ((64, 128), 16), ((32, 64), 8), ((16, 24), 4), ((3, 6), 1)],
)
def test_groups_have_at_least_four_channels_where_there_are_as_many(widths, groups):
    config = unet_config((8, 8), 1, block_out_channels=widths, attention_resolutions=(), attention_head_dim=3)
    assert config["norm_num_groups"] == groups


def test_groups_can_be_chosen_where_they_divide_the_widths():
    common = {"block_out_channels": (32, 48), "attention_resolutions": (), "resnet_time_scale_shift": "scale_shift"}
    config = unet_config((8, 8), 1, norm_num_groups=16, **common)
    assert config["norm_num_groups"] == config["attn_norm_num_groups"] == 16
    with pytest.raises(ValueError, match=r"`norm_num_groups` is 32: 48 channels, one of `block_out_channels`, are no"):
        unet_config((8, 8), 1, norm_num_groups=32, **common)


def test_a_network_of_ours_can_say_how_bright_the_noise_is():
    """With one channel in each group it cannot, but for what the border of an image gives away."""

    def spread_of_means(**options: int) -> torch.Tensor:
        torch.manual_seed(0)
        unet = UNet2DModel(
            **unet_config((32, 32), 1, block_out_channels=(16, 32), attention_resolutions=(), **options)
        )
        noise = torch.randn(16, 1, 32, 32) + torch.randn(16, 1, 1, 1)
        with torch.no_grad():
            output = unet(noise, torch.zeros(16)).sample
        return output.mean((1, 2, 3)).std() / output.std()

    assert spread_of_means() > 5 * spread_of_means(norm_num_groups=16)


def test_heads_wider_than_the_network_are_refused():
    with pytest.raises(ValueError, match="`attention_head_dim` is 32.*has 8 channels"):
        unet_config((8, 8), 1, block_out_channels=(8, 16), attention_head_dim=32)


# ------------------------------------------------------------------ what UNet2DModel cannot say

ATTENDED = unet_config((8, 8), 1, False, None, (8, 16), attention_resolutions=(8, 4))


def wide(**changes: object) -> ImprovedUNet2DModel:
    torch.manual_seed(0)
    return ImprovedUNet2DModel(**{**ATTENDED, **changes}).eval()


def is_close(a: UNet2DOutput, b: UNet2DOutput) -> bool:
    return torch.allclose(a.sample, b.sample, rtol=0, atol=1e-5)  # float32


def test_with_a_stock_configuration_it_is_the_stock_network():
    ours, stock = wide(), UNet2DModel(**ATTENDED).eval()
    stock.load_state_dict(ours.state_dict())
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 37, 999])
    assert is_stock(ours.config)
    assert is_close(ours(x, t), stock(x, t))
    assert is_close(ours(x, t.float() / 3), stock(x, t.float() / 3))


def test_levels_of_different_widths_may_have_equally_many_heads(tmp_path):
    unet = wide(attention_head_dim=[4, 8])
    attentions = [block.attentions[0] for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)]
    assert [(a.heads, a.inner_dim) for a in attentions] == [(2, 8), (2, 16), (2, 16), (2, 16), (2, 8)]
    unet.save_pretrained(tmp_path)
    x = torch.randn(1, 1, 8, 8)
    assert is_close(ImprovedUNet2DModel.from_pretrained(tmp_path)(x, 5), unet(x, 5))
    alike = wide(attention_head_dim=[8, 8])
    assert is_close(alike(x, 5), wide(attention_head_dim=8)(x, 5))
    assert not is_close(alike(x, 5), unet(x, 5))


def test_timesteps_may_be_rescaled_and_sinusoids_as_many_as_the_embedding_asks_for(tmp_path):
    plain = wide(time_embedding_dim=32)
    rescaled = wide(time_embedding_dim=32, time_embedding_type="openai", num_train_timesteps=4000)
    rescaled.load_state_dict(plain.state_dict())
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 3999])
    assert is_close(rescaled(x, t), plain(x, t / 4))
    assert wide(time_embedding_dim=64, time_embedding_type="openai").time_embedding.linear_1.in_features == 16
    rescaled.save_pretrained(tmp_path)
    assert is_close(ImprovedUNet2DModel.from_pretrained(tmp_path)(x, t), rescaled(x, t))


def test_a_number_as_timestep_keeps_its_fraction():
    unet, x = wide(), torch.randn(1, 1, 8, 8)
    assert is_close(unet(x, 3.5), unet(x, torch.tensor([3.5])))
    assert not is_close(unet(x, 3.5), unet(x, 3))


@pytest.mark.parametrize("changes", [{"attention_head_dim": [4, 8]}, {"time_embedding_type": "openai"}])
def test_a_stock_network_refuses_what_it_would_compute_otherwise(changes, tmp_path):
    unet = wide(**changes)
    assert not is_stock(unet.config)
    unet.save_pretrained(tmp_path)
    with pytest.raises((TypeError, UnboundLocalError)):
        UNet2DModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "widths, sentence", [([8], "holds 1 widths: one per level, 2"), ([3, 8], "holds 3: .* has 8 channels")]
)
def test_widths_of_heads_that_do_not_fit_are_refused(widths, sentence):
    with pytest.raises(ValueError, match=f"`attention_head_dim` {sentence}"):
        wide(attention_head_dim=widths)
