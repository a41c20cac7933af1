"""The losses since the last log line, kept on the device until they are asked for."""

import torch
from accelerate import Accelerator
from torch import Tensor


class LossRecord:
    """Per-sample losses and timesteps of the updates since `summary` was last called.

    Nothing is read from the device in between, so a loss that is not finite is noticed at the next summary, which
    comes before anything is saved.
    """

    def __init__(self, num_timesteps: int):
        self.num_timesteps = num_timesteps
        self._updates: list[list[tuple[Tensor, Tensor]]] = []
        self._complete = True
        self._by_timestep: Tensor | None = None

    def add(self, loss: Tensor, t: Tensor, completes_update: bool) -> None:
        """The losses (B,) of the timesteps t (B,) of one batch."""
        if self._complete:
            self._updates.append([])
        self._updates[-1].append((loss.detach(), t))
        self._complete = completes_update

    def summary(self, step: int, accelerator: Accelerator) -> dict[str, float]:
        """The mean loss over all processes, and that of each quarter of the timesteps; starts a new record.

        `step` is the number of updates done. ValueError where a loss is not finite, naming the update and the
        timesteps.
        """
        losses = torch.cat([loss for update in self._updates for loss, _ in update]).double()
        timesteps = torch.cat([t for update in self._updates for _, t in update])
        timesteps = timesteps.long().clamp(max=self.num_timesteps - 1)  # those of flow matching need not be whole
        per_sample = torch.stack([losses, torch.ones_like(losses)], dim=1)
        if self._by_timestep is None:
            self._by_timestep = torch.zeros(self.num_timesteps, 2, dtype=losses.dtype, device=losses.device)
        self._by_timestep.index_add_(0, timesteps, per_sample)
        quarters = timesteps * 4 // self.num_timesteps
        sums = torch.zeros(4, 2, dtype=torch.float64, device=losses.device)
        sums.index_add_(0, quarters, per_sample)
        sums = accelerator.reduce(sums, "sum").tolist()
        total, count = sum(row[0] for row in sums), sum(row[1] for row in sums)
        if total - total != 0:  # true of infinities and NaN alone
            raise ValueError(f"the loss is no longer finite {self._first_bad(step)}")
        self._updates = []
        by_quarter = {f"loss_quarter_{i + 1}": row[0] / row[1] for i, row in enumerate(sums) if row[1]}
        return {"loss": total / count, **by_quarter}

    def by_timestep(self, accelerator: Accelerator) -> Tensor:
        """The sum and the number of the losses of each timestep over all processes, float64 (T, 2) on the CPU, of the
        updates that `summary` has seen since this was last called (or the run resumed)."""
        sums, self._by_timestep = self._by_timestep, None
        if sums is None:
            return torch.zeros(self.num_timesteps, 2, dtype=torch.float64)
        return accelerator.reduce(sums, "sum").cpu()

    def _first_bad(self, step: int) -> str:
        for ago, update in zip(range(len(self._updates) - 1, -1, -1), self._updates, strict=True):
            loss, t = (torch.cat(parts) for parts in zip(*update, strict=True))
            bad = sorted(set(t[~torch.isfinite(loss)].tolist()))
            if bad:
                shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
                return f"at step {step - ago}, timesteps {shown}"
        return f"in another process, at step {step} or up to {len(self._updates)} earlier"
