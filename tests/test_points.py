"""The points of the plane: their shapes, what settles them, and how a run reads them."""

from typing import get_args

import pytest
import torch

from ddpm_ext.data.point_sets import PointSet
from ddpm_ext.data.points import load_points
from ddpm_ext.data.stores import Draw


NAMES = get_args(PointSet)
CLASSES = {"swiss_roll": None, "two_moons": 2, "circles": 2, "checkerboard": 8, "pinwheel": 5, "gaussian_mixture": 8}


@pytest.mark.parametrize("name", NAMES)
def test_points_lie_in_the_unit_square_and_fill_it_to_more_than_half(name):
    data = load_points(name, 10_000)
    assert data.points.shape == (10_000, 2) and data.points.dtype == torch.float32
    assert (data.points.abs() > 1).any(1).float().mean() < 1e-3  # noise beyond four standard deviations
    assert data.points.abs().max() > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_those_of_the_shape_and_about_as_frequent(name):
    data = load_points(name, 8000)
    assert data.num_classes == CLASSES[name]
    if data.labels is not None:
        assert data.labels.dtype == torch.int64
        assert data.labels.bincount().min() > 0.8 * 8000 / CLASSES[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_settles_the_points_and_fresh_ones_are_others(name):
    first, again, other = (load_points(name, 100, seed) for seed in (0, 0, 1))
    assert torch.equal(first.points, again.points) and first.fingerprint == again.fingerprint
    assert not torch.equal(first.points, other.points) and first.fingerprint != other.fingerprint
    fresh = load_points(name, 100, 0, "fresh")
    assert not (fresh.points[:, None] == first.points[None]).all(2).any()


def test_the_squares_of_the_checkerboard_are_dark_and_alternate():
    data = load_points("checkerboard", 5000)
    squares = ((data.points + 1) * 2).floor().clamp(max=3).long()
    assert (squares.sum(1) % 2 == 0).all()
    for label in range(8):
        assert len(squares[data.labels == label].unique(dim=0)) == 1


def test_the_swiss_roll_is_as_far_from_the_middle_as_its_angle():
    points = load_points("swiss_roll", 2000).points * (4.5 * torch.pi + 1.2)
    radius, angle = points.norm(dim=1), torch.atan2(points[:, 1], points[:, 0])
    turns = (radius - angle) / (2 * torch.pi)
    assert ((turns - turns.round()).abs() < 0.25).all()  # the roll is 0.3 thick, and a turn 2 pi apart


def test_batches_follow_the_plan():
    data = load_points("two_moons", 20)
    first, second = data.batches([Draw(torch.tensor([3, 1])), Draw(torch.tensor([7]))])
    assert torch.equal(first["points"], data.points[[3, 1]]) and torch.equal(first["labels"], data.labels[[3, 1]])
    assert torch.equal(second["points"], data.points[[7]])
    assert next(load_points("swiss_roll", 5).batches([Draw(torch.tensor([0]))]))["labels"] is None


def test_an_unknown_shape_gets_one_sentence():
    with pytest.raises(ValueError, match="`dataset_name` .*swissroll.*Did you mean 'swiss_roll'"):
        load_points("swissroll", 10)
    with pytest.raises(ValueError, match="`num_points` is 0"):
        load_points("swiss_roll", 0)
