"""What a run on points draws, always from the same noise, and what it measures at its end."""

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from ddpm_ext.data.points import load_points
from ddpm_ext.diffusion import FlowMatching, GaussianDiffusion
from ddpm_ext.evaluation.estimates import Estimate
from ddpm_ext.evaluation.point_metrics import chamfer_distance, energy_distance
from ddpm_ext.evaluation.records import Measurement, write_measurements
from ddpm_ext.pipelines import PointsDDPMPipeline
from ddpm_ext.randomness import generator_for
from ddpm_ext.schedulers.stock import process_of
from ddpm_ext.visualization import (
    Trajectory,
    TrajectoryRecorder,
    as_gif,
    as_image,
    point_cloud_frames,
    point_clouds,
    telling_moments,
)

from .arguments import Arguments
from .run import Run
from .samples import Motion, Pictures


_FRAMES = 32
_POINTS_IN_FRAME = 1000  # noise hardly compresses
_GIF_PIXELS = 240
_LIMIT = 2.0  # twice as far as the data; of the noise, 9 points in 100 lie farther out


def sample_points(
    pipeline: PointsDDPMPipeline, arguments: Arguments, seed: int, recorder: TrajectoryRecorder | None = None
) -> Tensor:
    """`eval_batch_size` points, (N, 2), settled by `seed`; of all classes in turn where the model knows some."""
    pipeline.unet.eval()
    pipeline.set_progress_bar_config(disable=True)
    count, classes = arguments.logging.eval_batch_size, pipeline.unet.num_classes
    labels = None if classes is None else torch.arange(count) % classes
    return pipeline(
        count,
        labels,
        arguments.logging.guidance_scale,
        generator=generator_for(seed, "sampling points", 0),
        num_inference_steps=arguments.logging.num_inference_steps,
        callback_on_step_end=recorder,
    ).points.cpu()


def sample_trajectory(pipeline: PointsDDPMPipeline, arguments: Arguments) -> Trajectory:
    """The way to those points."""
    recorder = TrajectoryRecorder(_FRAMES)
    sample_points(pipeline, arguments, arguments.training.seed, recorder)
    return recorder.trajectory()


def fresh_points(arguments: Arguments) -> Tensor:
    """As many points of the distribution, (N, 2), none of which was trained on."""
    data = arguments.data
    return load_points(data.dataset_name, arguments.logging.eval_batch_size, arguments.training.seed, "fresh").points


def _draw_samples(pipeline: PointsDDPMPipeline, arguments: Arguments, accelerator: Accelerator) -> Image.Image:
    """The points above fresh ones; every process draws the same."""
    points = sample_points(pipeline, arguments, arguments.training.seed)
    return as_image(point_clouds(points[None], reference=fresh_points(arguments), limit=_LIMIT / 2))


def _draw_motion(pipeline: PointsDDPMPipeline, arguments: Arguments) -> Motion:
    """The points on their way, above fresh ones."""
    trajectory, fresh = sample_trajectory(pipeline, arguments), fresh_points(arguments)
    states, labels = trajectory.samples, trajectory.labels()
    return Motion(_frames(states, labels, fresh), _moments(states, labels, telling_moments(len(states)), fresh))


def _draw_noise(pipeline: PointsDDPMPipeline, arguments: Arguments) -> Image.Image:
    """What the points start from."""
    generator = generator_for(arguments.training.seed, "sampling points", 0)
    noise = pipeline.initial_noise(arguments.logging.eval_batch_size, generator)
    return as_image(point_clouds(noise[None].cpu(), limit=_LIMIT))


POINTS = Pictures(_draw_samples, _draw_motion, _draw_noise)


def report_points(run: Run) -> None:
    """Draws both processes (forward.png, forward.gif, trajectory.png), and measures the distance to fresh points:
    printed, and kept in evaluation/metrics.json."""
    pipeline, arguments, folder = run.pipeline(), run.arguments, run.output_dir
    if not run.accelerator.is_main_process:
        return
    fresh = fresh_points(arguments)
    known = run.data.points[: len(fresh)]
    process = process_of(pipeline.scheduler)
    on_the_way = _moved if isinstance(process, FlowMatching) else _diffused
    states, labels = on_the_way(known, process, arguments.training.seed)
    chosen = [len(states) - 1 - place for place in reversed(telling_moments(len(states)))]
    _moments(states, labels, chosen).save(folder / "forward.png")
    (folder / "forward.gif").write_bytes(as_gif(_frames(states, labels)))
    trajectory = sample_trajectory(pipeline, arguments)
    states, labels = trajectory.samples, trajectory.labels()
    _moments(states, labels, telling_moments(len(states)), fresh).save(folder / "trajectory.png")
    _measure(run, states[-1], known, fresh)


def _measure(run: Run, points: Tensor, known: Tensor, fresh: Tensor) -> None:
    distance, floor = chamfer_distance(points, fresh), chamfer_distance(known, fresh)
    protocol = {
        "data_set": run.arguments.data.dataset_name,
        "points": len(points),
        "steps": run.arguments.logging.num_inference_steps,
        "reference": f"{len(fresh):,} fresh points",
    }
    of_real_ones = {**protocol, "steps": "none: these are training points"}
    measured = [
        Measurement("chamfer", "Chamfer distance", Estimate(distance), protocol),
        Measurement("energy", "energy distance", energy_distance(points, fresh), protocol),
        Measurement("chamfer_floor", "Chamfer distance of as many training points", Estimate(floor), of_real_ones),
    ]
    write_measurements(run.output_dir / "evaluation", measured, run.output_dir.name)
    print(f"Chamfer distance {distance:.3g} ({measured[0].describe_protocol()}); that of training points: {floor:.2g}")


def _diffused(x_0: Tensor, process: GaussianDiffusion, seed: int) -> tuple[Tensor, list[str]]:
    """Points on their way to noise, (S, N, 2), by a chain of few steps, and what to write at each moment."""
    last = process.num_timesteps - 1
    chain = process.respace(torch.linspace(0, last, min(_FRAMES, last + 1)).round().long())
    generator = generator_for(seed, "diffusing points", 0)
    states = [x_0]
    for row in range(chain.num_timesteps):
        states.append(chain.diffuse(states[-1], torch.randn(x_0.shape, generator=generator), row))
    return torch.stack(states), ["data", *(f"t = {t}" for t in chain.timesteps.tolist())]


def _moved(x_0: Tensor, path: FlowMatching, seed: int) -> tuple[Tensor, list[str]]:
    """The same on straight lines, each to a noise of its own."""
    noise = torch.randn(x_0.shape, generator=generator_for(seed, "diffusing points", 0))
    times = torch.linspace(0, path.num_timesteps, _FRAMES + 1).tolist()
    return torch.stack([path.add_noise(x_0, noise, t) for t in times]), ["data", *(f"t = {t:.0f}" for t in times[1:])]


def _moments(states: Tensor, labels: list[str], chosen: list[int], reference: Tensor | None = None) -> Image.Image:
    return as_image(point_clouds(states[chosen], [labels[i] for i in chosen], reference, limit=_LIMIT), dpi=80)


def _frames(states: Tensor, labels: list[str], reference: Tensor | None = None) -> list[Image.Image]:
    reference = None if reference is None else reference[:_POINTS_IN_FRAME]
    return point_cloud_frames(states[:, :_POINTS_IN_FRAME], labels, reference, _GIF_PIXELS, _LIMIT)
