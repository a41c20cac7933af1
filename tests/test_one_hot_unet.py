"""The small networks: what they compute, how they are built from a command line, and what batch norm keeps."""

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from ddpm_ext import ConvDenoiser, ImprovedDDPMPipeline, ImprovedDDPMScheduler, OneHotUNet2DModel


def tiny(**settings: object) -> OneHotUNet2DModel:
    torch.manual_seed(0)
    return OneHotUNet2DModel(**{"sample_size": 8, "in_channels": 1, "out_channels": 1} | settings).eval()


NARROW = {"block_out_channels": (8, 12, 16)}


def test_the_widths_are_those_of_the_practical_and_all_but_the_last_convolution_stride():
    unet = OneHotUNet2DModel(num_class_embeds=11)
    strided = [m for m in unet.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert [(c.in_channels, c.out_channels) for c in strided] == [
        (3, 72),
        (72, 96),
        (96, 128),
        (128, 196),
        (196, 256),
        (256 + 10, 196),  # the bottleneck, with the labels
        (196 + 196 + 10, 128),  # one level up
        (128 + 128, 96),
        (96 + 96, 72),
        (72 + 72, 36),
        (36 + 3, 3),  # beside the image itself
    ]
    assert {(c.kernel_size, c.stride, c.padding) for c in strided[:-1]} == {((4, 4), (2, 2), (1, 1))}
    assert unet(torch.randn(2, 3, 32, 32), 5).sample.shape == (2, 3, 32, 32)


def test_it_is_called_as_a_u_net_is_and_the_timestep_changes_nothing():
    unet, x = tiny(**NARROW), torch.randn(2, 1, 8, 8)
    output = unet(x, torch.tensor([3, 4])).sample
    assert output.shape == x.shape
    assert torch.equal(unet(x, 900, return_dict=False)[0], output)


def test_labels_decide_the_output_and_no_labels_are_the_null_class():
    unet = tiny(**NARROW, num_class_embeds=4)
    assert (unet.num_classes, unet.null_class) == (3, 3)
    x = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1)
    outputs = unet(x, 5, torch.arange(4)).sample
    torch.testing.assert_close(unet(x, 5).sample, outputs[3:].expand(4, -1, -1, -1))
    assert (outputs[:, None] - outputs[None]).abs().amax((2, 3, 4))[~torch.eye(4, dtype=bool)].min() > 1e-4


def test_the_null_class_is_maps_of_zeros():
    """So the weights of the labels are never asked for it."""
    unet = tiny(**NARROW, num_class_embeds=4)
    x = torch.randn(2, 1, 8, 8)
    expected = unet(x, 5).sample
    with torch.no_grad():
        unet.up_blocks[0][0].weight[-3:] = 7
        unet.up_blocks[1][0].weight[-3:] = 7
    assert torch.equal(unet(x, 5).sample, expected)
    assert not torch.equal(unet(x, 5, torch.tensor([0, 1])).sample, expected)


@pytest.mark.parametrize("network", [tiny(**NARROW, num_class_embeds=4), ConvDenoiser(8, 1, 2)], ids=["u-net", "conv"])
def test_it_is_the_same_after_saving_and_loading(network, tmp_path):
    network.train()(torch.randn(4, 1, 8, 8), 5)  # the running statistics are no longer those of the start
    network.eval().save_pretrained(tmp_path)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(type(network).from_pretrained(tmp_path)(x, 5).sample, network(x, 5).sample)


def test_the_smallest_denoiser_is_two_convolutions():
    network = ConvDenoiser()
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    assert [(layer.in_channels, layer.out_channels) for layer in network.layers[::3]] == [(3, 64), (64, 3)]


@pytest.mark.parametrize("network", [tiny(**NARROW), ConvDenoiser(8, 1, 1)], ids=["u-net", "conv"])
def test_a_pipeline_opens_by_name_without_a_warning_and_draws(network, tmp_path, caplog):
    pipeline = ImprovedDDPMPipeline(network, ImprovedDDPMScheduler(num_train_timesteps=10))
    pipeline.save_pretrained(tmp_path)
    opened = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(opened.unet) is type(network) and not opened.unet.training
    assert opened(2, num_inference_steps=3, output_type="pt").images.shape == (2, 1, 8, 8)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "settings",
    [{"sample_size": 12, **NARROW}, {"block_out_channels": (8,)}, {"num_class_embeds": 1, **NARROW}],
)
def test_what_cannot_be_built_gets_one_sentence(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`.* is .* accepted|must be multiples of 8"):
        tiny(**settings)


def test_a_model_without_classes_refuses_labels():
    with pytest.raises(ValueError, match="`class_labels` was given"):
        tiny(**NARROW)(torch.randn(1, 1, 8, 8), 5, torch.tensor([0]))
