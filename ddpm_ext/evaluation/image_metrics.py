"""How far generated images are from real ones, in terms of their features (see `features`).

Intervals say how a number would vary if as many images were generated again; that of the kernel distance also, if as
many others were the reference. They do not contain the bias that the number of images gives the Fréchet distance: only
distances of as many images compare.
"""

import torch
from torch import Tensor

from .discrepancy import unbiased_discrepancy
from .estimates import Estimate, jackknife
from .neighbours import nearest
from .statistics import Moments, Sums


PRECISION_NEIGHBOURS = 3
COVERAGE_NEIGHBOURS = 5


def frechet_distance(one: Moments, other: Moments) -> float:
    """The squared Fréchet distance between Gaussians with these moments (Heusel et al. 2017), in float64.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). With no more images than dimensions a covariance is singular, which
    the number survives; it is then far above that of many images.
    """
    return _distance(one, other, _factor(other.covariance))


def frechet_estimate(sums: Sums, reference: Moments) -> Estimate:
    """The Fréchet distance with its interval, by the jackknife over the groups of `sums`."""
    factor = _factor(reference.covariance)
    value = _distance(sums.moments(), reference, factor)
    if int(sums.counts.min()) == 0:
        return Estimate(value)
    return jackknife(value, sums.groups, lambda group: _distance(sums.moments(group), reference, factor))


def kernel_distance(features: Tensor, reference: Tensor, device: torch.device | str = "cpu") -> Estimate:
    """The squared MMD of features, (N, D) and (M, D), with the kernel (x.y / D + 1)^3: KID (Binkowski et al. 2018).

    Unbiased, so it can be negative, and of all pairs of images rather than of random subsets.
    """
    dimension = features.shape[1]

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T).div_(dimension).add_(1).pow_(3)

    return unbiased_discrepancy(features, reference, kernel, device)


def precision_recall(features: Tensor, reference: Tensor, device: torch.device | str = "cpu") -> dict[str, float]:
    """Precision, recall, density and coverage of features (N, D) against `reference` (M, D).

    precision   share of the generated images within a ball around a real one         Kynkäänniemi et al. 2019
    recall      share of the real images within a ball around a generated one
    density     balls around real images that a generated one lies in, over k, mean   Naeem et al. 2020
    coverage    share of the balls around real images that hold a generated one

    A ball reaches to the k-th nearest image of its own kind: k = 3 for precision and recall, else 5.
    """
    features, reference = (x.to(device, torch.float64) for x in (features, reference))
    radii = {k: _radii(reference, k) for k in (PRECISION_NEIGHBOURS, COVERAGE_NEIGHBOURS)}
    own_radii = _radii(features, PRECISION_NEIGHBOURS)
    is_precise, balls = [], 0
    is_recalled, is_covered = torch.zeros(2, len(reference), dtype=torch.bool, device=reference.device)
    for rows, own in zip(features.split(_ROWS), own_radii.split(_ROWS), strict=True):
        distances = torch.cdist(rows, reference)
        is_precise.append((distances <= radii[PRECISION_NEIGHBOURS]).any(1))
        in_ball = distances <= radii[COVERAGE_NEIGHBOURS]
        balls += int(in_ball.sum())
        is_covered |= in_ball.any(0)
        is_recalled |= (distances <= own[:, None]).any(0)
    return {
        "precision": float(torch.cat(is_precise).double().mean()),
        "recall": float(is_recalled.double().mean()),
        "density": balls / COVERAGE_NEIGHBOURS / len(features),
        "coverage": float(is_covered.double().mean()),
    }


_ROWS = 256


def class_accuracy(predicted: Tensor, labels: Tensor) -> Estimate:
    """Share of the images that are taken for the class they should be of; `predicted` and `labels`, int64 (N,)."""
    return Estimate.of_share(int((predicted == labels).sum()), len(labels))


def nearest_labels(features: Tensor, reference: Tensor, labels: Tensor) -> Tensor:
    """The class of the nearest of `reference` (M, D), whose classes are `labels` (M,), to each of `features` (N, D).

    An image is not its own neighbour: with `features` the reference itself, each is read by the others.
    """
    found = nearest(features, reference.split(_ROWS), 2).indices
    if features is not reference:
        return labels[found[:, 0]]
    is_itself = found[:, 0] == torch.arange(len(features))
    return labels[torch.where(is_itself, found[:, 1], found[:, 0])]


def _radii(features: Tensor, k: int) -> Tensor:
    """The distance of each image to its k-th nearest other one, (N,)."""
    return nearest(features, features.split(_ROWS), k + 1).distances[:, k]


def _distance(one: Moments, other: Moments, factor: Tensor) -> float:
    """`factor`: F with F F^T the covariance of `other`."""
    # C1 C2 and the symmetric F^T C1 F have the same eigenvalues.
    overlap = _roots(torch.linalg.eigvalsh(factor.T @ one.covariance @ factor)).sum()
    shift = one.mean - other.mean
    return float(shift @ shift + one.covariance.trace() + other.covariance.trace() - 2 * overlap)


def _factor(covariance: Tensor) -> Tensor:
    """F with F F^T = covariance: Cholesky's; where that does not exist, by eigenvectors, which take far longer."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * _roots(values)


def _roots(values: Tensor) -> Tensor:
    """Square roots of eigenvalues, (D,); of those that are 0 but for rounding, 0.

    The root of rounding is not small: left in, it would differ from machine to machine in the sixth digit.
    """
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return torch.where(values > noise, values, 0).sqrt()
