"""Metrics of features against closed forms, and against torchmetrics on the same features."""

import math

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from ddpm_ext.evaluation.discrepancy import unbiased_discrepancy
from ddpm_ext.evaluation.estimates import Estimate
from ddpm_ext.evaluation.image_metrics import (
    class_accuracy,
    frechet_distance,
    frechet_estimate,
    kernel_distance,
    nearest_labels,
    precision_recall,
)
from ddpm_ext.evaluation.statistics import Moments, Sums


def gaussian(count: int, dimension: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64) * scale + shift


def sums_of(features: Tensor, groups: int = 10) -> Sums:
    sums = Sums.empty(features.shape[1], groups)
    for group, part in enumerate(features.chunk(groups)):
        sums.add(part, group)
    return sums


def test_frechet_distance_of_gaussians_with_a_common_basis():
    """|m1 - m2|^2 + sum of (s1 - s2)^2 over the standard deviations along the axes."""
    basis = torch.linalg.qr(gaussian(5, 5, 0)).Q
    one, other = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0]).double(), torch.tensor([0.2, 0.1, 1.0, 1.0, 5.0]).double()
    shift = gaussian(1, 5, 1)[0]
    moments = [
        Moments(100, mean, basis * deviations**2 @ basis.T)
        for mean, deviations in ((torch.zeros(5).double(), one), (shift, other))
    ]
    expected = float(shift.square().sum() + (one - other).square().sum())
    assert frechet_distance(*moments) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_any_gaussians():
    """tr (C1 C2)^(1/2) by scipy's Schur method."""
    one, other = (Moments.of(gaussian(40, 6, seed) @ gaussian(6, 6, seed + 9)) for seed in (0, 1))
    overlap = sqrtm(one.covariance.numpy() @ other.covariance.numpy()).real.trace()
    trace = float((one.covariance + other.covariance).trace())
    expected = float((one.mean - other.mean).square().sum()) + trace - 2 * overlap
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("count", [30, 8])
def test_a_distribution_is_at_no_distance_from_itself(count):
    """Also with fewer images than dimensions, and with features that never change."""
    features = torch.cat([gaussian(count, 12, 0), torch.full((count, 3), 0.3).double()], 1)
    moments = Moments.of(features)
    assert frechet_distance(moments, moments) == pytest.approx(0, abs=1e-6)


def test_rounding_of_the_features_does_not_reach_a_singular_distance():
    """Roots of eigenvalues that are zero but for rounding would: 1e-16 becomes 1e-8, a thousand times over."""
    features, reference = gaussian(50, 200, 0), Moments.of(gaussian(60, 200, 1))
    rounded = features * (1 + 1e-15 * gaussian(50, 200, 2))
    both = [frechet_estimate(sums_of(x), reference).value for x in (features, rounded)]
    assert both[0] == pytest.approx(both[1], rel=1e-9)


def test_frechet_distance_is_that_of_torchmetrics():
    features, reference = gaussian(300, 16, 0, 1.1, 0.1), gaussian(400, 16, 1)
    theirs = FrechetInceptionDistance(feature=_identity(), normalize=True).set_dtype(torch.float64)
    theirs.update(features, real=False)
    theirs.update(reference, real=True)
    assert frechet_distance(Moments.of(features), Moments.of(reference)) == pytest.approx(float(theirs.compute()))


def test_kernel_distance_is_that_of_torchmetrics_on_all_images():
    features, reference = gaussian(300, 16, 0, 1.1, 0.1), gaussian(300, 16, 1)
    theirs = KernelInceptionDistance(feature=_identity(), subsets=1, subset_size=300, normalize=True)
    theirs.update(features, real=False)
    theirs.update(reference, real=True)
    assert kernel_distance(features, reference).value == pytest.approx(float(theirs.compute()[0]), rel=1e-9)


def _identity() -> nn.Module:
    """A "network" of torchmetrics whose features are its input."""
    network = nn.Identity()
    network.num_features = 16
    return network


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kernel_discrepancy_of_gaussians(shift):
    """E exp(-|x - y|^2 / 2) = 3^(-d/2) exp(-|m|^2 / 6) for x, y of unit variance in d dimensions, means m apart."""
    dimension, distance = 3, shift * math.sqrt(3)
    among = 3 ** (-dimension / 2)
    expected = 2 * among - 2 * among * math.exp(-(distance**2) / 6)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (-torch.cdist(x, y).square() / 2).exp()

    x, y = gaussian(2000, dimension, 0, shift=shift), gaussian(2000, dimension, 1)
    found = unbiased_discrepancy(x, y, kernel)
    assert found.low < expected < found.high
    assert found.high - found.low < 0.02


@pytest.mark.parametrize("metric", ["frechet", "kernel"])
@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_the_interval_covers_the_mean_over_repetitions(metric, scale):
    reference = gaussian(600, 8, 99)
    moments = Moments.of(reference)
    found = []
    for seed in range(60):
        features = gaussian(200, 8, seed, scale)
        if metric == "frechet":
            found.append(frechet_estimate(sums_of(features), moments))
        else:
            found.append(kernel_distance(features, gaussian(250, 8, seed + 100)))
    mean = sum(estimate.value for estimate in found) / len(found)
    covered = sum(estimate.low < mean < estimate.high for estimate in found) / len(found)
    assert covered >= 0.88
    spread = torch.tensor([estimate.value for estimate in found]).std()
    width = sum((estimate.high - estimate.low) / 2 for estimate in found) / len(found)
    assert 1.5 * spread < width < 4 * spread  # 2 is what a normal distribution asks for


def test_precision_and_the_like_of_the_same_images_are_one():
    features = gaussian(100, 4, 0)
    found = precision_recall(features, features)
    assert found["precision"] == found["recall"] == found["coverage"] == 1
    assert found["density"] > 1  # an image lies in its own ball


def test_precision_and_the_like_of_images_far_apart_are_zero():
    assert set(precision_recall(gaussian(50, 4, 0), gaussian(50, 4, 1, shift=100.0)).values()) == {0.0}


def test_few_kinds_of_images_are_precise_but_recall_little():
    reference = torch.cat([gaussian(200, 2, 0), gaussian(200, 2, 1, shift=50.0)])
    found = precision_recall(gaussian(200, 2, 2), reference)
    assert found["precision"] > 0.9 and 0.4 < found["recall"] < 0.55 and 0.4 < found["coverage"] < 0.55


def test_density_and_coverage_of_one_distribution_are_what_theory_expects():
    """1, and 1 - the chance that the k nearest of 2N - 1 images are all real (Naeem et al. 2020)."""
    count, k = 100, 5
    expected = 1 - math.prod((count - i) / (2 * count - i) for i in range(1, k + 1))
    found = [precision_recall(gaussian(count, 3, seed), gaussian(count, 3, seed + 500)) for seed in range(40)]
    means = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    assert means["density"] == pytest.approx(1, abs=0.05)
    assert means["coverage"] == pytest.approx(expected, abs=0.01)
    assert means["precision"] == pytest.approx(means["recall"], abs=0.03)


def test_a_nearest_neighbour_reads_classes_and_does_not_read_itself():
    reference = torch.cat([gaussian(50, 2, 0), gaussian(50, 2, 1, shift=20.0)])
    labels = torch.arange(100) // 50
    assert torch.equal(nearest_labels(gaussian(30, 2, 2, shift=20.0), reference, labels), torch.ones(30).long())
    odd = labels.clone()
    odd[0] = 1
    assert nearest_labels(reference, reference, odd)[0] == 0


def test_class_accuracy_has_wilsons_interval():
    found = class_accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 0]))
    assert found.value == 0.75
    assert (found.low, found.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)


@pytest.mark.parametrize(
    "estimate, shown",
    [
        (Estimate(0.543218, 0.4811, 0.6053), "0.543 [0.481, 0.605]"),
        (Estimate(0.9375), "0.9375"),
        (Estimate(12.34567, 11.1, 13.6), "12.3 [11.1, 13.6]"),
        (Estimate(-0.000278, -0.01277, 0.01222), "-0.000 [-0.013, 0.012]"),
        (Estimate(0.0, 0.0, 0.0), "0.00 [0.00, 0.00]"),
    ],
)
def test_a_number_shows_the_digits_that_its_interval_gives_a_meaning_to(estimate, shown):
    assert str(estimate) == shown
