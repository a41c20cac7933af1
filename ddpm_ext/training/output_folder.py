"""The folder of a run: whose it is, how the pipeline at its root is replaced, and what to do with it."""

import shutil
from pathlib import Path

from diffusers import DiffusionPipeline

from ddpm_ext.pipelines import ClassConditionalDDPMPipeline


_OF_A_RUN = (
    "config.yaml",
    "metrics.jsonl",
    "model_index.json",
    "checkpoints",
    "logs",
    "ema_snapshots",
    "samples",
    "loss.png",
    "loss_per_timestep.png",
    "evaluation",
    "unet",
    "scheduler",
)


def check_output_folder(output_dir: Path, overwrite: bool, resuming: bool) -> None:
    """ValueError where `output_dir` cannot take this run: it is a file, or holds another run."""
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"`output_dir` is {output_dir}, which is a file: a folder, new or empty, is accepted.")
    found = [name for name in _OF_A_RUN if (output_dir / name).exists()]
    if found and not (overwrite or resuming):
        raise ValueError(
            f"`output_dir` is {output_dir}, which holds another run ({found[0]}): give another folder, `--resume` to "
            "continue that run, or `--overwrite_output_dir` to start anew."
        )


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


def closing_words(output_dir: Path, pipeline: DiffusionPipeline) -> str:
    """Where everything is, and the lines that load it."""
    argument = "class_labels=[0, 1, 2]" if isinstance(pipeline, ClassConditionalDDPMPipeline) else "batch_size=16"
    return f"""
The trained pipeline is in {output_dir}: samples/ and loss.png show how it went, metrics.jsonl has the numbers,
config.yaml repeats the run, checkpoints/ resumes it. Load it with

    import ddpm_ext
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained("{output_dir}")
    images = pipe({argument}).images
"""
