"""How long training stands still for a checkpoint, and how long writing it takes.

    OMP_NUM_THREADS=1 python benchmarks/checkpoint.py     # about three minutes; the table goes to benchmarks/results

The network of Ho et al. (2020) for CIFAR-10, its optimizer and two power-function averages, by the clock, in two ways
that take turns in one run. Training waits while all is written, from the tensors themselves to the name that makes it
whole; or, as runs do it, it stands still while they are copied, and goes on while a thread writes the copy.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from tables import write_result

from ddpm_ext.train_scripts import train_unconditional
from ddpm_ext.training.checkpoint_writer import Checkpoints
from ddpm_ext.training.host_copy import HostCopy
from ddpm_ext.training.run import Run


COMMAND = (
    "train_unconditional.py --dataset_name digits --resolution 32 --image_channels 3 --train_batch_size 2 "
    "--block_out_channels 128 256 256 256 --layers_per_block 2 --attention_resolutions 16 --attention_head_dim 256 "
    "--ema_sigma_rel 0.05 0.10 --max_train_steps 100000 --lr_warmup_steps 0 --compile never --logger none "
    "--save_images_steps 1000000 --checkpointing_steps 1000000 --checkpoints_total_limit 1"
).split()


class Enough(Exception):
    """Ends a run from within."""


@dataclass
class Times:
    """Seconds: of training that waits, and of standing still and of writing where it goes on."""

    waiting: list[float] = field(default_factory=list)
    standing_still: list[float] = field(default_factory=list)
    writing: list[float] = field(default_factory=list)
    size_bytes: int = 0
    parameters: int = 0


def measure(repeats: int) -> Times:
    """The first one, which asks the system for the memory of the copy, and `repeats` more, in either way."""
    times = Times()
    write = Checkpoints._write

    def timed_write(checkpoints: Checkpoints, *arguments: object) -> None:
        began = time.perf_counter()
        write(checkpoints, *arguments)
        times.writing.append(time.perf_counter() - began)

    def after_update(run: Run, stops: bool) -> None:
        if len(times.writing) < len(times.standing_still):
            return  # it is still written, and training goes on
        if len(times.writing) > repeats:
            (checkpoint,) = (run.output_dir / "checkpoints").iterdir()
            times.size_bytes = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
            times.parameters = run.state.unet.num_parameters()
            raise Enough
        with patch.object(Checkpoints, "_write", write), patch.object(HostCopy, "take", lambda _, values: values):
            times.waiting.append(_seconds_to_save(run, waits=True))
        times.standing_still.append(_seconds_to_save(run, waits=False))

    with patch.object(Run, "_after_update", after_update), patch.object(Checkpoints, "_write", timed_write):
        with tempfile.TemporaryDirectory() as root:
            try:
                sys.argv = [*COMMAND, "--output_dir", str(Path(root) / "run")]
                train_unconditional.main()
            except Enough:
                return times
    raise RuntimeError("the run ended before all was measured")


def _seconds_to_save(run: Run, waits: bool) -> float:
    began = time.perf_counter()
    run.save_checkpoint()
    if waits:
        run.checkpoints.wait()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="checkpoints in either way")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    times = measure(arguments.repeats)
    first, *others = times.standing_still
    row = [
        f"{times.parameters / 1e6:.1f} million",
        f"{times.size_bytes / 2**20:,.0f} MiB",
        f"{median(times.waiting[1:]):.2f} s",
        f"{median(others):.2f} s (the first: {first:.2f} s)",
        f"{median(times.writing[1:]):.2f} s",
    ]
    caption = (
        "The network of Ho et al. (2020) for CIFAR-10 with its optimizer and two averages, medians of "
        f"{arguments.repeats} in either way, in turn, on a local disk, by `benchmarks/checkpoint.py` (one thread)."
    )
    columns = ["parameters", "checkpoint", "training waits for it", "training stands still", "written meanwhile in"]
    write_result("checkpoint", caption, columns, [row])


if __name__ == "__main__":
    main()
