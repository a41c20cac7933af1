"""How far the distribution of generated images is from that of real ones."""

import torch
from torch import Tensor


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """The squared Fréchet distance between Gaussians fitted to two sets of features, (N, D) and (M, D) (Heusel et al.
    2017).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with unbiased covariances, in float64. It falls with N, so only
    numbers of the same N compare. With fewer samples than dimensions the covariance is singular, which the number
    survives.
    """
    features, reference = features.double(), reference.double()
    first, second = torch.cov(features.T), torch.cov(reference.T)
    # The eigenvalues of C1 C2 are those of the symmetric S C2 S, S = C1^(1/2).
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    shift = features.mean(0) - reference.mean(0)
    return float(shift @ shift + first.trace() + second.trace() - 2 * overlap)
