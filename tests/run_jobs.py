"""Runs several scripts one after the other in the processes of one launch, as each launch costs seconds of imports.

    accelerate launch --multi_gpu --num_processes 2 tests/run_jobs.py jobs.json

`jobs.json` is a list of {"module", "argv"} and perhaps "signal_at": the step at which the last process gets a SIGTERM,
or "sharded": the network is divided by FSDP, which accelerate itself offers on GPUs only, though it works on CPUs too.
Beside it, process r writes the exit codes to `codes-<r>.json`; not that of a last job that "ends_launch".
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType

from ddpm_ext.training.run import Run
from ddpm_ext.training.sharding import is_sharded
from tests.training_helpers import run_main


RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
_update = Run.update


def _signalled(step: int) -> Callable[..., None]:
    def update(run: Run, *arguments) -> None:
        if run.step == step and RANK == WORLD - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        _update(run, *arguments)

    return update


class _ShardingAccelerator(Accelerator):
    def __init__(self, **options) -> None:
        super().__init__(**options)
        layers = ["ResnetBlock2D", "Attention"]
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=layers
        )

    def prepare(self, *objects: object) -> tuple[object, ...]:
        prepared = super().prepare(*objects)
        assert is_sharded(prepared[0])
        return prepared


def _run(job: dict) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddpm_ext.training.ema.SNAPSHOTS_PER_RUN", 2)  # not after each of a few updates
        if "signal_at" in job:
            patch.setattr(Run, "update", _signalled(job["signal_at"]))
        if "sharded" in job:
            patch.setattr("ddpm_ext.training.run.Accelerator", _ShardingAccelerator)
        try:
            run_main(job["module"], *job["argv"])
        except SystemExit as ended:
            return ended.code
    return 0


if __name__ == "__main__":
    # A second group of the same processes would find the addresses of the first in the launcher's store.
    PartialState.destroy_process_group = lambda self, group=None: None
    file = Path(sys.argv[1])
    jobs = json.loads(file.read_text())
    codes = [_run(job) for job in jobs if "ends_launch" not in job]
    file.with_name(f"codes-{RANK}.json").write_text(json.dumps(codes))
    if "ends_launch" in jobs[-1]:
        run_main(jobs[-1]["module"], *jobs[-1]["argv"])
