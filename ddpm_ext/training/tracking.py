"""The tracker of a run: W&B, TensorBoard or none. What goes wrong in it costs a warning, and not the run."""

import netrc
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
from accelerate import Accelerator

from .logging_arguments import LoggingArguments


class Tracker:
    """Where curves and pictures go besides the output folder; on all but the main process, nowhere.

    `run_id` is W&B's name for the run, None with any other tracker: a checkpoint carries it, so that a resumed run
    goes on in the same curves. `warn` is told, in a sentence, what went wrong; after that nothing more is sent.
    """

    def __init__(
        self,
        arguments: LoggingArguments,
        accelerator: Accelerator,
        output_dir: Path,
        warn: Callable[[str], None],
    ) -> None:
        self.arguments = arguments
        self.accelerator = accelerator
        self.output_dir = output_dir
        self.run_id: str | None = None
        self._warn = warn
        self._is_on = arguments.logger != "none" and accelerator.is_main_process

    def start(self, configuration: Mapping[str, object], step: int, run_id: str | None) -> None:
        """Opens the tracker; `run_id` is that of the run that goes on from `step`, None where there was none."""
        name = self.arguments.logger
        options: dict[str, object] = {}
        if name == "wandb":
            self.run_id = run_id or uuid.uuid4().hex[:8]
            title = self.arguments.run_name or self.output_dir.name
            options = {"dir": str(self.output_dir), "name": title, "id": self.run_id, "resume": "allow"}
            options["mode"] = _wandb_mode()
        elif name == "tensorboard" and step > 0:
            options = {"purge_step": step + 1}  # what was written after the checkpoint will be written again
        flat = {key: _plain(value) for key, value in configuration.items()}
        project = self.arguments.project_name or "ddpm-ext"
        self._try(lambda: self.accelerator.init_trackers(project, flat, {name: options}))

    def log(self, values: dict[str, float], step: int) -> None:
        """Records `values` under `step`."""
        self._try(lambda: [tracker.log(values, step=step) for tracker in self.accelerator.trackers])

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Records a picture, uint8 (H, W, 3), under `step`."""
        self._try(lambda: self._log_image(name, pixels, step))

    def _log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
            else:
                tracker.log_images({name: [pixels]}, step=step)

    def finish(self) -> None:
        """Closes the tracker."""
        self._try(lambda: [tracker.finish() for tracker in self.accelerator.trackers])
        self.accelerator.trackers.clear()  # else `end_training` would close them again
        self._is_on = False

    def _try(self, action: Callable[[], object]) -> None:
        if not self._is_on:
            return
        try:
            action()
        except Exception as error:  # a network, a service, a full disk: whatever it is, it is not the training
            self._is_on = False
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            self._warn(
                f"{self.arguments.logger} failed ({reason}); training goes on, and metrics.jsonl has the curves"
            )


def _wandb_mode() -> str | None:
    """W&B never asks a question: without a login, and unless WANDB_MODE says otherwise, it is to run offline."""
    if "WANDB_MODE" in os.environ or _has_wandb_login():
        return None
    print("note: no W&B login was found, so W&B runs offline; `wandb sync` uploads the run later.")
    return "offline"


def _has_wandb_login() -> bool:
    """Whether W&B would find a key where `wandb login` leaves it; asked of the files, as W&B itself might ask back."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    home = Path.home()
    for file in (os.environ.get("NETRC"), home / ".netrc", home / "_netrc"):
        try:
            if file is not None and netrc.netrc(file).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _plain(value: object) -> int | float | str | bool:
    """`value` in a form that every tracker accepts as a hyper-parameter."""
    return value if isinstance(value, int | float | str | bool) else str(value)
