"""What a run tells while it trains: one progress bar, `metrics.jsonl`, `loss.png`, sample grids, and the tracker."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ddpm_ext.visualization import as_gif, as_image, loss_curve, loss_per_timestep

from .logging_arguments import LoggingArguments
from .tracking import Tracker


class Logs:
    """The written and shown progress of a run on samples called `noun`; all processes may call it, the main one alone
    acts."""

    def __init__(self, arguments: LoggingArguments, accelerator: Accelerator, output_dir: Path, noun: str):
        self.arguments = arguments
        self.accelerator = accelerator
        self.output_dir = output_dir
        self.noun = noun
        self.tracker = Tracker(arguments, accelerator, output_dir, self.warn)
        self.history: list[dict[str, float]] = []
        self._since = time.perf_counter()
        self._samples = 0

    def start(self, configuration: dict[str, object], step: int, total: int, tracker_run_id: str | None) -> None:
        """Opens the tracker and the `bar`; a resumed run keeps its metrics up to `step`, and its run in the
        tracker."""
        self.tracker.start(configuration, step, tracker_run_id)
        hidden = not self.accelerator.is_main_process
        self.bar = tqdm(total=total, initial=step, desc="training", unit="step", disable=hidden)
        if self.accelerator.is_main_process:
            self._read_history(step)
        self._since, self._samples = time.perf_counter(), 0

    @property
    def metrics_file(self) -> Path:
        return self.output_dir / "metrics.jsonl"

    def _read_history(self, step: int) -> None:
        if self.metrics_file.exists():
            rows = map(_row, self.metrics_file.read_text().splitlines())
            self.history = [row for row in rows if row is not None and row["step"] <= step]
        partial = self.metrics_file.with_name(".partial-metrics.jsonl")
        partial.write_text("".join(json.dumps(row) + "\n" for row in self.history))
        partial.replace(self.metrics_file)

    def advance(self, count: int) -> None:
        """One update on `count` samples is done."""
        self._samples += count
        self.bar.update()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Records `values`, the memory in use, and the speed since the last call, under `step`."""
        if not self.accelerator.is_main_process:
            return
        now = time.perf_counter()
        speed = self._samples / (now - self._since)
        values = {**values, f"{self.noun}_per_second": speed, "memory_gib": _memory_gib(self.accelerator.device)}
        self._since, self._samples = now, 0
        self.measurements(step, values)
        self.bar.set_postfix_str(f"loss {values['loss']:.4f}, {speed:,.0f} {self.noun}/s")

    def measurements(self, step: int, values: dict[str, float]) -> None:
        """Records `values` under `step`, as they are."""
        if not self.accelerator.is_main_process:
            return
        self.tracker.log(values, step)
        row = {"step": step, **{name: _rounded(value) for name, value in values.items()}}
        self.history.append(row)
        try:
            with self.metrics_file.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            self.warn(f"the metrics of step {step} could not be written ({error})")

    def samples(self, step: int, grid: Image.Image) -> None:
        """Writes `samples/step-<step>.png` and gives the grid to the tracker."""
        self._into_samples("samples", f"step-{step:06d}.png", grid, step)

    def noise(self, grid: Image.Image) -> None:
        """Writes `samples/noise.png` and gives it to the tracker."""
        self._into_samples("noise", "noise.png", grid, 0)

    def _into_samples(self, name: str, file: str, grid: Image.Image, step: int) -> None:
        if self.accelerator.is_main_process:
            (self.output_dir / "samples").mkdir(exist_ok=True)
            self._picture(name, self.output_dir / "samples" / file, grid, step)

    def loss_per_timestep(self, step: int, sums: Tensor) -> None:
        """Draws `loss_per_timestep.png` from sums and numbers of losses, (T, 2), and gives it to the tracker."""
        if self.accelerator.is_main_process and sums[:, 1].any():
            picture = as_image(loss_per_timestep(sums[:, 0], sums[:, 1], f"{self.output_dir.name}, step {step:,}"))
            self._picture("loss_per_timestep", self.output_dir / "loss_per_timestep.png", picture, step)

    def trajectory(self, step: int, frames: Sequence[Image.Image], moments: Image.Image) -> None:
        """Writes `frames` to `trajectory.gif`, and gives the tracker some `moments` of it side by side."""
        try:
            (self.output_dir / "trajectory.gif").write_bytes(as_gif(frames))
        except OSError as error:
            self.warn(f"trajectory.gif could not be written ({error})")
        self.tracker.image("trajectory", np.asarray(moments.convert("RGB")), step)

    def _picture(self, name: str, path: Path, picture: Image.Image, step: int) -> None:
        try:
            picture.save(path)
        except OSError as error:
            self.warn(f"{path.name} could not be written ({error})")
        self.tracker.image(name, np.asarray(picture.convert("RGB")), step)

    def resume_clock(self) -> None:
        """Forgets the time since the last metrics, in which something else than training was done."""
        self._since, self._samples = time.perf_counter(), 0

    def warn(self, sentence: str) -> None:
        """Says `sentence` above the bar."""
        tqdm.write(f"warning: {sentence}.")

    def say(self, sentence: str) -> None:
        """Says `sentence` above the bar, of the main process alone."""
        if self.accelerator.is_main_process:
            tqdm.write(f"note: {sentence}.")

    def draw_losses(self) -> None:
        """Writes `loss.png`."""
        rows = [row for row in self.history if "loss" in row]
        if rows and self.accelerator.is_main_process:
            figure = loss_curve([row["step"] for row in rows], [row["loss"] for row in rows], self.output_dir.name)
            figure.savefig(self.output_dir / "loss.png", dpi=120)

    def finish(self) -> None:
        """Draws the losses and closes the tracker."""
        self.draw_losses()
        self.tracker.finish()


def _row(line: str) -> dict[str, float] | None:
    """A line of metrics.jsonl; None for one that a full disk has cut short."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _rounded(value: float) -> float | int:
    """Six significant digits; whole numbers as they are."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _memory_gib(device: torch.device) -> float:
    """The most that was in use on a GPU, or else what the process holds now."""
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return used / 2**30
