"""Opens models in a process of its own, with or without ddpm_ext on the machine, and draws from them.

    python -I -S tests/open_elsewhere.py job.json

`job.json` holds "results", the file to write, "site_packages", and "phases": each a list of steps that run without
ddpm_ext (as if it had never been installed) or with it. A step opens something, draws, and perhaps goes on from there.
"""

import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path


class Absent:
    """Makes Python believe that ddpm_ext is not installed, however it is."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name.partition(".")[0] == "ddpm_ext":
            raise ModuleNotFoundError(f"No module named '{name}'")


def draws(pipeline) -> list:
    """What `pipeline` draws: by its own scheduler, by DDIM and by a stock sampler; the first alone if it is stock."""
    import torch
    from diffusers import DDPMPipeline, DPMSolverMultistepScheduler, FlowMatchHeunDiscreteScheduler

    pipeline.set_progress_bar_config(disable=True)
    what = {"class_labels": [0, 2], "guidance_scale": 1.5} if hasattr(pipeline, "label_ids") else {"batch_size": 2}

    def draw() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        images = pipeline(**what, generator=generator, num_inference_steps=4, output_type="np").images
        return torch.from_numpy(images)  # stock pipelines did not always know "pt"

    if isinstance(pipeline, DDPMPipeline):
        return [draw()]
    trained = pipeline.scheduler
    found = [draw()]
    trained.eta = 0.0
    found.append(draw())
    trained.eta = None
    stock = FlowMatchHeunDiscreteScheduler if "shift" in trained.config else DPMSolverMultistepScheduler
    pipeline.scheduler = stock.from_config(trained.config)
    found.append(draw())
    pipeline.scheduler = trained
    return found


# ---------------------------------------------------------------------- steps: each returns what it drew or read


def open_model(
    source: str,
    pipeline_class: str = "DiffusionPipeline",
    save_to: str = "",
    push_to: str = "",
    from_snapshot: bool = False,
    **options: object,
) -> list:
    """Draws by a pipeline, opened from `source`; saves or pushes it if asked.

    `from_snapshot`: from the folder that the cache keeps of the repository. diffusers (0.42) asks the Hub about code
    even when it has it, so that the name of a repository with code does not open offline.
    """
    if from_snapshot:
        from huggingface_hub import snapshot_download

        source = snapshot_download(source)
    pipeline = _class(pipeline_class).from_pretrained(source, **options)
    images = draws(pipeline)
    if save_to:
        pipeline.save_pretrained(save_to)
    if push_to:
        pipeline.push_to_hub(push_to, private=True)
    return images


def open_both(first: str, second: str) -> list:
    """What the first model draws when another one, of the same classes but other code, was opened after it."""
    pipeline = _class("DiffusionPipeline").from_pretrained(first, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    other = _class("DiffusionPipeline").from_pretrained(second, trust_remote_code=True)
    assert type(other).__name__ == type(pipeline).__name__ and type(other) is not type(pipeline)
    return draws(pipeline) + draws(other)


def run_lines(lines: str, draw: str = "pipe") -> list:
    """What the lines that a script printed leave behind."""
    names: dict[str, object] = {}
    exec(lines, names)
    return [len(names["images"])] if draw == "images" else draws(names[draw])


def say(model: str) -> str:
    """What our scripts say of `model`, or the name of its class."""
    from ddpm_ext.pipelines.loading import load_pipeline

    try:
        return type(load_pipeline(model)).__name__
    except ValueError as error:
        return str(error)


STEPS: dict[str, Callable] = {step.__name__: step for step in (open_model, open_both, run_lines, say)}


def _class(name: str) -> type:
    import diffusers

    return getattr(sys.modules["ddpm_ext"] if name not in dir(diffusers) else diffusers, name)


def main(job: dict) -> None:
    sys.path.extend(path for path in job["site_packages"] if path not in sys.path)
    found: dict[str, object] = {}
    for phase in job["phases"]:
        found |= _with_package(phase["steps"]) if phase["with_package"] else _without_package(phase["steps"])
    import torch

    torch.save(found, job["results"])


def _without_package(steps: dict) -> dict[str, object]:
    sys.meta_path.insert(0, Absent)
    try:
        import ddpm_ext

        raise AssertionError(f"{ddpm_ext} can be imported")
    except ModuleNotFoundError:
        found = _run(steps)
    assert "ddpm_ext" not in sys.modules
    sys.meta_path.remove(Absent)
    return found


def _with_package(steps: dict) -> dict[str, object]:
    import ddpm_ext  # noqa: F401

    return _run(steps)


def _run(steps: dict) -> dict[str, object]:
    """What each step found and, as "log of ...", what diffusers said meanwhile."""
    import diffusers  # noqa: F401

    found: dict[str, object] = {}
    for name, (step, arguments) in steps.items():
        log = io.StringIO()
        handler = logging.StreamHandler(log)
        logging.getLogger("diffusers").addHandler(handler)
        try:
            found[name] = STEPS[step](**arguments)
        except Exception as error:
            raise RuntimeError(f"{name}: {error}\n{log.getvalue()}") from error
        logging.getLogger("diffusers").removeHandler(handler)
        found[f"log of {name}"] = log.getvalue()
    return found


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
