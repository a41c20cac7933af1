"""What exact resuming costs: the time to the first new step, early and late in a run, and a training step.

    OMP_NUM_THREADS=1 python benchmarks/resume.py     # about five minutes; tables go to benchmarks/results

*Time to the first new step.* A run of the digits recipe is stopped after step 100. A copy of its checkpoint becomes
one of step 100,000: the step, the place in the learning rate's schedule and in the average are set in the file;
nothing else tells where in the stream of data and random numbers a run is. Both are resumed in turn by fresh
processes, which end after their first update. Processor time stands beside the time by the clock, which other work on
the machine disturbs.

*Overhead.* One run of the digits recipe draws every other update's flips, times, noise and crops the plain way, from
one generator and for its own batch only, so that both ways share whatever else the machine does. A checkpoint is
written ten times as a whole (into a temporary folder that is renamed) and ten times in place, in turn; the difference
is spread over the steps between two checkpoints. What large ones cost: `checkpoint.py`.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from tables import write_result
from torch import Tensor

from ddpm_ext.randomness import Draws
from ddpm_ext.train_scripts import train_unconditional
from ddpm_ext.training import checkpoint_writer
from ddpm_ext.training.run import Run
from ddpm_ext.training.stream import Stream


EARLY, LATE = 100, 100_000
QUIET = ["--logger", "none", "--save_images_steps", "1000000", "--checkpoints_total_limit", "9", "--random_flip"]


class Enough(Exception):
    """Ends a run from within."""


# ------------------------------------------------------------------ time to the first new step


def resume_times(repeats: int) -> dict[int, list[tuple[float, float]]]:
    """By the step resumed at: (seconds by the clock, seconds of processor) of each launch."""
    times: dict[int, list[tuple[float, float]]] = {EARLY: [], LATE: []}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "run"
        _launch(folder, EARLY)
        early = folder / "checkpoints" / f"checkpoint-{EARLY}"
        late = _as_if_at(early, LATE)
        for _ in range(repeats):
            for step, checkpoint in ((EARLY, early), (LATE, late)):
                times[step].append(_launch(folder, step + 1, "--resume_from_checkpoint", str(checkpoint)))
                print(f"resumed at {step}: {times[step][-1][0]:.2f} s, {times[step][-1][1]:.2f} s of processor")
    return times


def _as_if_at(checkpoint: Path, step: int) -> Path:
    """A copy of `checkpoint` that says that it was written after `step` updates."""
    copy = shutil.copytree(checkpoint, checkpoint.with_name(f"checkpoint-{step}"))
    state = torch.load(copy / "state" / "training.pt", weights_only=True)
    state["step"] = state["ema_step"] = state["lr_scheduler"]["last_epoch"] = step
    state["lr_scheduler"]["_step_count"] = step + 1
    torch.save(state, copy / "state" / "training.pt")
    return copy


def _launch(folder: Path, last_step: int, *argv: str) -> tuple[float, float]:
    """Trains in a fresh process until `last_step` is done."""
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, __file__, "--train_until", str(last_step), "--output_dir", str(folder), *argv]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used


def train_until(last_step: int, argv: list[str]) -> None:
    after_update = Run._after_update

    def ends(run: Run, stops: bool) -> None:
        if run.step == last_step:
            if last_step == EARLY:
                after_update(run, stops)
                run.checkpoints.wait()
            os._exit(0)
        after_update(run, stops)

    Run._after_update = ends
    steps = ["--max_train_steps", str(2 * LATE), "--checkpointing_steps", str(EARLY)]
    sys.argv = ["train_unconditional.py", *QUIET, *steps, *argv]
    train_unconditional.main()


# ------------------------------------------------------------------ overhead


class PlainDraws(Draws):
    """Draws as a script makes them that does not care: from a generator that goes on, for the batch at hand."""

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        size = (self.places.stop - self.places.start, *shape)
        return torch.rand(size, device=self.device, dtype=torch.float64)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        return torch.randn((self.places.stop - self.places.start, *shape), device=self.device)


def overhead(steps: int) -> tuple[dict[bool, list[float]], dict[bool, list[float]]]:
    """By whether it is exact: seconds of processor of each update, and of each checkpoint."""
    updates: dict[bool, list[float]] = {True: [], False: []}
    checkpoints: dict[bool, list[float]] = {True: [], False: []}
    draws, after_update, seed_dropout = Stream.draws, Run._after_update, Stream.seed_dropout
    clock = {"since": 0.0}

    def is_exact(step: int) -> bool:
        return step % 2 == 0

    def draws_in_turn(stream: Stream, step: int, micro_batch: int) -> Draws:
        made = draws(stream, step, micro_batch)
        return made if is_exact(step) else PlainDraws(**vars(made))

    def seeds_in_turn(stream: Stream, made: Draws) -> None:
        if is_exact(made.step):
            seed_dropout(stream, made)

    def timed(run: Run, stops: bool) -> None:
        now = time.process_time()
        if clock["since"]:
            updates[is_exact(run.step - 1)].append(now - clock["since"])
        if run.step == steps:
            for i in range(20):
                checkpoints[i % 2 == 0].append(_seconds_to_save(run, whole=i % 2 == 0))
            raise Enough
        after_update(run, stops)
        clock["since"] = time.process_time()

    Stream.draws, Run._after_update, Stream.seed_dropout = draws_in_turn, timed, seeds_in_turn
    try:
        with tempfile.TemporaryDirectory() as root:
            options = [
                "--max_train_steps",
                str(steps + 1),
                "--checkpointing_steps",
                "1000000",
                "--logging_steps",
                "100",
            ]
            sys.argv = ["train_unconditional.py", *QUIET, *options, "--output_dir", str(Path(root) / "run")]
            train_unconditional.main()
    except Enough:
        pass
    finally:
        Stream.draws, Run._after_update, Stream.seed_dropout = draws, after_update, seed_dropout
    return updates, checkpoints


def _seconds_to_save(run: Run, whole: bool) -> float:
    written_whole = checkpoint_writer.written_whole
    if not whole:
        checkpoint_writer.written_whole = _written_in_place
    try:
        began = time.process_time()
        run.save_checkpoint()
        run.checkpoints.wait()
        return time.process_time() - began
    finally:
        checkpoint_writer.written_whole = written_whole


@contextmanager
def _written_in_place(target: Path) -> Iterator[Path]:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    yield target


# ------------------------------------------------------------------ tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9, help="launches from either checkpoint")
    parser.add_argument("--steps", type=int, default=600, help="updates in which the two ways of drawing take turns")
    parser.add_argument("--only", choices=("overhead", "resume"), help="one of the two measurements")
    parser.add_argument("--train_until", type=int, help=argparse.SUPPRESS)
    arguments, rest = parser.parse_known_args()
    if arguments.train_until is not None:
        train_until(arguments.train_until, rest)
        return
    torch.set_num_threads(1)
    if arguments.only in (None, "overhead"):
        _write_overhead_table(arguments.steps, *overhead(arguments.steps))
    if arguments.only in (None, "resume"):
        _write_resume_table(arguments.repeats, resume_times(arguments.repeats))


def _write_resume_table(repeats: int, times: dict[int, list[tuple[float, float]]]) -> None:
    rows = [
        [f"step {step:,}", *(f"{median(values):.2f} s" for values in zip(*times[step], strict=True))] for step in times
    ]
    caption = (
        f"From launch to the first new step, medians of {repeats} launches from each in turn, by "
        "`benchmarks/resume.py` (one thread)."
    )
    write_result("resume", caption, ["resumed at", "by the clock", "of processor"], rows)


def _write_overhead_table(steps: int, updates: dict[bool, list[float]], checkpoints: dict[bool, list[float]]) -> None:
    exact, plain = (1000 * median(updates[which]) for which in (True, False))
    whole, in_place = (1000 * median(checkpoints[which]) for which in (True, False))
    every = 400  # as the digits recipes have it
    total, plain_total = exact + whole / every, plain + in_place / every
    rows = [
        ["training step", f"{exact:.2f} ms", f"{plain:.2f} ms", f"{exact / plain - 1:+.2%}"],
        ["checkpoint", f"{whole:.1f} ms", f"{in_place:.1f} ms", f"{whole / in_place - 1:+.2%}"],
        [f"step with its share of a checkpoint every {every}", f"{total:.2f} ms", f"{plain_total:.2f} ms"]
        + [f"{total / plain_total - 1:+.2%}"],
    ]
    caption = (
        f"Processor time on the digits recipe, medians over {steps} updates and 20 checkpoints that take turns in one "
        "run, by `benchmarks/resume.py` (one thread)."
    )
    write_result("exactness_overhead", caption, ["", "exact", "plain", "overhead"], rows)


if __name__ == "__main__":
    main()
