from dataclasses import replace

import pytest
import torch

from ddpm_ext.evaluation.generate import Sampling, generate, quantize
from ddpm_ext.randomness import generator_for


def assert_same_images(images: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal up to one level in few pixels: sums of another batch size are rounded otherwise."""
    assert images.shape == expected.shape and images.dtype == expected.dtype == torch.uint8
    difference = (images.int() - expected.int()).abs()
    assert difference.max() <= 1 and difference.sum() <= 0.01 * difference.numel()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_an_image_depends_on_the_seed_and_its_number_alone(pipeline, batch_size):
    images = generate(pipeline, 5, Sampling(seed=3, batch_size=batch_size, num_inference_steps=4))
    expected = generate(pipeline, 7, Sampling(seed=3, batch_size=3, num_inference_steps=4))
    assert images.shape == (5, 1, 8, 8)
    assert_same_images(images, expected[:5])


def test_images_come_in_the_order_of_their_numbers(pipeline):
    images = generate(pipeline, 4, Sampling(seed=3, batch_size=2, num_inference_steps=4))
    for i in range(4):
        one = pipeline(1, generator_for(3, "image", i), 4, output_type="pt").images
        assert_same_images(quantize(one), images[i : i + 1])
    assert len(torch.unique(images.flatten(1), dim=0)) == 4


def test_another_seed_gives_other_images(pipeline):
    images = [generate(pipeline, 3, Sampling(seed=seed, num_inference_steps=2)) for seed in (0, 1)]
    assert not torch.equal(*images)


def test_labels_and_guidance_reach_the_network(class_conditional):
    sampling = Sampling(seed=3, batch_size=2, num_inference_steps=3, guidance_scale=2.0)
    images = generate(class_conditional, 3, sampling, class_labels=[2, 0, 1])
    one = class_conditional(
        "automobile", 2.0, generator=generator_for(3, "image", 2), num_inference_steps=3, output_type="pt"
    )
    assert_same_images(quantize(one.images), images[2:])


class Ranks:
    """Stands for the processes of a run: each in turn is asked for its images, then all of them are gathered."""

    device = torch.device("cpu")

    def __init__(self, num_processes: int):
        self.num_processes, self.process_index, self.parts = num_processes, 0, []

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        self.parts.append(part)
        return torch.cat(self.parts + [part] * (self.num_processes - len(self.parts)))


@pytest.mark.parametrize("num_images, num_processes", [(5, 2), (4, 2), (2, 3), (7, 3)])
def test_the_number_of_processes_changes_nothing(pipeline, num_images, num_processes):
    sampling = Sampling(seed=3, batch_size=2, num_inference_steps=2)
    ranks = Ranks(num_processes)
    for ranks.process_index in range(num_processes):
        images = generate(pipeline, num_images, sampling, accelerator=ranks)
    assert_same_images(images, generate(pipeline, num_images, sampling))


@pytest.mark.parametrize(
    "labels, settings, sentence",
    [
        ([0, 1], {}, "`class_labels` was given, but the model is unconditional"),
        (None, {"guidance_scale": 2.0}, r"`guidance_scale` is 2\.0, but the model is unconditional: .* only 1 is"),
    ],
)
def test_an_unconditional_model_knows_no_classes(pipeline, labels, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        generate(pipeline, 2, Sampling(num_inference_steps=2, **settings), labels)


def test_a_class_conditional_model_needs_labels(class_conditional):
    with pytest.raises(ValueError, match="`class_labels` must be given"):
        generate(class_conditional, 2, Sampling(num_inference_steps=2))


def test_bytes_are_rounded():
    values = torch.tensor([0.0, 0.001, 0.002, 0.5, 0.999, 1.0])
    assert quantize(values).tolist() == [0, 0, 1, 128, 255, 255]


def test_progress_counts_images(pipeline, capsys):
    generate(pipeline, 5, Sampling(batch_size=2, num_inference_steps=2), progress="drawing")
    shown = capsys.readouterr().err
    assert "drawing" in shown and "5/5" in shown
    generate(pipeline, 2, Sampling(num_inference_steps=2))
    assert capsys.readouterr().err == ""


def test_in_half_precision_the_network_alone_is_halved(class_conditional):
    seen = []
    class_conditional.unet.conv_out.register_forward_hook(lambda _, given, output: seen.append(output.dtype))
    class_conditional.unet.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    sampling = Sampling(num_inference_steps=4, guidance_scale=2.0)
    plain, halved = (
        generate(class_conditional, 4, replace(sampling, mixed_precision=precision), [0] * 4)
        for precision in ("no", "bf16")
    )
    assert seen == [torch.float32, torch.float32] * 4 + [torch.float32, torch.bfloat16] * 4
    difference = (plain.int() - halved.int()).abs().float()
    assert 0 < difference.mean() < 2
