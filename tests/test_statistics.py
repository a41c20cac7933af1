"""What is kept of many images' features does not depend on how they were divided."""

import pytest
import torch
from torch import Tensor

from ddpm_ext.data.images import load_images
from ddpm_ext.evaluation import statistics
from ddpm_ext.evaluation.features import load_extractor
from ddpm_ext.evaluation.image_metrics import frechet_estimate
from ddpm_ext.evaluation.statistics import Moments, Sums, extract


IMAGES = torch.randint(0, 256, (451, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PIXELS = load_extractor("pixels")


def test_the_sums_are_those_of_all_features():
    found, features = extract(PIXELS, IMAGES), PIXELS(IMAGES)
    moments, expected = found.sums.moments(), Moments.of(features)
    assert moments.count == found.count == 451
    torch.testing.assert_close(moments.mean, expected.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(moments.covariance, expected.covariance, rtol=1e-11, atol=1e-13)


def test_groups_are_of_consecutive_images_and_of_one_size():
    found, features = extract(PIXELS, IMAGES, groups=10), PIXELS(IMAGES)
    assert found.sums.counts.tolist() == [46, *[45] * 9]
    without = found.sums.moments(without=3)
    expected = Moments.of(torch.cat([features[: 46 + 90], features[46 + 135 :]]))
    assert without.count == 406
    torch.testing.assert_close(without.covariance, expected.covariance, rtol=1e-11, atol=1e-13)


def test_only_the_features_that_are_asked_for_are_kept_in_order():
    assert extract(PIXELS, IMAGES).features.shape == (0, 16)
    assert torch.equal(extract(PIXELS, IMAGES, keep_features=150).features, PIXELS(IMAGES[:150]))
    indices = torch.arange(450, -1, -3)
    assert torch.equal(extract(PIXELS, IMAGES, indices=indices, keep_features=999).features, PIXELS(IMAGES[indices]))


def test_a_data_set_has_the_features_of_its_images():
    data = load_images("digits", split="test", show_progress=False)
    indices = torch.randperm(len(data))
    found = extract(PIXELS, data, indices=indices, keep_features=len(data))
    assert torch.equal(found.features, PIXELS(data.integers(indices)))


class Ranks:
    """Stands for the processes of a run: each in turn adds its share to the sums of those before it."""

    device = torch.device("cpu")

    def __init__(self, num_processes: int) -> None:
        self.num_processes, self.process_index = num_processes, 0
        self.tensors: list[Tensor] = []
        self.objects: list[object] = []
        self.place = 0

    def reduce(self, tensor: Tensor, _: str) -> Tensor:
        if self.process_index == 0:
            self.tensors.append(torch.zeros_like(tensor))
        self.place = (self.place + 1) % 3
        self.tensors[self.place - 1] += tensor
        return self.tensors[self.place - 1].clone()

    def gather_object(self, found: list[object]) -> list[object]:
        self.objects += found
        return self.objects


@pytest.mark.parametrize("num_processes", [2, 3, 7])
def test_the_number_of_processes_changes_nothing(num_processes, monkeypatch):
    ranks = Ranks(num_processes)
    monkeypatch.setattr(statistics, "gather_object", ranks.gather_object)
    for ranks.process_index in range(num_processes):
        shared = extract(PIXELS, IMAGES, ranks, keep_features=333)
    alone = extract(PIXELS, IMAGES, keep_features=333)
    assert torch.equal(shared.features, alone.features)
    reference = Moments.of(PIXELS(IMAGES.flip(0)[:300]))
    one, other = (frechet_estimate(found.sums, reference) for found in (alone, shared))
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-10)


def test_sums_take_no_more_memory_for_more_images():
    sums = Sums.empty(16, 1)
    before = sums.products.numel(), sums.products.data_ptr()
    for part in IMAGES.split(50):
        sums.add(PIXELS(part), 0)
    assert (sums.products.numel(), sums.products.data_ptr()) == before
