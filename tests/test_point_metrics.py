"""Metrics of points in the plane against values that can be worked out by hand."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from ddpm_ext.evaluation.point_metrics import (
    chamfer_distance,
    energy_distance,
    kernel_discrepancy,
    point_metrics,
    sliced_wasserstein_distance,
)


def cloud(count: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) + shift


def test_chamfer_distance_of_points_counted_by_hand():
    """1 and 9 from the second set's view, mean 5; 1 and 1 from the first's, mean 1."""
    one, other = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert chamfer_distance(other, one) == pytest.approx((1 + 9) / 2 + (1 + 2) / 2)


def test_sliced_wasserstein_distance_of_a_shift():
    """Along a direction at angle a the shift s is s cos a, whose mean square over all angles is s^2 / 2."""
    points = cloud(200, 0)
    shifted = points + torch.tensor([3.0, 4.0])
    assert sliced_wasserstein_distance(shifted, points) == pytest.approx(5 / math.sqrt(2), rel=1e-6)


def test_sliced_wasserstein_distance_of_two_gaussians():
    """Standard deviations 1 and 2 are 1 apart in every direction."""
    assert sliced_wasserstein_distance(2 * cloud(4000, 0), cloud(5000, 1)) == pytest.approx(1, abs=0.05)


def test_energy_distance_on_a_line_is_the_area_between_the_distribution_functions():
    """scipy's is the root, and counts each point as its own neighbour: n / (n - 1) less."""
    one, other = cloud(50, 0)[:, :1], cloud(40, 1, 0.5)[:, :1]
    among = [float(torch.cdist(x.double(), x.double()).sum()) / len(x) ** 2 for x in (one, other)]
    with_itself = stats.energy_distance(one[:, 0].numpy(), other[:, 0].numpy()) ** 2
    expected = with_itself - sum(mean / (len(x) - 1) for mean, x in zip(among, (one, other), strict=True))
    assert energy_distance(one, other).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("metric", [energy_distance, kernel_discrepancy])
def test_an_unbiased_metric_is_around_zero_for_one_distribution(metric):
    values = torch.tensor([metric(cloud(60, 2 * seed), cloud(60, 2 * seed + 1)).value for seed in range(60)])
    assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(60)
    assert (values < 0).any()


def test_every_metric_grows_with_the_distance():
    found = [point_metrics(cloud(300, 0, shift), cloud(300, 1)) for shift in (0.0, 0.3, 1.0)]
    assert set(found[0]) == {"chamfer", "sliced_wasserstein", "energy", "mmd"}
    for name in found[0]:
        values = [metrics[name].value for metrics in found]
        assert values == sorted(values), name
        assert values[2] > 3 * abs(values[0])


def test_more_than_two_coordinates_are_accepted():
    points = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    metrics = point_metrics(points + 1, points)
    assert metrics["sliced_wasserstein"].value == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(
    "points, sentence",
    [
        (torch.zeros(3), r"`points` has shape \(3,\)"),
        (torch.zeros(0, 2), r"`points` has shape \(0, 2\)"),
        (torch.full((5, 2), float("nan")), "finite numbers of shape"),
        (torch.zeros(5, 3), "`points` have 3 coordinates, and those of `reference` 2"),
    ],
)
def test_what_are_no_points_gets_one_sentence(points, sentence):
    with pytest.raises(ValueError, match=sentence):
        chamfer_distance(points, cloud(5, 0))
