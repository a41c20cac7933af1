"""What is kept of the features of many images: sums in float64, and the features themselves where they are asked for.

    sums       n, sum of f, sum of f f^T, in groups of consecutive images; in memory whose size is that of one batch
    features   (N, D), for metrics that compare images with one another

Images go through the extractor by the hundred, always the same ones together: neither the batches that they were made
in nor the number of processes changes a number by more than float64's order of summation.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_ext.data.images import Draw, ImageData

from .features import Extractor


GROUPS = 10
IMAGES_AT_A_TIME = 100
_ADDED_AT_A_TIME = 1000


@dataclass(frozen=True)
class Moments:
    """`mean` (D,) and unbiased `covariance` (D, D) of `count` features, float64."""

    count: int
    mean: Tensor
    covariance: Tensor

    @staticmethod
    def of(features: Tensor) -> "Moments":
        """Those of features (N, D)."""
        return Moments(len(features), features.double().mean(0), torch.cov(features.double().T))


class Sums:
    """Sums over features in `groups` groups: `counts` (G,), `sums` (G, D) and `products` (G, D, D), float64."""

    def __init__(self, counts: Tensor, sums: Tensor, products: Tensor) -> None:
        self.counts, self.sums, self.products = counts, sums, products

    @staticmethod
    def empty(dimension: int, groups: int) -> "Sums":
        shapes = (groups,), (groups, dimension), (groups, dimension, dimension)
        return Sums(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    @property
    def groups(self) -> int:
        return len(self.counts)

    @property
    def dimension(self) -> int:
        return self.sums.shape[1]

    def add(self, features: Tensor, group: int) -> None:
        """Counts in features (B, D)."""
        features = features.double()
        self.counts[group] += len(features)
        self.sums[group] += features.sum(0)
        self.products[group].addmm_(features.T, features)

    def moments(self, without: int | None = None) -> Moments:
        """Those of all features, or of all but those of the group `without`."""
        count, total, product = (
            x.sum(0) if self.groups > 1 else x[0] for x in (self.counts, self.sums, self.products)
        )
        if without is not None:
            count, total, product = (
                whole - part[without]
                for whole, part in zip((count, total, product), (self.counts, self.sums, self.products), strict=True)
            )
        mean = total / count
        return Moments(int(count), mean, torch.addr(product, total, mean, alpha=-1).div_(count - 1))


@dataclass(frozen=True)
class Extracted:
    """The sums over the features of `count` images, and the features of the first of them, float32 (M, D), M >= 0."""

    sums: Sums
    features: Tensor

    @property
    def count(self) -> int:
        return int(self.sums.counts.sum())


def extract(
    extractor: Extractor,
    images: Tensor | ImageData,
    accelerator: Accelerator | None = None,
    indices: Tensor | None = None,
    groups: int = GROUPS,
    keep_features: int = 0,
    progress: str | None = None,
) -> Extracted:
    """The sums over the features of `images` (all, or those at `indices` in that order), the same on every process.

    `images` are uint8 (N, C, H, W), or a data set of 8-bit images. `groups` is how many groups of consecutive images
    the sums are in; `keep_features`, of how many images the features themselves are kept. `progress` is the title of
    a bar that counts images.
    """
    indices = torch.arange(len(images)) if indices is None else indices
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    chunks = list(enumerate(indices.split(IMAGES_AT_A_TIME)))
    own = chunks[rank::world]
    sums = Sums.empty(extractor.dimension(images_of(images, indices[:1])), groups)
    waiting, kept = _Waiting(sums), []
    with tqdm(total=len(indices), desc=progress, unit="image", disable=progress is None or rank > 0) as bar:
        for (number, chunk), batch in zip(own, _read(images, (chunk for _, chunk in own)), strict=True):
            features = extractor(batch)
            start = number * IMAGES_AT_A_TIME
            for group, rows in _by_group(start, len(chunk), len(indices), groups):
                waiting.add(features[rows], group)
            if start < keep_features:
                kept.append((number, features[: keep_features - start]))
            bar.update(min(len(chunk) * world, len(indices) - bar.n))
    waiting.add_to_sums()
    if world > 1:
        sums = _sum_over_processes(sums, accelerator)
        kept = gather_object(kept)
    rows = [features for _, features in sorted(kept, key=lambda pair: pair[0])]
    return Extracted(sums, torch.cat(rows) if rows else torch.empty(0, sums.dimension))


def images_of(images: Tensor | ImageData, indices: Tensor) -> Tensor:
    """The chosen images, uint8 (B, C, H, W)."""
    return next(_read(images, [indices]))


def _read(images: Tensor | ImageData, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    if isinstance(images, Tensor):
        return (images[chunk] for chunk in chunks)
    return images.integer_batches(Draw(chunk) for chunk in chunks)


class _Waiting:
    """Features of one group that wait to be added to `sums` together, as to go through all D^2 of them takes time."""

    def __init__(self, sums: Sums) -> None:
        self.sums, self.group, self.parts = sums, 0, []

    def add(self, features: Tensor, group: int) -> None:
        if group != self.group or sum(map(len, self.parts)) >= _ADDED_AT_A_TIME:
            self.add_to_sums()
            self.group = group
        self.parts.append(features)

    def add_to_sums(self) -> None:
        if self.parts:
            self.sums.add(torch.cat(self.parts), self.group)
            self.parts = []


def _by_group(start: int, count: int, total: int, groups: int) -> Iterator[tuple[int, slice]]:
    """Which of `count` images, from number `start` on, belong to which group; group g has numbers from g N / G on."""
    place = start
    while place < start + count:
        group = place * groups // total
        end = min(start + count, -(-(group + 1) * total // groups))
        yield group, slice(place - start, end - start)
        place = end


def _sum_over_processes(sums: Sums, accelerator: Accelerator) -> Sums:
    device = accelerator.device
    parts = (accelerator.reduce(part.to(device), "sum").cpu() for part in (sums.counts, sums.sums, sums.products))
    return Sums(*parts)
