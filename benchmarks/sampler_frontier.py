"""Quality against network evaluations for every sampler on one checkpoint, as a table and a figure.

    python benchmarks/sampler_frontier.py --model ddpm-digits --dataset_name digits --name digits
    python benchmarks/sampler_frontier.py --model ddpm-cifar10 --dataset_name cifar10 --features inception \
        --num_images 10000 --name cifar10 --device cuda --write ddpm-cifar10-fast

All start from the same noise. The winner is the cheapest that is within the interval of the best; `--write FOLDER`
saves the pipeline with that scheduler there.
"""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from diffusers import SchedulerMixin
from diffusers.utils import logging
from kept import keep_picture
from machine import describe_machine
from tables import write_result

from ddpm_ext.data.images import load_images
from ddpm_ext.evaluation.estimates import Estimate
from ddpm_ext.evaluation.features import Extractor, load_extractor
from ddpm_ext.evaluation.generate import Sampling, generate, labels_like
from ddpm_ext.evaluation.image_metrics import frechet_estimate
from ddpm_ext.evaluation.reference import Reference, load_reference
from ddpm_ext.evaluation.statistics import extract
from ddpm_ext.pipelines import ImprovedDDPMPipeline
from ddpm_ext.pipelines.loading import load_pipeline
from ddpm_ext.schedulers.samplers import make_sampler
from ddpm_ext.visualization import as_image, metric_curves


STOCK = (
    diffusers.DPMSolverMultistepScheduler,
    diffusers.UniPCMultistepScheduler,
    diffusers.DEISMultistepScheduler,
    diffusers.EulerDiscreteScheduler,
    diffusers.LMSDiscreteScheduler,
    diffusers.PNDMScheduler,
    diffusers.SASolverScheduler,
    diffusers.HeunDiscreteScheduler,
    diffusers.KDPM2DiscreteScheduler,
)
TWICE = ("HeunDiscrete", "KDPM2Discrete")  # evaluate the network twice in every step but the last
SHOWN = 5  # curves that a figure can hold


@dataclass(frozen=True)
class Point:
    """One sampler at one `budget`, of which it used `evaluations` of the network."""

    sampler: str
    budget: int
    steps: int
    evaluations: int
    distance: Estimate


def samplers(trained: SchedulerMixin) -> Iterator[tuple[str, SchedulerMixin]]:
    yield "DDPM", make_sampler("ddpm", trained)
    yield "DDIM", make_sampler("ddim", trained)
    for scheduler in STOCK:
        yield scheduler.__name__.removesuffix("Scheduler"), scheduler.from_config(trained.config)


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[list[int]]:
    """How often the network is called within, as the only entry of a list."""
    count = [0]

    def one_more(*_: object) -> None:
        count[0] += 1

    handle = network.register_forward_hook(one_more)
    try:
        yield count
    finally:
        handle.remove()


def measure(
    pipeline: ImprovedDDPMPipeline, extractor: Extractor, reference: Reference, arguments: argparse.Namespace
) -> list[Point]:
    points, trained = [], pipeline.scheduler
    classes = pipeline.unet.num_classes if hasattr(pipeline, "label_ids") else None
    labels = None if classes is None else labels_like(None, classes, arguments.num_images)
    batches = math.ceil(arguments.num_images / arguments.batch_size)
    for name, scheduler in samplers(trained):
        for budget in arguments.evaluations:
            steps = (budget + 1) // 2 if name in TWICE else budget - (name == "PNDM")  # whose first step takes two
            if steps < 2:
                continue
            pipeline.scheduler = scheduler
            sampling = Sampling(0, arguments.batch_size, steps, arguments.guidance_scale)
            with counted(pipeline.unet) as count:
                images = generate(pipeline, arguments.num_images, sampling, labels)
            distance = frechet_estimate(extract(extractor, images).sums, reference.moments)
            points.append(Point(name, budget, steps, count[0] // batches, distance))
            print(f"{name}, {steps} steps, {points[-1].evaluations} evaluations: {distance}", flush=True)
    pipeline.scheduler = trained
    return points


def winner(points: list[Point]) -> Point:
    """The one with the fewest evaluations among those within the interval of the best; of these, the best."""
    best = min(points, key=lambda point: point.distance.value)
    good_enough = best.distance.value if best.distance.high is None else best.distance.high
    return min(
        (point for point in points if point.distance.value <= good_enough),
        key=lambda point: (point.evaluations, point.distance.value),
    )


def write(points: list[Point], chosen: Point, arguments: argparse.Namespace) -> None:
    budgets = sorted({point.budget for point in points})
    found = {(point.sampler, point.budget): point for point in points}
    names = list(dict.fromkeys(point.sampler for point in points))
    rows = [
        [name, *(f"{found[name, b].distance.value:.3g}" if (name, b) in found else "-" for b in budgets)]
        for name in names
    ]
    guided = f", guidance {arguments.guidance_scale:g}" if arguments.guidance_scale != 1 else ""
    write_result(
        f"sampler_frontier_{arguments.name}",
        f"Fréchet distance of {arguments.num_images:,} samples{guided} to the {arguments.split} split of "
        f"{Path(arguments.dataset_name).name}, features `{Path(arguments.features).name}`, by the number of network "
        f"evaluations allowed; `benchmarks/sampler_frontier.py`. The best within its interval with the fewest "
        f"evaluations: {chosen.sampler}, {chosen.evaluations}. {describe_machine(arguments.device)}",
        ["sampler", *(f"{budget}" for budget in budgets)],
        rows,
    )
    smallest = {name: min(point.distance.value for point in points if point.sampler == name) for name in names}
    shown = dict.fromkeys([chosen.sampler, "DDPM", "DDIM", *sorted(names, key=smallest.get)])
    curves = {
        name: zip(*((p.evaluations, p.distance.value) for p in points if p.sampler == name), strict=True)
        for name in list(shown)[:SHOWN]
    }
    figure = metric_curves({name: tuple(pair) for name, pair in curves.items()}, "Fréchet distance", log_scale=True)
    figure.axes[0].set(xscale="log", xlabel="network evaluations")
    figure.axes[0].minorticks_off()
    figure.axes[0].set_xticks(budgets, [str(budget) for budget in budgets])
    keep_picture(as_image(figure), f"sampler_frontier_{arguments.name}")


def main() -> None:
    logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ddpm-digits")
    parser.add_argument("--dataset_name", default="digits")
    parser.add_argument("--split", default="test")
    parser.add_argument("--features", default="pixels")
    parser.add_argument("--num_images", type=int, default=500)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--guidance_scale", type=float, default=1.0)
    parser.add_argument("--batch_size", type=int, default=250)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="digits", help="of the table and the figure")
    parser.add_argument("--write", metavar="FOLDER", help="save the pipeline with the winner's scheduler")
    arguments = parser.parse_args()

    pipeline = load_pipeline(arguments.model).to(arguments.device)
    pipeline.unet.eval()
    extractor = load_extractor(arguments.features, arguments.device)
    resolution = "x".join(map(str, pipeline.sample_shape[1:]))
    data = load_images(arguments.dataset_name, split=arguments.split, resolution=resolution, show_progress=False)
    reference = load_reference(data, arguments.dataset_name, arguments.split, extractor)
    points = measure(pipeline, extractor, reference, arguments)
    chosen = winner(points)
    write(points, chosen, arguments)
    print(f"winner: {chosen.sampler} with {chosen.evaluations} evaluations ({chosen.steps} steps)")
    if arguments.write:
        pipeline.scheduler = dict(samplers(pipeline.scheduler))[chosen.sampler]
        pipeline.save_pretrained(arguments.write)
        print(
            f"{arguments.write} holds the pipeline with it: num_inference_steps={chosen.steps} is its number of steps"
        )


if __name__ == "__main__":
    main()
