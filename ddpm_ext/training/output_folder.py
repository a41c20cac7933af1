"""The folder of a run: whose it is, how the pipeline at its root is replaced, and what to do with it."""

import json
import platform
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline

from ddpm_ext.data.training_data import TrainingData
from ddpm_ext.pipelines import ImprovedDDPMPipeline
from ddpm_ext.publishing.uploads import BackgroundUploads
from ddpm_ext.sharing.loading_lines import package_lines

from .arguments import Arguments
from .recipes import to_yaml


_OF_A_RUN = (
    "config.yaml",
    "run.json",
    "metrics.jsonl",
    "model_index.json",
    "checkpoints",
    "logs",
    "ema_snapshots",
    "samples",
    "loss.png",
    "loss_per_timestep.png",
    "evaluation",
    "best",
    ".former-best",
    "profile",
    "trajectory.gif",
    "trajectory.png",
    "forward.gif",
    "forward.png",
    "unet",
    "scheduler",
)


def check_output_folder(output_dir: Path, overwrite: bool, resuming: bool) -> None:
    """ValueError where `output_dir` cannot take this run: it holds another."""
    found = [name for name in _OF_A_RUN if (output_dir / name).exists()]
    if found and not (overwrite or resuming):
        raise ValueError(
            f"`output_dir` is {output_dir}, which holds another run ({found[0]}): give another folder, `--resume` to "
            "continue that run, or `--overwrite_output_dir` to start anew."
        )


def begin_output_folder(arguments: Arguments, accelerator: Accelerator, data: TrainingData, resuming: bool) -> None:
    """Makes the folder and writes what is known at the start of a run; where that starts anew, clears it first."""
    output_dir = Path(arguments.training.output_dir)
    if not resuming:
        clear_output_folder(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "config.yaml").write_text(to_yaml(arguments))
    (output_dir / "run.json").write_text(_describe_run(arguments, accelerator, data))


def clear_output_folder(output_dir: Path) -> None:
    """Removes what a run writes, and nothing else."""
    for name in _OF_A_RUN:
        path = output_dir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def replace_pipeline(pipeline: DiffusionPipeline, output_dir: Path) -> None:
    """Saves `pipeline` at the root of `output_dir`; a run that is killed meanwhile leaves the former one whole."""
    partial = output_dir / ".partial-pipeline"
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.save_pretrained(str(partial))
    for path in partial.iterdir():
        if path.is_dir():
            (output_dir / path.name).mkdir(exist_ok=True)
            for file in path.iterdir():
                file.replace(output_dir / path.name / file.name)
        else:
            path.replace(output_dir / path.name)
    shutil.rmtree(partial)


def _describe_run(arguments: Arguments, accelerator: Accelerator, data: TrainingData) -> str:
    """JSON for the model card: the command, without the Hub's token, what it ran on, and the data set's size."""
    count = accelerator.num_processes
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type
    packages = ", ".join(f"{name} {version(name)}" for name in ("ddpm-ext", "torch", "diffusers", "accelerate"))
    return json.dumps(
        {
            "command": shlex.join(["accelerate", "launch", *_without_token(sys.argv)]),
            "environment": f"Python {platform.python_version()}, {packages}; "
            f"{count} process{'es' if count > 1 else ''} on {device}, precision {accelerator.mixed_precision}",
            data.noun: f"{len(data):,} {data.noun} of {'x'.join(map(str, data.shape))}",
        },
        indent=2,
    )


def _without_token(argv: Sequence[str]) -> list[str]:
    """The command as it can be shown: a relative path of the script, and no token, in whichever way it was given."""
    script = Path(argv[0])
    shown = [str(Path(*script.parts[-2:])) if script.parent.name == "train_scripts" else script.name]
    parts = iter(argv[1:])
    for part in parts:
        flag, has_value, _ = part.partition("=")
        if flag in ("--hub_token", "--hub-token"):
            if not has_value:
                next(parts, None)
        else:
            shown.append(part)
    return shown


def uploads_of(arguments: Arguments, warn: Callable[[str], None]) -> BackgroundUploads | None:
    """What uploads the run, where it is asked for."""
    logging = arguments.logging
    if not logging.push_to_hub:
        return None
    repo_id = logging.hub_model_id or Path(arguments.training.output_dir).resolve().name
    return BackgroundUploads(repo_id, logging.hub_private_repo, logging.hub_token, logging.hub_license, warn)


def upload_words(output_dir: Path, repo_id: str, address: str | None) -> str:
    """Where the model went, or how to try again."""
    if address is not None:
        return f"Uploaded to {address}"
    return (
        "Not uploaded; once the Hub can be reached, this tries again:\n\n"
        f'    DiffusionPipeline.from_pretrained("{output_dir}").push_to_hub("{repo_id}")\n'
    )


def closing_words(output_dir: Path, pipeline: ImprovedDDPMPipeline, best: str | None = None) -> str:
    """Where everything is, and the lines that load it; `best` is what best/ holds, in words."""
    lines = textwrap.indent(package_lines(pipeline, str(output_dir)), "    ")
    best = f"\nbest/ holds the pipeline of {best}." if best else ""
    return f"""
The trained pipeline is in {output_dir}: samples/ and loss.png show how it went, metrics.jsonl has the numbers,
config.yaml repeats the run, checkpoints/ resumes it.{best} Load it with

{lines}"""
