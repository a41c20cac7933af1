"""What images are compared by: every kind of extractor gives one row of float32 numbers per 8-bit image."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ddpm_ext.data.images import to_unit_range
from ddpm_ext.evaluation.features import load_classifier, load_extractor


IMAGES = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
COLOUR = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Dropout, so that it shows whether it is in evaluation mode."""

    def __init__(self, channels: int, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(channels)
        self.convolution = nn.Conv2d(channels, 4, 3)
        self.dropout = nn.Dropout(0.5)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.convolution(x)).mean((2, 3)) * self.factor

    @torch.jit.export
    def logits(self, x: Tensor) -> Tensor:
        return self.forward(x)[:, :3]


def torchscript(file: Path, network: nn.Module) -> str:
    torch.jit.script(network.train()).save(str(file))
    return str(file)


@pytest.fixture(scope="module")
def gray(tmp_path_factory) -> str:
    return torchscript(tmp_path_factory.mktemp("networks") / "gray.ts", Net(1))


@pytest.fixture(scope="module")
def colour(tmp_path_factory) -> str:
    return torchscript(tmp_path_factory.mktemp("networks") / "colour.ts", Net(3))


@pytest.fixture(scope="module")
def vision_transformer(tmp_path_factory) -> str:
    from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    return str(folder)


def test_pixels_are_the_values_that_networks_see():
    features = load_extractor("pixels")(IMAGES)
    assert torch.equal(features, to_unit_range(IMAGES, 255).flatten(1))


def test_large_images_are_averaged_down_to_32_pixels():
    large = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    features = load_extractor("pixels")(large).view(2, 3, 32, 32)
    assert torch.allclose(features[0, 0, 0, 0], to_unit_range(large, 255)[0, 0, :2, :3].mean())


def test_a_torchscript_file_is_run_in_evaluation_mode(gray):
    features = load_extractor(gray)(IMAGES)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, Net(1).eval()(to_unit_range(IMAGES, 255)).detach())


def test_autocast_does_not_reach_the_network(gray):
    extractor = load_extractor(gray)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = extractor(IMAGES)
    assert torch.equal(features, extractor(IMAGES))


def test_grey_images_are_repeated_for_a_network_that_takes_colour(colour):
    extractor = load_extractor(colour)
    assert torch.equal(extractor(IMAGES), load_extractor(colour)(IMAGES.expand(-1, 3, -1, -1)))
    assert extractor.dimension(IMAGES) == 4


def test_fingerprints_tell_networks_apart(gray, colour, vision_transformer):
    names = ("pixels", gray, colour, vision_transformer)
    assert len({load_extractor(name).fingerprint for name in names}) == len(names)
    assert load_extractor(gray).fingerprint == load_extractor(gray).fingerprint


def test_a_vision_model_gives_its_class_token_after_its_own_preprocessing(vision_transformer):
    from transformers import AutoImageProcessor, AutoModel

    features = load_extractor(vision_transformer)(COLOUR)
    processor, model = (
        AutoImageProcessor.from_pretrained(vision_transformer),
        AutoModel.from_pretrained(vision_transformer),
    )
    seen = processor(images=list(COLOUR), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(features, model.eval()(pixel_values=seen).last_hidden_state[:, 0].detach())
    assert load_extractor(vision_transformer)(IMAGES).shape == (6, 16)


def test_dinov2_sees_whole_images_of_224_pixels(vision_transformer, monkeypatch):
    """As published: bicubic, without a crop, normalised with ImageNet's mean and deviation."""
    from transformers import AutoModel

    monkeypatch.setattr("ddpm_ext.evaluation.feature_networks._DINOV2", vision_transformer)
    features = load_extractor("dinov2")(COLOUR)
    resized = nn.functional.interpolate(COLOUR / 255, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = (resized - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    model = AutoModel.from_pretrained(vision_transformer).eval()
    torch.testing.assert_close(features, model(pixel_values=seen).last_hidden_state[:, 0].detach())


def test_a_classifier_is_a_method_logits_or_a_model_of_transformers(gray, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    assert load_classifier(gray)(IMAGES).shape == (6, 3)
    size = {"image_size": 8, "patch_size": 4, "num_channels": 3}
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_labels=5, **size)
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    assert load_classifier(str(tmp_path))(IMAGES).shape == (6, 5)


def test_a_network_that_takes_other_images_is_refused(gray):
    with pytest.raises(ValueError, match=r"`features` is .*gray.ts, which does not take images of 3x8x8: .*channels"):
        load_extractor(gray)(COLOUR)


def test_a_network_that_returns_nan_is_refused(tmp_path):
    file = torchscript(tmp_path / "nan.ts", Net(1, float("nan")))
    with pytest.raises(ValueError, match=r"`features` is .*nan.ts, which gives NaN or infinity"):
        load_extractor(file)(IMAGES)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("nowhere.ts", r"`features` is nowhere.ts, which does not exist\.$"),
        ("pixel", r"`features` is pixel, which does not exist: perhaps 'pixels' is meant\.$"),
        ("@text.ts", r"`features` is .*text.ts, which is no TorchScript file: "),
        ("@", r"`features` is .*, which could not be loaded \(.*\): 'inception', 'dinov2', 'pixels', a TorchScript"),
    ],
)
def test_what_is_no_extractor_gets_one_sentence(name, sentence, tmp_path):
    (tmp_path / "text.ts").write_text("no network")
    with pytest.raises(ValueError, match=sentence) as raised:
        load_extractor(str(tmp_path / name[1:]) if name.startswith("@") else name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["inception", "nobody/no-such-model"])
def test_without_a_network_the_sentence_names_what_needs_none(name, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cannot be reached: 'pixels', a TorchScript file .* needs no network\.$"):
        load_extractor(name)
