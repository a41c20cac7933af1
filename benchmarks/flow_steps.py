"""How many steps samples take: flow matching beside DDPM, the same network and budget, on digits and on points.

    python train_scripts/train_unconditional.py --output_dir flow/ddpm-digits
    python train_scripts/train_unconditional.py --objective flow_matching --output_dir flow/digits
    python train_scripts/train_points.py --output_dir flow/ddpm-points
    python train_scripts/train_points.py --objective flow_matching --output_dir flow/points
    python benchmarks/flow_steps.py --runs flow
    python benchmarks/tables.py

Numbers go to docs/results, pictures to docs/images, tables to docs/flow_matching.md. Runs that are not there leave
what was kept of them before.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from kept import keep_picture, write_kept
from matplotlib.figure import Figure
from PIL import Image
from tables import write_result
from torch import Tensor

from ddpm_ext.data.points import load_points
from ddpm_ext.evaluation.comparison import Digits, Points
from ddpm_ext.pipelines import ImprovedDDPMPipeline, PointsDDPMPipeline
from ddpm_ext.schedulers.samplers import make_sampler
from ddpm_ext.schedulers.stock import scheduler_of_training
from ddpm_ext.visualization import (
    TrajectoryRecorder,
    as_image,
    labelled_grid,
    opaque_image,
    point_cloud_table,
)
from ddpm_ext.visualization.drawing import BLUE, GOLD, GREEN, RED, make_logarithmic, new_axes


STEPS = (1, 2, 5, 10, 20, 50)
SAMPLERS = {
    "flow matching, Euler": ("flow", "euler"),
    "flow matching, DPM-Solver++": ("flow", "dpmsolver++"),
    "DDPM, DDIM": ("ddpm", "ddim"),
    "DDPM, DPM-Solver++": ("ddpm", "dpmsolver++"),
}
_SEED = 0
_PATHS = 60


def open_run(folder: Path, sampler: str) -> ImprovedDDPMPipeline:
    """The pipeline of a run, ready to sample by `sampler`."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.unet.eval()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_sampler(sampler, scheduler_of_training(pipeline.scheduler))
    return pipeline


def measure_digits(num_samples: int, flow: Path, ddpm: Path) -> None:
    """Fréchet distances by sampler and steps, kept as numbers, a table, curves and digits from the same noise."""
    folders = {"flow": flow, "ddpm": ddpm}
    values: dict[str, list[float]] = {}
    rows, names = [], []
    for name, (kind, sampler) in SAMPLERS.items():
        pipeline, values[name] = open_run(folders[kind], sampler), []
        for steps in STEPS:
            judge = Digits(num_samples, steps, _SEED)
            (value,), look = judge.examine(pipeline)
            values[name].append(value)
            if sampler in ("euler", "ddim"):
                rows.append(list(look.samples[:12]))
                names.append(f"{name}, {steps}")
            print(f"{name}, {steps} steps: {value:.3f}", flush=True)
    content = {"metric": Digits.metric, "samples": num_samples, "steps": STEPS, "seed": _SEED, "values": values}
    write_kept("flow_steps", {**content, "real_samples": judge.floor})
    write_result(
        "flow_steps",
        f"Fréchet distance of {num_samples:,} digits to the test split on their 64 pixels, by "
        f"`benchmarks/flow_steps.py`; that of the train split is {judge.floor:.2f}. A step is one evaluation of the "
        "network.",
        ["steps", *values],
        [[str(steps), *(f"{column[i]:.2f}" for column in values.values())] for i, steps in enumerate(STEPS)],
    )
    keep_picture(as_image(draw_curves(values, judge.floor), dpi=100), "flow_steps")
    keep_picture(opaque_image(labelled_grid(rows, names)), "flow_steps_digits")


def draw_curves(values: dict[str, list[float]], floor: float) -> Figure:
    figure, (axes,) = new_axes(height=4.2)
    for (name, column), color in zip(values.items(), (BLUE, GREEN, GOLD, RED), strict=True):
        axes.plot(STEPS, column, color=color, linewidth=1.8, marker="o", markersize=4, label=name)
    axes.axhline(floor, color="gray", linewidth=1, linestyle=":", label="real digits of the train split")
    axes.set_xscale("log")
    axes.set_xticks(STEPS, [str(steps) for steps in STEPS])
    axes.minorticks_off()
    make_logarithmic(axes)
    axes.set(xlabel="steps, each one evaluation of the network", ylabel=Digits.metric)
    axes.legend(frameon=False)
    return figure


def measure_points(flow: Path, ddpm: Path) -> None:
    """Chamfer distances by steps, what is drawn in as many, and the ways of some points there."""
    pipelines = {"flow matching,\nEuler": open_run(flow, "euler"), "DDPM,\nDDIM": open_run(ddpm, "ddim")}
    keep_picture(Image.open(flow / "trajectory.png"), "flow_trajectory")
    judges = {steps: Points("swiss_roll", 2000, steps, _SEED) for steps in STEPS}
    clouds, values = [], {}
    for name, pipeline in pipelines.items():
        looks = {steps: judge.examine(pipeline) for steps, judge in judges.items()}
        clouds.append([look.samples for _, look in looks.values()])
        values[name.replace("\n", " ")] = [sum(found) / len(found) for found, _ in looks.values()]
    fresh = load_points("swiss_roll", 2000, _SEED, "fresh").points
    titles = [f"{steps} step{'s' if steps > 1 else ''}" for steps in STEPS]
    table = point_cloud_table(clouds, list(pipelines), titles, fresh, limit=1.3, inches=1.5)
    keep_picture(as_image(table, dpi=100), "flow_steps_points")
    keep_picture(as_image(draw_paths(pipelines), dpi=100), "flow_paths")
    content = {"metric": Points.metric, "points": 2000, "steps": STEPS, "seed": _SEED, "values": values}
    floor = judges[STEPS[0]].floor
    write_kept("flow_steps_points", {**content, "real_samples": floor})
    write_result(
        "flow_steps_points",
        "Chamfer distance of 2,000 points to as many fresh ones, mean of three sets, by `benchmarks/flow_steps.py`; "
        f"that of training points is {floor:.2g}.",
        ["steps", *values],
        [[str(steps), *(f"{column[i]:.2g}" for column in values.values())] for i, steps in enumerate(STEPS)],
    )


def draw_paths(pipelines: dict[str, PointsDDPMPipeline]) -> Figure:
    """The same noise on its way to points by each model, in 100 steps."""
    figure, axes = new_axes(len(pipelines), width=8, height=4.1)
    for one, (name, pipeline) in zip(axes, pipelines.items(), strict=True):
        paths = _paths(pipeline)
        for path in paths.unbind(1):
            one.plot(*path.T.numpy(), color=BLUE, linewidth=0.7, alpha=0.6)
        one.scatter(*paths[0].T.numpy(), s=6, color="gray", label="noise")
        one.scatter(*paths[-1].T.numpy(), s=6, color=RED, label="point", zorder=3)
        one.set(title=name.replace("\n", " "), xlim=(-2, 2), ylim=(-2, 2), xticks=[], yticks=[], aspect="equal")
    axes[0].legend(frameon=False, loc="upper left")
    return figure


def _paths(pipeline: PointsDDPMPipeline) -> Tensor:
    recorder = TrajectoryRecorder(101)
    generator = torch.Generator().manual_seed(_SEED)
    pipeline(_PATHS, generator=generator, num_inference_steps=100, callback_on_step_end=recorder)
    return recorder.trajectory().samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("flow"))
    parser.add_argument("--num_samples", type=int, default=1000)
    arguments = parser.parse_args()
    for data, measure in (("points", measure_points), ("digits", partial(measure_digits, arguments.num_samples))):
        if (arguments.runs / data).is_dir():
            measure(arguments.runs / data, arguments.runs / f"ddpm-{data}")


if __name__ == "__main__":
    main()
