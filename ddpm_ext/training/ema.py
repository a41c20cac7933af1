"""Power-function averages of the weights while they train, and the snapshots from which other widths are made later.

A checkpoint holds the averages themselves, in float32: a resumed run goes on with them bit for bit. The snapshots are
for `reconstruct_ema.py` and live beside the checkpoints, in `ema_snapshots/`, because a reconstruction draws on the
whole run, of which `checkpoints_total_limit` would remove the most. There are at most `SNAPSHOTS_PER_RUN` of each
width, however long the run and however frequent its checkpoints: those of the widths 0.05 and 0.10 give any width from
0.03 to 0.20 with an error of the density of about 1 % or less, and take 256 bytes for each parameter of the network.
They are float32: averages of one run differ so little that float16, which Karras et al. (2024) store, rounds away 8 %
of the difference between the widths 0.07 and 0.10 (measured after 96 steps on the digits).
"""

import math
import os
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from .checkpoints import WRITE_ERRORS
from .post_hoc_ema import Profile, gamma_from_sigma_rel, share_of_newest
from .sharding import fill, whole


SNAPSHOTS_PER_RUN = 32


def averaged_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What an average is taken of, by name: the parameters, and batch norm's running means and variances."""
    running = {name: buffer for name, buffer in network.named_buffers() if buffer.is_floating_point()}
    return dict(network.named_parameters()) | running


class PowerEMA:
    """Averages of `network`'s weights, one of each width in `sigma_rels`; `updates` counts what they have seen."""

    def __init__(self, network: nn.Module, sigma_rels: Sequence[float] = (0.05, 0.10)) -> None:
        self.updates = 0
        tensors = averaged_tensors(network)
        self.names = list(tensors)
        self._parameters = sum(1 for _ in network.parameters())
        self._gammas = {sigma_rel: gamma_from_sigma_rel(sigma_rel) for sigma_rel in sigma_rels}
        self._averages = {
            sigma_rel: [tensor.detach().clone() for tensor in tensors.values()] for sigma_rel in sigma_rels
        }

    @torch.no_grad()
    def update(self, tensors: Iterable[Tensor]) -> None:
        """Takes up the `averaged_tensors` that an update left; the first ones become the average, whatever there was
        before."""
        self.updates += 1
        weights = list(tensors)
        for sigma_rel, averages in self._averages.items():
            share = share_of_newest(self._gammas[sigma_rel], self.updates)
            for some in (slice(self._parameters), slice(self._parameters, None)):  # FSDP divides the first alone
                if weights[some]:
                    torch._foreach_lerp_(averages[some], weights[some], share)

    @property
    def sigma_rels(self) -> list[float]:
        return list(self._averages)

    def average(self, sigma_rel: float) -> dict[str, Tensor]:
        """The average of this width by the parameters' names; a view, not a copy."""
        return dict(zip(self.names, self._averages[sigma_rel], strict=True))

    @property
    def averages(self) -> dict[float, list[Tensor]]:
        """The tensors of each average by its width; not a copy."""
        return self._averages

    def with_averages(self, averages: dict[float, list[Tensor]]) -> "PowerEMA":
        """Itself as it is now, but with other `averages`."""
        copied = copy(self)
        copied._averages = averages
        return copied

    def whole(self) -> "PowerEMA":
        """Itself with all of each average, where each process has only its share; every process must ask."""
        return self.with_averages({width: [whole(tensor) for tensor in own] for width, own in self._averages.items()})

    def save(self, folder: Path) -> None:
        """Writes `folder`, new: a file of each width."""
        folder.mkdir()
        for sigma_rel in self.sigma_rels:
            metadata = {"sigma_rel": repr(sigma_rel), "updates": str(self.updates)}
            tensors = {name: tensor.contiguous() for name, tensor in self.average(sigma_rel).items()}
            save_file(tensors, folder / f"{_name(sigma_rel)}.safetensors", metadata)

    def load(self, folder: Path) -> None:
        """Takes up what `save` wrote; see `check_same_widths`."""
        for sigma_rel, averages in self._averages.items():
            path = folder / f"{_name(sigma_rel)}.safetensors"
            saved = load_file(path)
            fill(averages, (saved[name] for name in self.names))
            self.updates = int(_metadata(path)["updates"])


def check_same_widths(checkpoint: Path, sigma_rels: Sequence[float] | None) -> None:
    """ValueError where `checkpoint` has averages of other widths than `sigma_rels`; None has none."""
    saved = sorted(float(_metadata(path)["sigma_rel"]) for path in (checkpoint / "ema").glob("*.safetensors"))
    if saved != sorted(sigma_rels or []):
        raise ValueError(
            f"`resume_from_checkpoint` is {checkpoint}, which was trained with ema_sigma_rel = {saved or None}, and "
            f"this run has {sigma_rels}: a run can only be resumed as it was started."
        )


@dataclass(frozen=True)
class Snapshot:
    """A stored average: its file, what it is an average of, and the run's step, which counts skipped updates too."""

    path: Path
    profile: Profile
    step: int


def list_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in `folder`, by step and width; ValueError for a file that is none."""
    found = []
    for path in folder.glob("sigma_rel-*.safetensors"):
        try:
            metadata = _metadata(path)
            profile = Profile(float(metadata["sigma_rel"]), int(metadata["updates"]))
            found.append(Snapshot(path, profile, int(metadata["step"])))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"`run` holds {path}, which is no snapshot ({type(error).__name__}: {error}).") from None
    return sorted(found, key=lambda snapshot: (snapshot.step, snapshot.profile.sigma_rel))


def weighted_sum(snapshots: Sequence[Snapshot], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """The sum of the snapshots' weights, float32, by the parameters' names; reads one file at a time."""
    total: dict[str, Tensor] = {}
    for snapshot, coefficient in zip(snapshots, coefficients, strict=True):
        for name, tensor in load_file(snapshot.path).items():
            total[name] = total[name].add_(tensor, alpha=coefficient) if name in total else tensor * coefficient
    return total


class SnapshotWriter:
    """Writes the snapshots of a run that ends at step `total_steps` into `folder`.

    `start`: the step that the run, started or resumed, goes on from. Snapshots of later steps are those of another end
    of this run, or of another run; they are removed when the first new one is written.
    """

    def __init__(self, folder: Path, total_steps: int) -> None:
        self.folder, self.total_steps = folder, total_steps
        self.every_steps = math.ceil(total_steps / SNAPSHOTS_PER_RUN)
        self.start = 0
        self._is_cleared = False

    def is_due(self, step: int) -> bool:
        return step % self.every_steps == 0 or step == self.total_steps

    def write(self, ema: PowerEMA, step: int) -> None:
        """A disk that does not take it costs a snapshot and a warning, not the run."""
        if ema.updates == 0:
            return
        try:
            self._clear()
            for sigma_rel in ema.sigma_rels:
                tensors = {name: tensor.contiguous() for name, tensor in ema.average(sigma_rel).items()}
                metadata = {"sigma_rel": repr(sigma_rel), "updates": str(ema.updates), "step": str(step)}
                name = f"{_name(sigma_rel)}-step-{step:07d}.safetensors"
                partial = self.folder / f".partial-{name}"
                try:
                    save_file(tensors, partial, metadata)
                    os.replace(partial, self.folder / name)
                finally:
                    partial.unlink(missing_ok=True)
        except WRITE_ERRORS as error:
            tqdm.write(f"warning: the EMA snapshots of step {step} could not be written ({error}); training goes on.")

    def _clear(self) -> None:
        if self._is_cleared:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("sigma_rel-*-step-*.safetensors"):
            if int(path.stem.rpartition("-")[2]) > self.start:
                path.unlink()
        for path in self.folder.glob(".partial-*"):
            path.unlink()
        self._is_cleared = True


def _name(sigma_rel: float) -> str:
    return f"sigma_rel-{sigma_rel:.3f}"


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
