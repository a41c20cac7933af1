"""Randomness as a function of (seed, purpose, step) and of a sample's place in the global batch; the order of the
data as a function of (seed, epoch).

Nothing is drawn from a generator that carries state from one step to the next. So a run that is resumed, or run on
another number of processes or accumulation steps, sees the same stream, and seeking in it costs nothing.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor


_MURMUR_FINALIZER = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))  # MurmurHash3 (Appleby): a bijection of 32 bits


def seed_for(seed: int, purpose: str, index: int) -> int:
    """A 32-bit seed for the `index`-th use of `purpose`; different indices below 2^32 never share one.

    torch's CPU generator takes no more than 32 bits, so the seeds of a purpose are a permutation of them, started at a
    place that (seed, purpose) decides: hashing alone would give two of 50,000 images the same noise.
    """
    digest = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=4).digest()
    mixed = (int.from_bytes(digest, "little") + index) & 0xFFFFFFFF
    for shift, factor in _MURMUR_FINALIZER:
        mixed = ((mixed ^ (mixed >> shift)) * factor) & 0xFFFFFFFF
    return mixed


def generator_for(seed: int, purpose: str, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for the `index`-th use of `purpose`."""
    return torch.Generator(device).manual_seed(seed_for(seed, purpose, index))


@dataclass(frozen=True)
class Draws:
    """The random numbers of one optimizer step, seen through a window on the global batch.

    Every draw is made for the whole global batch and cut to `places`, so the numbers of a sample do not depend on how
    the batch is divided. `purpose` names the draw: the same name twice gives the same numbers.
    """

    seed: int
    step: int
    global_batch_size: int
    places: slice
    device: torch.device

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform in [0, 1), float64 (float32 where there is none), (B, *shape)."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        generator = generator_for(self.seed, purpose, self.step, self.device)
        size = (self.global_batch_size, *shape)
        return torch.rand(size, generator=generator, device=self.device, dtype=dtype)[self.places]

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal, float32, (B, *shape)."""
        generator = generator_for(self.seed, purpose, self.step, self.device)
        return torch.randn((self.global_batch_size, *shape), generator=generator, device=self.device)[self.places]


class DataOrder:
    """Which sample stands at which position of an endless stream: epoch after epoch, each a permutation of all
    samples.

    Batches are cut from the stream without regard to epochs, so they are all of one size and no sample is left out.
    """

    def __init__(self, num_samples: int, seed: int):
        self.num_samples = num_samples
        self._seed = seed
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    @property
    def steps_ahead(self) -> int:
        """For how many optimizer steps it pays to read ahead."""
        return 0

    def indices(self, start: int, count: int) -> Tensor:
        """The samples at positions `start` to `start + count` of the stream, int64."""
        parts = []
        while count > 0:
            part = self._rest(*divmod(start, self.num_samples))[:count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(parts)

    def _rest(self, epoch: int, offset: int) -> Tensor:
        """The samples of an epoch from `offset` on: at least one of them, and as many as are at hand."""
        if epoch != self._epoch:
            self._permutation = torch.randperm(self.num_samples, generator=generator_for(self._seed, "order", epoch))
            self._epoch = epoch
        return self._permutation[offset:]


class BlockOrder(DataOrder):
    """An order for samples that are read in blocks, such as the row groups of parquet files.

    In each epoch the blocks are shuffled and cut into windows of about `window` samples; the samples of a window are
    shuffled among its positions. A block is dealt to neighbouring places of the global batch, so that every batch has
    its share of every block of the window, and a process that has a quarter of the places needs a quarter of the
    blocks (and at either end perhaps one more).
    """

    def __init__(self, block_sizes: Tensor, window: int, global_batch_size: int, seed: int):
        super().__init__(int(block_sizes.sum()), seed)
        self.num_windows = max(1, round(self.num_samples / window))
        self._global_batch_size = global_batch_size
        self._sizes = block_sizes
        self._firsts = block_sizes.cumsum(0) - block_sizes
        self._first = -1  # block, by its place in the epoch, of the window that `_permutation` is of

    @property
    def steps_ahead(self) -> int:
        """Those of a window, so that a block stays in memory from its first use to its last."""
        largest = self.num_samples / self.num_windows + int(self._sizes.max())
        return math.ceil(largest / self._global_batch_size)

    def _rest(self, epoch: int, offset: int) -> Tensor:
        if epoch != self._epoch:
            self._shuffle_blocks(epoch)
            self._epoch, self._first = epoch, -1
        window = self._windows[torch.searchsorted(self._begins, offset, right=True) - 1]
        first, last = torch.searchsorted(self._windows, torch.stack([window, window + 1])).tolist()
        begin = int(self._begins[first])
        if first != self._first:
            self._permutation = self._deal(self._blocks[first:last], epoch * self.num_samples + begin)
            self._first = first
        return self._permutation[offset - begin :]

    def _shuffle_blocks(self, epoch: int) -> None:
        """Sets the blocks of an epoch in their order, and of each its first position and its window."""
        self._blocks = torch.randperm(len(self._sizes), generator=generator_for(self._seed, "order", epoch))
        sizes = self._sizes[self._blocks]
        self._begins = sizes.cumsum(0) - sizes
        self._windows = self._begins * self.num_windows // self.num_samples

    def _deal(self, blocks: Tensor, start: int) -> Tensor:
        """The samples of a window of `blocks` by position, the first of which is `start` in the stream."""
        sizes = self._sizes[blocks]
        block = torch.arange(len(blocks)).repeat_interleave(sizes)
        samples = torch.arange(len(block)) + (self._firsts[blocks] - sizes.cumsum(0) + sizes)[block]
        generator = generator_for(self._seed, "window", start)
        within_blocks = torch.rand(len(block), generator=generator, dtype=torch.float64)
        samples = samples[torch.argsort(block + within_blocks, stable=True)]
        places = (start + torch.arange(len(block))) % self._global_batch_size
        dealt = torch.empty_like(samples)
        dealt[torch.argsort(places, stable=True)] = samples
        return dealt
