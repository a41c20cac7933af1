"""What a run trains on, batch by batch: which samples, and every random number that belongs to them."""

from collections.abc import Iterator, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from ddpm_ext.data.stores import Draw
from ddpm_ext.data.training_data import TrainingData
from ddpm_ext.randomness import Draws, seed_for

from .global_batch import GlobalBatch


class Stream:
    """The batches of this process in a run of `total_steps`: a function of the seed, the step and the place in the
    global batch, so that a resumed run, or one of another division, sees the same."""

    def __init__(
        self, data: TrainingData, global_batch: GlobalBatch, seed: int, total_steps: int, accelerator: Accelerator
    ) -> None:
        self.data, self.global_batch, self.seed = data, global_batch, seed
        self.total_steps, self.accelerator = total_steps, accelerator
        self._order = data.order(seed, global_batch.size)

    def batches(self, step: int) -> Iterator[tuple[Draws, Mapping[str, Tensor | None]]]:
        """From `step` to the last: the draws of each batch, and the batch, with what is drawn anew each time."""
        per_step = self.global_batch.accumulation_steps
        ahead = self._order.steps_ahead * per_step
        batches = self.data.batches(self._plan(step), self.accelerator.device, ahead)
        for number in range(step * per_step, self.total_steps * per_step):
            draws = self.draws(*divmod(number, per_step))
            self.seed_dropout(draws)
            yield draws, self.data.augment(next(batches), draws)

    def draws(self, step: int, micro_batch: int) -> Draws:
        """Process r's m-th batch takes the places (m * world + r) * B and the next B - 1 of the global batch."""
        size = self.global_batch.train_batch_size
        first = (micro_batch * self.accelerator.num_processes + self.accelerator.process_index) * size
        return Draws(self.seed, step, self.global_batch.size, slice(first, first + size), self.accelerator.device)

    def seed_dropout(self, draws: Draws) -> None:
        """Dropout alone draws from torch's own generator, so its numbers depend on how the global batch is divided."""
        torch.manual_seed(seed_for(self.seed, "dropout", draws.step) + draws.places.start)

    def _plan(self, step: int) -> Iterator[Draw]:
        """What the loader is to read."""
        for later in range(step, self.total_steps):
            for micro_batch in range(self.global_batch.accumulation_steps):
                draws = self.draws(later, micro_batch)
                start = later * self.global_batch.size + draws.places.start
                indices = self._order.indices(start, self.global_batch.train_batch_size)
                yield Draw(indices, draws.uniform("crop", 2))
