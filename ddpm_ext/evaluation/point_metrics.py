"""How far generated points are from real ones: (N, d) and (M, d), in few dimensions, such as 2.

All are 0 where the two distributions are the same, up to the number of points.
"""

import torch
from scipy.spatial import KDTree
from torch import Tensor

from .discrepancy import unbiased_discrepancy
from .estimates import Estimate


_PROJECTIONS = 256
_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
_POINTS_FOR_WIDTH = 1000


def point_metrics(points: Tensor, reference: Tensor) -> dict[str, Estimate]:
    """All of the metrics here, by name."""
    return {
        "chamfer": Estimate(chamfer_distance(points, reference)),
        "sliced_wasserstein": Estimate(sliced_wasserstein_distance(points, reference)),
        "energy": energy_distance(points, reference),
        "mmd": kernel_discrepancy(points, reference),
    }


def chamfer_distance(points: Tensor, reference: Tensor) -> float:
    """Mean squared distance to the nearest point of the other set, summed over both directions (Fan et al. 2017)."""
    one, other = _checked(points, reference)
    there, back = KDTree(other.numpy()).query(one.numpy())[0], KDTree(one.numpy()).query(other.numpy())[0]
    return float((there**2).mean() + (back**2).mean())


def sliced_wasserstein_distance(points: Tensor, reference: Tensor) -> float:
    """The root mean square, over directions, of the 2-Wasserstein distance along them (Bonneel et al. 2015).

    In the plane the directions are evenly spaced, elsewhere random but always the same.
    """
    one, other = _checked(points, reference)
    try:
        import ot
    except ImportError:
        raise ValueError("the sliced Wasserstein distance needs POT: install ddpm-ext[eval].") from None
    directions = _directions(one.shape[1]).T
    return float(ot.sliced_wasserstein_distance(one.numpy(), other.numpy(), projections=directions.numpy()))


def energy_distance(points: Tensor, reference: Tensor) -> Estimate:
    """2 E|x - y| - E|x - x'| - E|y - y'| (Székely & Rizzo 2013), unbiased, so it can be negative."""
    return unbiased_discrepancy(*_checked(points, reference), lambda x, y: -torch.cdist(x, y))


def kernel_discrepancy(points: Tensor, reference: Tensor) -> Estimate:
    """The squared MMD, unbiased, for the mean of Gaussian kernels from a quarter to four times the reference's median
    distance wide, which therefore does not depend on `points`."""
    one, other = _checked(points, reference)
    distances = torch.pdist(other[:: max(1, len(other) // _POINTS_FOR_WIDTH)])
    median = distances[distances > 0].median() if (distances > 0).any() else torch.tensor(1.0)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squares = torch.cdist(x, y).square_()
        return sum((-squares / (2 * (width * median) ** 2)).exp() for width in _WIDTHS) / len(_WIDTHS)

    return unbiased_discrepancy(one, other, kernel)


def _checked(points: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 on the CPU."""
    for name, tensor in (("points", points), ("reference", reference)):
        if tensor.ndim != 2 or len(tensor) == 0 or not tensor.isfinite().all():
            raise ValueError(
                f"`{name}` has shape {tuple(tensor.shape)}: finite numbers of shape (N, d) with N > 0 are accepted."
            )
    if points.shape[1] != reference.shape[1]:
        raise ValueError(
            f"`points` have {points.shape[1]} coordinates, and those of `reference` {reference.shape[1]}."
        )
    return points.detach().cpu().double(), reference.detach().cpu().double()


def _directions(dimension: int) -> Tensor:
    """Unit vectors, (P, d)."""
    if dimension == 2:
        angles = torch.arange(_PROJECTIONS, dtype=torch.float64) * torch.pi / _PROJECTIONS
        return torch.stack([angles.cos(), angles.sin()], 1)
    random = torch.randn(_PROJECTIONS, dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return random / random.norm(dim=1, keepdim=True)
