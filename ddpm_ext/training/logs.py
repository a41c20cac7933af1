"""What a run tells while it trains: one progress bar, `metrics.jsonl`, `loss.png`, sample grids, and the tracker."""

import json
import os
import time
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.logging import get_logger
from PIL import Image
from tqdm.auto import tqdm

from ddpm_ext.visualization import loss_curve

from .arguments import LoggingArguments


logger = get_logger(__name__)


def prepare_tracker(arguments: LoggingArguments) -> None:
    """W&B never asks a question: without a login, and unless WANDB_MODE says otherwise, it runs offline."""
    if arguments.logger != "wandb":
        return
    import wandb

    if "WANDB_MODE" not in os.environ and not wandb.api.api_key:
        os.environ["WANDB_MODE"] = "offline"
        print("note: no W&B login was found, so W&B runs offline; `wandb sync` uploads the run later.")


class Logs:
    """The written and shown progress of a run; everything but `start` and `metrics` acts on the main process alone."""

    def __init__(self, arguments: LoggingArguments, accelerator: Accelerator, output_dir: Path):
        self.arguments = arguments
        self.accelerator = accelerator
        self.output_dir = output_dir
        self.history: list[dict[str, float]] = []
        self._since = time.perf_counter()
        self._images = 0

    def start(self, configuration: dict[str, object], step: int, total: int) -> None:
        """Opens the tracker and the `bar`; a resumed run keeps its metrics up to `step`."""
        if self.arguments.logger != "none":
            flat = {name: _plain(value) for name, value in configuration.items()}
            wandb = {"dir": str(self.output_dir), "name": self.arguments.run_name or self.output_dir.name}
            options = {"wandb": wandb} if self.arguments.logger == "wandb" else {}
            self.accelerator.init_trackers(self.arguments.project_name or "ddpm-ext", flat, options)
        hidden = not self.accelerator.is_main_process
        self.bar = tqdm(total=total, initial=step, desc="training", unit="step", disable=hidden)
        if self.accelerator.is_main_process:
            self._read_history(step)
        self._since, self._images = time.perf_counter(), 0

    @property
    def metrics_file(self) -> Path:
        return self.output_dir / "metrics.jsonl"

    def _read_history(self, step: int) -> None:
        if self.metrics_file.exists():
            lines = self.metrics_file.read_text().splitlines()
            self.history = [row for row in map(json.loads, lines) if row["step"] <= step]
        self.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in self.history))

    def advance(self, images: int) -> None:
        """One update on `images` images is done."""
        self._images += images
        self.bar.update()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Records `values`, and the speed since the last call, under `step`."""
        now = time.perf_counter()
        values = {**values, "images_per_second": self._images / (now - self._since)}
        self._since, self._images = now, 0
        self.accelerator.log(values, step=step)
        if self.accelerator.is_main_process:
            row = {"step": step, **{name: float(f"{value:.6g}") for name, value in values.items()}}
            self.history.append(row)
            with self.metrics_file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.bar.set_postfix_str(f"loss {values['loss']:.4f}, {values['images_per_second']:,.0f} images/s")

    def samples(self, step: int, grid: Image.Image) -> None:
        """Writes `samples/step-<step>.png` and gives the grid to the tracker."""
        if not self.accelerator.is_main_process:
            return
        path = self.output_dir / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        grid.save(path)
        pixels = np.asarray(grid.convert("RGB"))
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"samples": pixels[None]}, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"samples": [pixels]}, step=step)

    def resume_clock(self) -> None:
        """Forgets the time since the last metrics, in which something else than training was done."""
        self._since, self._images = time.perf_counter(), 0

    def warn(self, sentence: str) -> None:
        """Says `sentence` above the bar."""
        tqdm.write(f"warning: {sentence}.")

    def finish(self) -> None:
        """Writes `loss.png` and closes the tracker."""
        self.accelerator.end_training()
        if not self.accelerator.is_main_process:
            return
        rows = [row for row in self.history if "loss" in row]
        if rows:
            figure = loss_curve([row["step"] for row in rows], [row["loss"] for row in rows], self.output_dir.name)
            figure.savefig(self.output_dir / "loss.png", dpi=120)


def _plain(value: object) -> int | float | str | bool:
    """`value` in a form that every tracker accepts as a hyper-parameter."""
    return value if isinstance(value, int | float | str | bool) else str(value)
