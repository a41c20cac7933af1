import os
import signal
import time

import pytest
from accelerate import Accelerator
from diffusers import DiffusionPipeline

from ddpm_ext.training.interruption import INTERRUPTED, Interruption
from ddpm_ext.training.run import Run
from ddpm_ext.training.state import SavedState
from tests.training_helpers import Script, largest_difference, weights


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_told_to_stop_finishes_its_step_and_resumes_to_the_same_weights(
    number, finished_run, script: Script, tmp_path, monkeypatch
):
    stopped = tmp_path / "stopped"
    update, write = Run.update, SavedState.write

    def written_slowly(*arguments: object) -> None:
        time.sleep(0.3)
        write(*arguments)

    def told_to_stop_in_step_8(run: Run, loss, t, weight) -> None:
        if run.step == 7:
            os.kill(os.getpid(), number)
        update(run, loss, t, weight)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "update", told_to_stop_in_step_8)
        patch.setattr(SavedState, "write", written_slowly)
        with pytest.raises(SystemExit) as ended:
            script.run("train_unconditional", "--output_dir", str(stopped))
    assert ended.value.code == INTERRUPTED == 75
    assert {path.name for path in (stopped / "checkpoints").iterdir()} == {"checkpoint-5", "checkpoint-8"}
    script.run("train_unconditional", "--output_dir", str(stopped), "--resume")
    assert largest_difference(weights(finished_run), weights(stopped)) == 0


@pytest.mark.parametrize(
    ("step", "left"), [(10, {"checkpoint-5", "checkpoint-12"}), (12, {"checkpoint-5", "checkpoint-10"})]
)
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(step, left, script: Script, tmp_path, monkeypatch):
    write = SavedState.write

    def disk_is_full(self: SavedState, checkpoint, make_pipeline) -> None:
        write(self, checkpoint, make_pipeline)
        if self.step == step:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(SavedState, "write", disk_is_full)
    said = script.run("train_unconditional", "--output_dir", str(tmp_path))
    warned, _, ending = said.partition("The trained pipeline is in")
    assert f"checkpoint-{step} could not be written" in warned and "No space left on device" in warned and ending
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == left
    for name in left:
        DiffusionPipeline.from_pretrained(tmp_path / "checkpoints" / name)


def test_what_a_launcher_repeats_at_once_counts_as_one_and_a_second_request_acts(monkeypatch):
    """Ctrl-C in a terminal reaches a process twice under `accelerate launch`: from the terminal and the launcher."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with Interruption(Accelerator(cpu=True)) as interruption:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert interruption.is_agreed(step=1)
            now = 102.0
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, former)
