"""What a process knows of its siblings: which of them speaks, and whether they are those that the launcher started."""

import os
import sys


_SET_BY_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def is_main_process() -> bool:
    """Whether this process speaks for all; the launcher's `RANK` tells it, as there may be no Accelerator yet."""
    return os.environ.get("RANK", "0") == "0"


def on_cpu() -> bool:
    """Whether to run on the CPU: what `Accelerator(cpu=...)` is to be told.

    accelerate connects the processes of a launcher on a machine without an accelerator only where it is told so; else
    each would train alone, all of them into one folder.
    """
    import torch

    return not torch.accelerator.is_available()


def check_processes() -> None:
    """ValueError where the launcher started other processes than train together; call it after `Accelerator()`."""
    from accelerate import PartialState

    connected, started = PartialState().num_processes, int(os.environ.get("WORLD_SIZE", 1))
    if connected < started:
        raise ValueError(
            f"the launcher started {started} processes, but {connected} of them train together: `--multi_gpu` with as "
            "many GPUs, or the environment variable ACCELERATE_USE_CPU=true, is needed."
        )
    meant_several = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if connected == 1 and meant_several and not any(name in os.environ for name in ("WORLD_SIZE", *_SET_BY_MPI)):
        print(
            "note: this is one process; `accelerate launch --cpu --num_processes N` starts N through mpirun only, "
            "`accelerate launch --multi_gpu --num_processes N` without it, also on CPUs.",
            file=sys.stderr,
        )


def prepare_cpu() -> None:
    """Shares the cores of this machine among its processes, and has each keep the memory that it frees; call it after
    `Accelerator()`. On a GPU it does nothing.

    Without a configuration, `accelerate launch` sets OMP_NUM_THREADS to 1 also for a single process on a CPU, which
    takes half again as long on two cores. Any other number is somebody's choice and stays.
    """
    import torch
    from accelerate import PartialState

    from ddpm_ext.freed_memory import keep_freed_memory

    if PartialState().device.type != "cpu":
        return
    keep_freed_memory()
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and os.environ.get("OMP_NUM_THREADS") == "1":
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // here))


def use_tensor_cores() -> None:
    """Lets an NVIDIA GPU multiply float32 matrices in TF32, as it does convolutions; call it after `Accelerator()`.

    Nothing but the network multiplies matrices there; features of images are computed without it.
    """
    import torch
    from accelerate import PartialState

    if PartialState().device.type == "cuda":
        torch.set_float32_matmul_precision("high")
