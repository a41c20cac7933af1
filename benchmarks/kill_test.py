"""Kills a run (SIGKILL) at random moments and resumes it, each time to the weights of a run that nobody killed.

    python benchmarks/kill_test.py            # 20 kills; the table goes to benchmarks/results/kill_test.json

Each kill has a run of its own, on the real digits, with a tiny network, an average and a checkpoint every other step,
so that some of the kills fall into the writing of one. Its moment is drawn from the whole length of a run, from
the reading of the data to the saving of the pipeline. What the killed process left is resumed by the same command with
`--resume`. The processes are forks of this one, which has done no more than the imports.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

# Imported here so that the forks need not.
import ddpm_ext.training.run  # noqa: F401
from ddpm_ext.train_scripts import train_class_conditional
from ddpm_ext.training.checkpoints import list_checkpoints
from ddpm_ext.training.command_line import run_script


STEPS = 24
COMMAND = (
    f"--block_out_channels 8 16 --layers_per_block 1 --attention_head_dim 8 --train_batch_size 8 "
    f"--max_train_steps {STEPS} --lr_warmup_steps 2 --checkpointing_steps 2 --checkpoints_total_limit 2 "
    f"--gradient_accumulation_steps 2 --random_flip --logging_steps 3 --save_images_steps {STEPS} "
    f"--num_inference_steps 2 --eval_batch_size 4 --timestep_sampler loss_second_moment --logger none"
).split()
FILES = (
    "unet/diffusion_pytorch_model.safetensors",
    f"checkpoints/checkpoint-{STEPS}/unet_raw/diffusion_pytorch_model.safetensors",
)


@dataclass(frozen=True)
class Killed:
    """What was found after a kill, and whether the resumed run ended in the weights of the uninterrupted one."""

    after_step: int
    while_writing: bool
    is_same: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--no_result", action="store_true", help="do not write the table")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    kills: list[Killed] = []
    with tempfile.TemporaryDirectory() as root:
        whole = Path(root) / "whole"
        seconds = _run_to_its_end(whole)
        while len(kills) < arguments.kills:
            folder = Path(root) / f"killed-{len(kills)}"
            began = time.perf_counter()
            killed = _kill_and_resume(folder, whole, draw.uniform(0, seconds))
            if killed is None:
                seconds = time.perf_counter() - began  # the machine has become faster since the first run
                continue
            kills.append(killed)
            print(f"kill {len(kills)}: {killed}", flush=True)
    same = sum(killed.is_same for killed in kills)
    print(f"{same} of {len(kills)} killed runs resumed to the same weights, bit for bit")
    if not arguments.no_result:
        _write(kills)
    sys.exit(same != len(kills))


def _kill_and_resume(folder: Path, whole: Path, moment: float) -> Killed | None:
    """None where the run was faster than the moment."""
    recipe = ["--config", str(whole / "config.yaml")]  # the package's own may be edited meanwhile
    process = _start(folder, *recipe)
    process.join(moment)
    process.kill()
    process.join()
    if process.exitcode == 0:
        shutil.rmtree(folder)
        return None
    checkpoints = folder / "checkpoints"
    kept = list_checkpoints(checkpoints)
    after_step = int(kept[-1].name.split("-")[1]) if kept else 0
    while_writing = any(checkpoints.glob(".partial-*"))
    _run_to_its_end(folder, *recipe, "--resume")
    is_same = all(_same_tensors(whole / file, folder / file) for file in FILES)
    return Killed(after_step, while_writing, is_same)


def _same_tensors(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _run_to_its_end(folder: Path, *argv: str) -> float:
    """The seconds that it took."""
    began = time.perf_counter()
    process = _start(folder, *argv)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the run in {folder} ended with exit code {process.exitcode}")
    return time.perf_counter() - began


def _start(folder: Path, *argv: str) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=_train, args=(folder, *argv))
    process.start()
    return process


def _train(folder: Path, *argv: str) -> None:
    torch.set_num_threads(1)
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["train_class_conditional.py", *COMMAND, "--output_dir", str(folder), *argv]
    run_script(train_class_conditional.main)


def _write(kills: list[Killed]) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from tables import write_result

    counts = {
        "runs killed with SIGKILL": len(kills),
        "of these before the first checkpoint": sum(killed.after_step == 0 for killed in kills),
        "of these in the middle of writing or removing a checkpoint": sum(killed.while_writing for killed in kills),
        "resumed to the weights of the uninterrupted run, bit for bit": sum(killed.is_same for killed in kills),
    }
    caption = (
        f"Runs of {STEPS} updates on the digits, each killed once at a random moment and resumed with `--resume`, by "
        "`benchmarks/kill_test.py`."
    )
    write_result("kill_test", caption, ["", "runs"], [[name, str(count)] for name, count in counts.items()])


if __name__ == "__main__":
    main()
