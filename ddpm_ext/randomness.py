"""Randomness as a function of (seed, purpose, step) and of a sample's place in the global batch; the order of the
data as a function of (seed, epoch).

Nothing is drawn from a generator that carries state from one step to the next. So a run that is resumed, or run on
another number of processes or accumulation steps, sees the same stream, and seeking in it costs nothing.
"""

import hashlib
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

    def indices(self, start: int, count: int) -> Tensor:
        """The samples at positions `start` to `start + count` of the stream, int64."""
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self.num_samples)
            part = self._order(epoch)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._permutation = torch.randperm(self.num_samples, generator=generator_for(self._seed, "order", epoch))
            self._epoch = epoch
        return self._permutation
