"""Runs a training script in this process, on a network that trains in seconds."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from ddpm_ext.training.run import Run


TINY = (
    "--block_out_channels 8 16 --layers_per_block 1 --attention_head_dim 8 --train_batch_size 16 --max_train_steps 12 "
    "--lr_warmup_steps 2 "
    "--checkpointing_steps 5 --logging_steps 4 --save_images_steps 100 --num_inference_steps 5 --eval_batch_size 10 "
    "--logger none"
).split()


def run_main(module: str, *argv: object) -> None:
    """Runs `main` of a script, by the name of its module, as a fresh process would."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    script = import_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{module}.py", *map(str, argv)])
        script.run_script(script.main)


class Script:
    """Calls a script's `main` with the digits recipe made tiny; `fails` returns the sentence it ends with."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def run(self, name: str, *argv: str, tiny: bool = True) -> str:
        run_main(f"ddpm_ext.train_scripts.{name}", *(TINY if tiny else []), *argv)
        return self.capsys.readouterr().out

    def fails(self, name: str, *argv: str, tiny: bool = True) -> str:
        with pytest.raises(SystemExit) as ended:
            self.run(name, *argv, tiny=tiny)
        assert ended.value.code == 2
        lines = [line for line in self.capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0].removeprefix("error: ")


class Killed(Exception):
    """What ends a run in the middle, as a machine that fails would."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Whatever run is started within is ended before the update after `step`, and that is expected."""
    update = Run.update

    def ended(run: Run, loss: torch.Tensor, t: torch.Tensor, weight: torch.Tensor) -> None:
        if run.step == step:
            raise Killed
        update(run, loss, t, weight)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "update", ended)
        yield


def weights(folder: Path, subfolder: str = "unet") -> dict[str, torch.Tensor]:
    """The weights of the network in a pipeline's folder."""
    return load_file(folder / subfolder / "diffusion_pytorch_model.safetensors")


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)
