"""Checkpoints that are written while the training goes on."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ddpm_ext.training.checkpoint_writer import Checkpoints
from ddpm_ext.training.host_copy import HostCopy
from ddpm_ext.training.run import Run
from ddpm_ext.training.state import SavedState, TrainingState
from tests.training_helpers import Script, killed_at


@contextmanager
def written_at_once() -> Iterator[None]:
    """Whatever run is started within waits for each checkpoint, as if there were no thread."""
    save = Checkpoints.save

    def save_and_wait(checkpoints: Checkpoints, *arguments: object) -> None:
        save(checkpoints, *arguments)
        checkpoints.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_wait)
        yield


@contextmanager
def written_as_late_as_can_be() -> Iterator[list[tuple[int, int]]]:
    """Each checkpoint of a run within is begun to be written when the next one, or the end, waits for it.

    Yields (its step, the step that the run had reached by then) of each.
    """
    save, wait, write = Checkpoints.save, Checkpoints.wait, SavedState.write
    called_at: list[int] = []
    reached: list[tuple[int, int]] = []

    def save_later(checkpoints: Checkpoints, state: TrainingState, *arguments: object) -> None:
        called_at.append(state.step)
        save(checkpoints, state, *arguments)

    def wait_for_it(checkpoints: Checkpoints) -> None:
        called_at.append(called_at[-1])
        wait(checkpoints)

    def written_late(saved: SavedState, *arguments: object) -> None:
        until = time.monotonic() + 60
        while len(called_at) < len(reached) + 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.1)  # in which the run would go on, if it did not wait
        reached.append((saved.step, called_at[-1]))
        write(saved, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_later)
        patch.setattr(Checkpoints, "wait", wait_for_it)
        patch.setattr(SavedState, "write", written_late)
        yield reached


def contents(checkpoint: Path) -> dict[str, object]:
    """Every file of `checkpoint`; of averages, whose metadata safetensors writes in any order, what they hold."""
    found: dict[str, object] = {}
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        found[str(path.relative_to(checkpoint))] = path.read_bytes()
        if path.parent.name == "ema":
            with safe_open(path, framework="np") as file:
                tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}
                found[str(path.relative_to(checkpoint))] = file.metadata(), tensors
    return found


@pytest.mark.parametrize(
    "argv",
    [
        ["--ema_sigma_rel", "0.05", "0.10", "--timestep_sampler", "loss_second_moment"],
        ["--use_ema", "False"],
    ],
)
def test_a_checkpoint_is_that_of_its_step_to_the_byte_though_training_goes_on(argv, script: Script, tmp_path):
    at_once, late = tmp_path / "at once", tmp_path / "late"
    argv = [*argv, "--checkpoints_total_limit", "3"]
    with written_at_once():
        script.run("train_unconditional", "--output_dir", str(at_once), *argv)
    with written_as_late_as_can_be() as reached:
        script.run("train_unconditional", "--output_dir", str(late), *argv)
    assert reached == [(5, 10), (10, 12), (12, 12)]
    for step in (5, 10, 12):
        expected, found = (contents(folder / "checkpoints" / f"checkpoint-{step}") for folder in (at_once, late))
        assert found == expected and "state/training.pt" in found


def test_a_run_that_fails_while_a_checkpoint_is_written_can_be_resumed_from_it(script: Script, tmp_path, monkeypatch):
    output = ["--output_dir", str(tmp_path / "failed")]
    write = SavedState.write

    def written_slowly(*arguments: object) -> None:
        time.sleep(0.5)
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SavedState, "write", written_slowly)
        with killed_at(6):
            script.run("train_unconditional", *output)
    writing = [thread for thread in threading.enumerate() if thread.name == "writes a checkpoint"]
    assert len(writing) == 1 and not writing[0].daemon  # so that a process ends when it is written
    update, steps = Run.update, []
    monkeypatch.setattr(Run, "update", lambda run, *arguments: (steps.append(run.step), update(run, *arguments)))
    script.run("train_unconditional", *output, "--resume")
    assert steps == list(range(5, 12))


def test_a_mistake_of_ours_in_writing_is_not_taken_for_a_full_disk(script: Script, tmp_path, monkeypatch):
    def write(saved: SavedState, *arguments: object) -> None:
        raise TypeError("a mistake")

    monkeypatch.setattr(SavedState, "write", write)
    with pytest.raises(TypeError, match="a mistake"):
        script.run("train_unconditional", "--output_dir", str(tmp_path))


def test_a_copy_stays_as_it_was_taken_and_the_next_one_takes_its_memory():
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    values = {
        "moments": {"weight": weight, "step": torch.tensor(1.0)},
        "averages": [weight.double()],
        "rate": (0.1, "x"),
    }
    copies = HostCopy(keeps=True)
    copied, expected = copies.take(values), weight.clone()
    weight.mul_(2)
    assert torch.equal(copied["moments"]["weight"], expected) and copied["rate"] == (0.1, "x")
    assert copied["moments"]["weight"].stride() == weight.stride() and copied["averages"][0].dtype == torch.float64
    taken_again = copies.take(values)
    assert torch.equal(taken_again["moments"]["weight"], weight)
    assert taken_again["moments"]["weight"].data_ptr() == copied["moments"]["weight"].data_ptr()
    assert HostCopy(keeps=False).take(values) is None


def test_what_is_written_draws_no_random_numbers(script: Script, tmp_path, monkeypatch):
    """They are the run's: dropout draws from the same generator, meanwhile."""
    write, states = SavedState.write, []

    def watched(*arguments: object) -> None:
        states.append(torch.get_rng_state())
        write(*arguments)
        states.append(torch.get_rng_state())

    monkeypatch.setattr(SavedState, "write", watched)
    with written_at_once():
        script.run("train_unconditional", "--output_dir", str(tmp_path), "--max_train_steps", "1")
    assert len(states) == 2 and torch.equal(*states)
