"""The checkpoints of one run: the one that it goes on from, and those that it writes while the training goes on.

`Run` calls `save` after an update. Training stands still while a copy of all that a checkpoint holds is taken; a
thread writes it and removes the oldest. One is written at a time: the next one, and the end of the run, wait for it.
"""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from accelerate import Accelerator
from diffusers import DiffusionPipeline, ModelMixin

from ddpm_ext.data.training_data import TrainingData

from .arguments import Arguments
from .checkpoints import (
    WRITE_ERRORS,
    check_same_network,
    check_same_run,
    chosen_checkpoint,
    list_checkpoints,
    read_whole,
    remove_oldest,
    run_identity,
    written_whole,
)
from .global_batch import GlobalBatch
from .state import SavedState, TrainingState


class Checkpoints:
    """The checkpoints of a run on `data`, due every `every_steps`.

    `warn` is told, in a sentence, of one that could not be written. ValueError where there is none to resume from.
    """

    def __init__(
        self,
        arguments: Arguments,
        data: TrainingData,
        global_batch: GlobalBatch,
        steps_per_epoch: int,
        accelerator: Accelerator,
        warn: Callable[[str], None],
    ) -> None:
        training = arguments.training
        _finish_former_runs()
        self.folder = Path(training.output_dir) / "checkpoints"
        epochs = training.checkpointing_epochs
        self.every_steps = epochs * steps_per_epoch if epochs else training.checkpointing_steps
        self._accelerator, self._global_batch, self._warn = accelerator, global_batch, warn
        self._identity = run_identity(arguments, data, global_batch)
        self._keep = training.checkpoints_total_limit
        self._resume_from = chosen_checkpoint(self.folder, training.resume, training.resume_from_checkpoint)
        self._writing: _Writing | None = None

    def resume(self, state: TrainingState) -> dict[str, object]:
        """Has `state` take up the checkpoint that the run goes on from, if any; what that one says of its run.

        ValueError where it is of another run or network, or cannot be read.
        """
        if self._resume_from is None:
            return {}
        about = check_same_run(self._resume_from, self._identity, self._global_batch)
        with read_whole(self._resume_from):
            check_same_network(self._resume_from, state.unet)
            state.load(self._resume_from)
        return about

    def save(
        self,
        state: TrainingState,
        make_pipeline: Callable[[ModelMixin], DiffusionPipeline],
        about: Mapping[str, object],
    ) -> None:
        """Takes a copy of `state`, which is written to `checkpoint-<step>` meanwhile; every process must call it.

        It holds a pipeline as it would be saved now, the raw weights in `unet_raw` where the pipeline has averaged
        ones, and in `state` what resuming needs besides, and what it is to say `about` its run.
        """
        self._finish_writing()
        saved = state.to_save()
        if saved is not None:
            self._writing = _Writing(lambda: self._write(saved, make_pipeline, {**self._identity, **about}))

    def wait(self) -> None:
        """Waits until the last one is written, or a warning has said why not; every process must call it."""
        self._finish_writing()
        self._accelerator.wait_for_everyone()

    def newest(self) -> Path | None:
        """The newest one, written to its end if that has begun."""
        self._finish_writing()
        found = list_checkpoints(self.folder)
        return found[-1] if found else None

    def _finish_writing(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.finish()

    def _write(
        self,
        saved: SavedState,
        make_pipeline: Callable[[ModelMixin], DiffusionPipeline],
        about: Mapping[str, object],
    ) -> None:
        name = f"checkpoint-{saved.step}"
        try:
            with written_whole(self.folder / name) as partial:
                saved.write(partial, make_pipeline)
                (partial / "state" / "run.json").write_text(json.dumps(about, indent=2) + "\n")
            remove_oldest(self.folder, self._keep)
        except WRITE_ERRORS as error:
            self._warn(f"{name} could not be written ({error}); training goes on without it")


class _Writing(threading.Thread):
    """A thread that does `write` from now on. Python waits for it before it ends, whatever ends the run."""

    def __init__(self, write: Callable[[], None]) -> None:
        super().__init__(name="writes a checkpoint", daemon=False)
        self._write = write
        self._error: BaseException | None = None
        self._is_over = threading.Event()  # a `join` that Ctrl-C ends would count the thread as ended, too
        self.start()

    def run(self) -> None:
        try:
            self._write()
        except BaseException as error:
            self._error = error
        finally:
            self._is_over.set()

    def wait(self) -> None:
        """Waits for its end."""
        self._is_over.wait()

    def finish(self) -> None:
        """Waits for its end; raises what it raised."""
        self.wait()
        if self._error is not None:
            raise self._error


def _finish_former_runs() -> None:
    """A run in this process may have failed while its last checkpoint was written, and this one may resume it."""
    for thread in threading.enumerate():
        if isinstance(thread, _Writing):
            thread.wait()
