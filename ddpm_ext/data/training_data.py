"""What a training run needs of a data set, whatever its samples are: images, points in the plane."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch

from ddpm_ext.data.stores import Draw
from ddpm_ext.randomness import DataOrder, Draws


class TrainingData(Protocol):
    """A data set as `ddpm_ext.training.run.Run` sees it.

    Attributes:
        noun: what the samples are, in the plural, and the key of a batch that holds them: "images", "points".
        shape: of one sample.
        max_value: 255 or 65535 where samples are integers in [-1, 1], as images are; None where they are numbers.
        labels: int64 (N,), 0..K-1, or None.
        fingerprint: differs where the samples or labels do.
    """

    noun: str
    shape: tuple[int, ...]
    max_value: int | None
    labels: torch.Tensor | None
    fingerprint: str

    def __len__(self) -> int: ...

    def order(self, seed: int, global_batch_size: int) -> DataOrder:
        """Which sample stands at which place of the stream that a run trains on."""
        ...

    def batches(
        self, plan: Iterable[Draw], device: torch.device | str = "cpu", ahead: int = 0
    ) -> Iterator[Mapping[str, torch.Tensor | None]]:
        """One batch on `device` per draw of the plan, in its order: samples, float32 (B, *shape), and "labels".

        Up to `ahead` draws may be taken from the plan before their batches are asked for.
        """
        ...

    def augment(self, batch: Mapping[str, torch.Tensor | None], random: Draws) -> Mapping[str, torch.Tensor | None]:
        """The batch with what is drawn anew each time a sample is seen."""
        ...
