import pytest
import torch
from torch import nn

from ddpm_ext import MLPDenoiser


def test_the_layers_are_those_of_the_textbook_network():
    """Time embedding, Linear + ReLU as wide as the first hidden layer, beside the point; three hidden layers; out."""
    linear = [module for module in MLPDenoiser().modules() if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (128, 128),
        (2 + 128, 128),
        (128, 128),
        (128, 128),
        (128, 2),
    ]


def test_it_is_called_as_a_u_net_is():
    mlp = MLPDenoiser()
    x = torch.randn(3, 2)
    output = mlp(x, torch.tensor([5, 5, 5])).sample
    assert output.shape == (3, 2)
    torch.testing.assert_close(mlp(x, 5).sample, output, rtol=0, atol=0)
    torch.testing.assert_close(mlp(x, 5, return_dict=False)[0], output, rtol=0, atol=0)
    assert (mlp(x, 900).sample - output).abs().max() > 1e-3


def test_a_learned_variance_doubles_the_output():
    assert MLPDenoiser(out_channels=4)(torch.randn(3, 2), 5).sample.shape == (3, 4)


def test_no_labels_mean_the_null_class_and_labels_decide_the_output():
    mlp = MLPDenoiser(num_class_embeds=4)
    assert (mlp.num_classes, mlp.null_class) == (3, 3)
    x = torch.randn(1, 2).expand(4, -1)
    outputs = mlp(x, 5, torch.arange(4)).sample
    torch.testing.assert_close(mlp(x, 5).sample[0], outputs[3])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


def test_it_is_the_same_after_saving_and_loading(tmp_path):
    mlp = MLPDenoiser(hidden_sizes=(16, 8), num_class_embeds=3)
    mlp.save_pretrained(tmp_path)
    loaded = MLPDenoiser.from_pretrained(tmp_path)
    x = torch.randn(2, 2)
    torch.testing.assert_close(loaded(x, 5).sample, mlp(x, 5).sample, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"hidden_sizes": ()}, {"hidden_sizes": (7, 8)}, {"num_class_embeds": 1}])
def test_what_cannot_be_built_gets_one_sentence(settings):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` is .* accepted"):
        MLPDenoiser(**settings)


def test_a_model_without_classes_refuses_labels():
    with pytest.raises(ValueError, match="`class_labels` was given"):
        MLPDenoiser()(torch.randn(1, 2), 5, torch.tensor([0]))
