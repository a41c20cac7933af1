"""Nearest neighbours among many images, a batch of them in memory at a time."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Neighbours(NamedTuple):
    """The nearest first: Euclidean `distances` (N, k), float64, and `indices` (N, k), int64."""

    distances: Tensor
    indices: Tensor


def nearest(queries: Tensor, base: Iterable[Tensor], k: int = 1) -> Neighbours:
    """The `k` rows of `base`, which comes in batches (B, D), that are nearest to each of `queries` (N, D).

    Fewer than k where `base` has no more rows. ValueError where it has none.
    """
    queries = queries.double()
    found: Neighbours | None = None
    start = 0
    for batch in base:
        distances = torch.cdist(queries, batch.to(queries))
        indices = torch.arange(start, start + len(batch), device=queries.device).expand(len(queries), -1)
        if found is not None:
            distances = torch.cat([found.distances, distances], 1)
            indices = torch.cat([found.indices, indices], 1)
        best = distances.topk(min(k, distances.shape[1]), largest=False)
        found = Neighbours(best.values, indices.gather(1, best.indices))
        start += len(batch)
    if found is None:
        raise ValueError("the reference is empty: at least one image is needed.")
    return found
