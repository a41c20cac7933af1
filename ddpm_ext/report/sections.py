"""The parts of a report, in their order: each a title, some words and pictures."""

from dataclasses import dataclass, field

import torch
from PIL import Image

from ddpm_ext.diffusion import GaussianDiffusion, make_betas
from ddpm_ext.evaluation.generate import Sampling, generate
from ddpm_ext.evaluation.trajectory import images_side_by_side, record_trajectory
from ddpm_ext.publishing.wording import training
from ddpm_ext.visualization import (
    Trajectory,
    bound_terms,
    class_grid,
    forward_strip,
    labelled_grid,
    learned_variance,
    loss_curve,
    loss_per_timestep,
    metric_curves,
    schedules,
    trajectory_frames,
    trajectory_grid,
    variance_fraction,
)

from .pictures import Picture, animation, chart, image
from .reported_model import RealImages, ReportedModel, load_real_images
from .steps import Steps, measure_steps, x_0_predictor


_MOST_CLASSES = 10


@dataclass(frozen=True)
class Section:
    """A part of the page; `name` is its anchor, `words` its paragraphs."""

    name: str
    title: str
    words: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


# ------------------------------------------------------------------ what it draws


def samples(model: ReportedModel, num_images: int, sampling: Sampling, how: str) -> Section:
    """Samples of now, and some of those that were drawn while it trained."""
    names = model.class_names
    shown = torch.linspace(0, len(names) - 1, min(len(names), _MOST_CLASSES)).round().long().tolist()
    labels = [shown[i % len(shown)] for i in range(num_images)] if names else None
    images = generate(model.pipeline, num_images, sampling, labels, progress="samples")
    if labels is None:
        grid = labelled_grid([list(row) for row in images.split(images_side_by_side(model.pipeline, 10))])
        what = f"{num_images} samples"
    else:
        grid = class_grid(images, labels, names)
        some = f"{len(shown)} of {len(names)} classes" if len(shown) < len(names) else f"each of {len(names)} classes"
        what = f"{num_images} samples, of {some} in turn"
    now = image(grid, f"{what}, not selected: {how}.", f"A grid of {what} that the model has drawn.")
    return Section("samples", "Samples", pictures=[now, *_while_it_trained(model)])


def _while_it_trained(model: ReportedModel) -> list[Picture]:
    """The first, the middle and the last grid that a run has drawn; nothing where there are fewer than two."""
    found = [
        (int(file.stem[5:]), file)
        for file in (model.folder / "samples").glob("step-*.png")
        if file.stem[5:].isdecimal()
    ]
    found.sort()
    chosen = [found[i] for i in sorted({0, len(found) // 2, len(found) - 1})] if len(found) > 1 else []
    pictures = []
    for step, file in chosen:
        try:
            grid = Image.open(file)
            pictures.append(
                image(grid, f"After {step:,} updates, from the same noise.", f"Samples after {step:,} updates.", True)
            )
        except (OSError, Image.DecompressionBombError):  # cut short by a full disk: the page has others
            continue
    return pictures


def denoising(model: ReportedModel, sampling: Sampling, how: str) -> Section:
    """The way from noise to a few samples."""
    names = model.class_names
    count = images_side_by_side(model.pipeline, 10)
    labels = [i % len(names) for i in range(count)] if names else None
    trajectory = record_trajectory(model.pipeline, count, sampling, labels)
    few = Trajectory(trajectory.timesteps, trajectory.samples[:, :3], trajectory.predictions[:, :3])
    moving = animation(
        trajectory_frames(trajectory, [names[label] for label in labels] if labels else ()),
        f"From noise to samples: {how}.",
        f"An animation of {count} images that emerge from noise, and below each the image that the network predicts.",
    )
    still = image(
        trajectory_grid(few, images_side_by_side(model.pipeline, 10)),
        "The first three of them at some of the steps.",
        "Rows of images that go from noise to samples, and below each the image that the network predicts from it.",
    )
    words = "The upper row is what the sampler has, xₜ; the lower one the x₀ that the network makes of it."
    return Section("denoising", "From noise to images", [words], [moving, still])


# ------------------------------------------------------------------ how it was trained


def training_course(model: ReportedModel) -> Section:
    """What was trained on, and the logged curves."""
    facts = model.facts
    if not facts.configuration:
        return Section("training", "Training", ["How it was trained is not recorded beside the model."])
    rows = facts.metrics
    pictures = []

    def curve(key: str) -> tuple[list[int], list[float]]:
        logged = [row for row in rows if key in row]
        return [row["step"] for row in logged], [row[key] for row in logged]

    steps, losses = curve("loss")
    if steps:
        pictures.append(chart(loss_curve(steps, losses), "The loss, as logged and smoothed.", "The loss by update."))
    words = ("least noise", "less noise", "more noise", "most noise")
    quarters = {name: curve(f"loss_quarter_{i + 1}") for i, name in enumerate(words)}
    quarters = {name: points for name, points in quarters.items() if points[0]}
    if quarters:
        figure = metric_curves(quarters, "training loss", log_scale=True)
        pictures.append(chart(figure, "The loss of each quarter of the timesteps.", "The loss of each quarter."))
    for key, label, caption in (
        ("held_out_bits_per_dim", "bits/dim", "Bits per dimension of held-out images."),
        ("held_out_fid", "Fréchet distance", "The Fréchet distance of samples to held-out images."),
        ("learning_rate", "learning rate", "The learning rate."),
        ("gradient_norm", "gradient norm", "The norm of the gradient, before clipping."),
    ):
        points = curve(key)
        if len(points[0]) > 1:
            pictures.append(chart(metric_curves({label: points}, label), caption, caption))
    return Section("training", "Training", [f"{training(facts)}."], pictures)


def results(model: ReportedModel) -> Section:
    """What was measured; the page makes a table of it."""
    is_measured = bool(model.facts.results)
    return Section(
        "results", "Results", [] if is_measured else ["Not measured yet; `train_scripts/evaluate.py` measures."]
    )


# ------------------------------------------------------------------ what its steps are


def process(model: ReportedModel, dataset_name: str | None, seed: int) -> list[Section]:
    """The schedule, real images on their way to noise, and what the network makes of each step; of flow matching,
    which has neither schedule nor bound, the second alone."""
    own = model.process
    forward = Section("process", "The way to noise")
    if isinstance(own, GaussianDiffusion):
        forward.pictures.append(_schedule(model, own))
    try:
        images = load_real_images(model, dataset_name)
    except ValueError as error:
        if dataset_name is not None:
            raise
        forward.words.append(f"No real images are shown. {error}")
        return [forward]
    forward.pictures.append(_strip(model, images, seed))
    if not isinstance(own, GaussianDiffusion):
        return [forward]
    steps = measure_steps(model, images, seed)
    words = f"Measured on {images.source}, at {len(steps.timesteps)} of the {own.num_timesteps:,} timesteps."
    return [forward, Section("steps", "Step by step", [words], _step_pictures(model, steps))]


def _schedule(model: ReportedModel, own: GaussianDiffusion) -> Picture:
    others = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
    compared = {"this model": own}
    for name, schedule in others.items():
        if schedule != model.scheduler.config.beta_schedule or model.scheduler.config.trained_betas:
            compared[name] = GaussianDiffusion(make_betas(schedule, 1000))
    return chart(
        schedules(compared),
        "How much of the image is left: alphas_cumprod, and the ratio of signal to noise.",
        "Two curves that fall with t: alphas_cumprod and the signal-to-noise ratio.",
    )


def _strip(model: ReportedModel, images: RealImages, seed: int) -> Picture:
    last, count = model.process.num_timesteps - 1, images_side_by_side(model.pipeline, 10) - 2
    timesteps = torch.linspace(0, last, max(2, count) + 1).round().long()[1:].unique().tolist()
    few = images.x_0[:3]
    noise = torch.randn(few.shape, generator=torch.Generator().manual_seed(seed)).to(few.device)
    labels = None if images.labels is None else images.labels[:3]
    strip = forward_strip(model.process, few, noise, timesteps, x_0_predictor(model, labels))
    return image(
        strip,
        "Real images on their way to noise, and below each the x₀ that the network predicts from it at once.",
        "Rows of images that turn into noise, and below each what the network takes the image to have been.",
    )


def _step_pictures(model: ReportedModel, steps: Steps) -> list[Picture]:
    scheduler, at = model.scheduler, torch.tensor(steps.timesteps)
    sums, counts = (torch.zeros(scheduler.process.num_timesteps) for _ in range(2))
    sums[at], counts[at] = steps.losses.sum(1), float(steps.losses.shape[1])
    pictures = [
        chart(
            loss_per_timestep(sums, counts, ylabel=f"squared error of {scheduler.config.prediction_type}"),
            "The error of what the network predicts, by timestep.",
            "The error of the prediction by timestep.",
        ),
        chart(
            bound_terms(steps.timesteps, steps.terms_bpd),
            "What each step adds to the bound on the bits per dimension.",
            "The terms of the variational bound by step.",
        ),
    ]
    if steps.fractions is not None:
        figure, what = variance_fraction(steps.timesteps, steps.fractions), "as a fraction v of the way between"
    elif steps.log_variances is not None:
        figure, what = learned_variance(scheduler.process, steps.timesteps, steps.log_variances), "between"
    else:
        return pictures
    caption = f"The learned variance {what} its two bounds, by timestep."
    return [*pictures, chart(figure, caption, caption)]
