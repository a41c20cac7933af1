"""Whether a model repeats its training images: how near its samples are to them, against images that it has not seen.

A sample counts as near if it is nearer to a training image than 95 % of the held-out images are to theirs. Of a model
of the data's own distribution 5 % are. Samples that are blurrier or simpler than real images also come out near:
hence the pictures, and the gap in bits/dim, which a model that repeats its training images cannot hide. It counts as a
copy if it is nearer than a tenth of the median of those distances.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_ext.data.images import Draw, ImageData

from .estimates import Estimate
from .features import Extractor
from .neighbours import nearest
from .statistics import IMAGES_AT_A_TIME, extract


NEAR_SHARE = 0.05
_COPY_DISTANCE = 0.1
_CLEAR = 3  # times as many as expected
_COPIES_SHARE = 0.01
_GAP_BPD = 0.05


@dataclass(frozen=True)
class NearestImages:
    """The nearest training image of each of N samples and of each of M held-out images.

    `distances` (N,) and `held_out_distances` (M,): Euclidean, between features, float64. `indices` (N,): which image
    of the training split is the nearest.
    """

    distances: Tensor
    indices: Tensor
    held_out_distances: Tensor

    @property
    def near(self) -> Tensor:
        """Which of the samples are near a training image, bool (N,)."""
        return self.distances < self.held_out_distances.quantile(NEAR_SHARE)

    @property
    def near_share(self) -> Estimate:
        return Estimate.of_share(int(self.near.sum()), len(self.near))

    @property
    def copied_share(self) -> Estimate:
        copied = self.distances < _COPY_DISTANCE * self.held_out_distances.median()
        return Estimate.of_share(int(copied.sum()), len(copied))


def nearest_images(
    extractor: Extractor,
    samples: Tensor,
    train: ImageData,
    held_out: Tensor,
    accelerator: Accelerator | None = None,
    progress: str | None = None,
) -> NearestImages:
    """By the features of `samples` and `held_out` images, uint8 (N, C, H, W) and (M, C, H, W), and of all of `train`,
    of which a batch is in memory at a time. The processes share the work; all get the result."""
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    both = torch.cat([samples, held_out])
    queries = extract(extractor, both, accelerator, groups=1, keep_features=len(both)).features
    own = torch.arange(len(train)).split(IMAGES_AT_A_TIME)[rank::world]
    with tqdm(total=len(train), desc=progress, unit="image", disable=progress is None or rank > 0) as bar:

        def features() -> Iterator[Tensor]:
            for batch in train.integer_batches(Draw(chunk) for chunk in own):
                yield extractor(batch)
                bar.update(min(len(batch) * world, len(train) - bar.n))

        found = []
        if own:
            distances, places = nearest(queries, features())
            found = [(distances[:, 0], torch.cat(own)[places[:, 0]])]
    found = gather_object(found) if world > 1 else found
    distances, indices = (torch.stack(column) for column in zip(*found, strict=True))
    best = distances.min(0).values
    indices = torch.where(distances == best, indices, len(train)).min(0).values
    return NearestImages(best[: len(samples)], indices[: len(samples)], best[len(samples) :])


def side_by_side(samples: Tensor, train: ImageData, found: NearestImages, pairs: int) -> Tensor:
    """Samples, each with its nearest training image to its right, uint8 (P, C, H, 2 W): the nearest pairs first."""
    order = found.distances.argsort()[:pairs]
    return torch.cat([samples[order], train.integers(found.indices[order])], 3)


def bits_per_dim_gap(train: Tensor, held_out: Tensor) -> Estimate:
    """How many bits/dim more the held-out images cost than training images, from those of each, (N,) and (M,)."""
    parts = [x.double().cpu() for x in (train, held_out)]
    variance = sum(float(x.var()) / len(x) for x in parts)
    return Estimate.around(float(parts[1].mean() - parts[0].mean()), variance**0.5)


def verdict(found: NearestImages, gap: Estimate | None = None) -> str:
    """What it comes to, in plain words; `gap` is that of `bits_per_dim_gap`."""
    near, copied = found.near_share, found.copied_share
    facts = f"{near.value:.1%} of the samples are near a training image, where {NEAR_SHARE:.0%} are expected, "
    facts += f"and {copied.value:.1%} are copies"
    if gap is not None:
        interval = f"({gap.low:.3f} to {gap.high:.3f})"
        facts += f"; held-out images cost {gap.value:.3f} {interval} bits/dim more than training images"
    has_gap = gap is not None and gap.low > _GAP_BPD
    is_clear = near.low > _CLEAR * NEAR_SHARE
    if copied.low > _COPIES_SHARE or (is_clear and has_gap):
        return f"The model repeats training images: {facts}."
    if is_clear:
        return (
            f"Samples are nearer to training images than held-out images are: {facts}. Either the model repeats them, "
            "or its samples are simpler than real images, which the pairs of pictures tell apart."
        )
    if near.low > NEAR_SHARE or has_gap:
        return f"Some signs of memorisation: {facts}."
    return f"No sign of memorisation: {facts}."
