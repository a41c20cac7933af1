"""A model that repeats its training images is told from one that does not."""

import pytest
import torch

from ddpm_ext.data.images import ImageData, load_images
from ddpm_ext.evaluation import memorisation
from ddpm_ext.evaluation.estimates import Estimate
from ddpm_ext.evaluation.features import load_extractor
from ddpm_ext.evaluation.memorisation import NearestImages, bits_per_dim_gap, nearest_images, side_by_side, verdict
from ddpm_ext.evaluation.statistics import extract


PIXELS = load_extractor("pixels")


@pytest.fixture(scope="module")
def train() -> ImageData:
    return load_images("digits", split="train", show_progress=False)


@pytest.fixture(scope="module")
def unseen() -> torch.Tensor:
    data = load_images("digits", split="test", show_progress=False)
    return data.integers(torch.arange(len(data)))


def test_copies_are_found_with_the_images_that_they_copy(train, unseen):
    copied = torch.arange(500, 100, -4)
    copies = train.integers(copied)
    found = nearest_images(PIXELS, copies, train, unseen[:100])
    assert torch.equal(found.indices, copied)
    assert found.distances.max() < 1e-5
    assert found.near_share.value == found.copied_share.value == 1
    assert verdict(found).startswith("The model repeats training images: 100.0% of the samples are near")
    pairs = side_by_side(copies, train, found, 7)
    assert torch.equal(pairs[..., :8], pairs[..., 8:]) and pairs.shape == (7, 1, 8, 16)


def test_images_of_the_same_distribution_are_not_near(train, unseen):
    found = nearest_images(PIXELS, unseen[:180], train, unseen[180:])
    assert found.near_share.low < 0.05 < found.near_share.high
    assert verdict(found, Estimate(0.01, -0.02, 0.04)).startswith("No sign of memorisation: ")


def test_the_nearest_pairs_come_first(train, unseen):
    samples = torch.cat([unseen[:5], train.integers(torch.tensor([7]))])
    found = nearest_images(PIXELS, samples, train, unseen[100:])
    assert torch.equal(side_by_side(samples, train, found, 1)[..., 8:], train.integers(torch.tensor([7])))


class Ranks:
    """Stands for the processes of a run: each in turn looks among its share of the training images."""

    def __init__(self, num_processes: int) -> None:
        self.num_processes, self.process_index, self.found = num_processes, 0, []

    def gather_object(self, found: list[object]) -> list[object]:
        self.found += found
        return self.found


@pytest.mark.parametrize("num_processes", [2, 20])
def test_the_number_of_processes_changes_nothing(train, unseen, num_processes, monkeypatch):
    alone = nearest_images(PIXELS, unseen[:50], train, unseen[50:90])
    queries = extract(PIXELS, unseen[:90], groups=1, keep_features=90)
    monkeypatch.setattr(memorisation, "extract", lambda *_, **__: queries)  # tested on its own
    ranks = Ranks(num_processes)
    monkeypatch.setattr(memorisation, "gather_object", ranks.gather_object)
    for ranks.process_index in range(num_processes):
        shared = nearest_images(PIXELS, unseen[:50], train, unseen[50:90], ranks)
    assert torch.equal(shared.indices, alone.indices)
    torch.testing.assert_close(shared.distances, alone.distances)
    torch.testing.assert_close(shared.held_out_distances, alone.held_out_distances)


@pytest.mark.parametrize(
    "distance, gap, words",
    [
        (0.05, None, "The model repeats training images: 100.0% of the samples are near"),
        (0.5, None, "Samples are nearer to training images than held-out images are: 100.0%"),
        (0.5, Estimate(0.0, -0.1, 0.1), "Samples are nearer to training images than held-out images are: 100.0%"),
        (0.5, Estimate(0.3, 0.2, 0.4), "The model repeats training images: 100.0%"),
        (2.0, Estimate(0.3, 0.2, 0.4), "Some signs of memorisation: 0.0%"),
        (2.0, Estimate(0.01, 0.0, 0.02), "No sign of memorisation: 0.0%"),
        (2.0, None, "No sign of memorisation: 0.0%"),
    ],
)
def test_the_verdict_weighs_distances_and_the_gap(distance, gap, words):
    found = NearestImages(torch.full((200,), distance), torch.zeros(200).long(), torch.linspace(0.9, 1.1, 200))
    assert verdict(found, gap).startswith(words)


def test_the_gap_is_held_out_minus_training_with_the_error_of_both():
    train, held_out = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 5.0])
    gap = bits_per_dim_gap(train, held_out)
    assert gap.value == 2
    assert (gap.high - gap.low) / 2 == pytest.approx(1.959964 * (1 / 3 + 2 / 2) ** 0.5)
