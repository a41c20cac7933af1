"""Points in the plane whose distribution is known, for seeing a diffusion model at work in seconds.

    swiss_roll        a spiral, the Swiss roll seen from its end
    two_moons         two interleaved half circles, classes 0 and 1
    circles           a circle within a circle, classes 0 and 1
    checkerboard      the 8 dark squares of a board of 4x4, each a class
    pinwheel          5 bent arms, each a class (Johnson et al. 2016)
    gaussian_mixture  8 Gaussians on a circle, each a class

The plane is scaled so that the points lie in [-1, 1]: all of the checkerboard's, the others' but for noise beyond four
standard deviations. So clipping x_0 to [-1, 1], which samplers of images do, is harmless here too.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypedDict, get_args

import numpy as np
import torch

from ddpm_ext.data.point_sets import PointSet
from ddpm_ext.data.stores import Draw
from ddpm_ext.diffusion.checks import one_of
from ddpm_ext.randomness import DataOrder, Draws, seed_for


_SIGMAS = 4  # of noise that the scale leaves room for
_Made = tuple[np.ndarray, np.ndarray | None]  # points (N, 2) and labels (N,)


class PointBatch(TypedDict):
    points: torch.Tensor
    labels: torch.Tensor | None


class PointData:
    """`points`, float32 (N, 2), with `labels`, int64 (N,), or None. Made by `load_points`.

    The other attributes are those of `TrainingData`.
    """

    noun = "points"
    shape = (2,)
    max_value = None

    def __init__(self, points: torch.Tensor, labels: torch.Tensor | None) -> None:
        self.points = points
        self.labels = labels
        content = points.numpy().tobytes() + (b"" if labels is None else labels.numpy().tobytes())
        self.fingerprint = hashlib.blake2b(content, digest_size=8).hexdigest()

    def __len__(self) -> int:
        return len(self.points)

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None where there are no labels."""
        return None if self.labels is None else int(self.labels.max()) + 1

    def order(self, seed: int, global_batch_size: int) -> DataOrder:
        """Epoch after epoch, each in an order of its own that `seed` settles."""
        return DataOrder(len(self), seed)

    def batches(
        self, plan: Iterable[Draw], device: torch.device | str = "cpu", ahead: int = 0
    ) -> Iterator[PointBatch]:
        """One batch on `device` per draw of the plan, in its order; of a draw, only the indices count."""
        points = self.points.to(device)
        labels = None if self.labels is None else self.labels.to(device)
        for draw in plan:
            indices = draw.indices.to(device)
            yield {"points": points[indices], "labels": None if labels is None else labels[indices]}

    def augment(self, batch: PointBatch, random: Draws) -> PointBatch:
        """The batch as it is."""
        return batch


def load_points(
    name: PointSet, num_points: int, seed: int = 0, split: Literal["train", "fresh"] = "train"
) -> PointData:
    """`num_points` points of the distribution called `name`, settled by `seed`.

    Those of the split "fresh" are others than those of "train": what a model is measured against.
    """
    one_of("dataset_name", name, get_args(PointSet))
    one_of("split", split, ("train", "fresh"))
    if num_points < 1:
        raise ValueError(f"`num_points` is {num_points}: at least 1 is accepted.")
    points, labels = _MAKERS[name](num_points, np.random.RandomState(seed_for(seed, f"points, {split}", 0)))
    return PointData(
        torch.from_numpy(points.astype(np.float32)), None if labels is None else torch.from_numpy(labels).long()
    )


def _swiss_roll(count: int, random: np.random.RandomState) -> _Made:
    from sklearn.datasets import make_swiss_roll

    noise = 0.3
    points, _ = make_swiss_roll(count, noise=noise, random_state=random)
    return points[:, [0, 2]] / (4.5 * np.pi + _SIGMAS * noise), None  # it ends at the angle, and radius, 4.5 pi


def _two_moons(count: int, random: np.random.RandomState) -> _Made:
    from sklearn.datasets import make_moons

    noise = 0.05
    points, labels = make_moons(count, noise=noise, random_state=random)
    return (points - [0.5, 0.25]) / (1.5 + _SIGMAS * noise), labels


def _circles(count: int, random: np.random.RandomState) -> _Made:
    from sklearn.datasets import make_circles

    noise = 0.04
    points, labels = make_circles(count, noise=noise, factor=0.5, random_state=random)
    return points / (1 + _SIGMAS * noise), labels


def _checkerboard(count: int, random: np.random.RandomState) -> _Made:
    labels = random.randint(8, size=count)
    row, pair = np.divmod(labels, 2)
    corner = np.stack([2 * pair + row % 2, row], 1)
    return (corner + random.uniform(size=(count, 2))) / 2 - 1, labels


def _pinwheel(count: int, random: np.random.RandomState) -> _Made:
    arms, radial, tangential, rate = 5, 0.3, 0.1, 0.25
    labels = random.randint(arms, size=count)
    along, across = 1 + radial * random.randn(count), tangential * random.randn(count)
    angle = 2 * np.pi * labels / arms + rate * np.exp(along)
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack([along * cos - across * sin, along * sin + across * cos], 1)
    return points / (1 + _SIGMAS * radial), labels


def _gaussian_mixture(count: int, random: np.random.RandomState) -> _Made:
    from sklearn.datasets import make_blobs

    noise, angles = 0.08, np.arange(8) * np.pi / 4
    centres = np.stack([np.cos(angles), np.sin(angles)], 1)
    points, labels = make_blobs(count, centers=centres, cluster_std=noise, random_state=random)
    return points / (1 + _SIGMAS * noise), labels


_MAKERS: dict[str, Callable[[int, np.random.RandomState], _Made]] = {
    "swiss_roll": _swiss_roll,
    "two_moons": _two_moons,
    "circles": _circles,
    "checkerboard": _checkerboard,
    "pinwheel": _pinwheel,
    "gaussian_mixture": _gaussian_mixture,
}
