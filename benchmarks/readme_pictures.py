"""The pictures of the README's section "See it", of the class-conditional digits model, into docs/images.

python benchmarks/readme_pictures.py --model ddpm-digits-class-conditional
"""

import argparse
from pathlib import Path

import torch

from ddpm_ext.evaluation.generate import Sampling
from ddpm_ext.evaluation.trajectory import record_trajectory
from ddpm_ext.report.steps import measure_steps, x_0_predictor
from ddpm_ext.report.subject import load_real_images, open_subject
from ddpm_ext.schedulers.samplers import make_sampler
from ddpm_ext.visualization import (
    as_gif,
    as_image,
    bound_terms,
    forward_strip,
    loss_curve,
    trajectory_frames,
    variance_fraction,
)


IMAGES = Path(__file__).parents[1] / "docs" / "images"
MOST_BYTES = 1_000_000  # all of docs/images: they are part of every clone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ddpm-digits-class-conditional")
    subject = open_subject(parser.parse_args().model)
    images = load_real_images(subject, "digits")

    subject.pipeline.scheduler = make_sampler("ddim", subject.pipeline.scheduler)
    way = record_trajectory(subject.pipeline, 10, Sampling(0, 10, 50, 1.5), list(range(10)), num_frames=20)
    gif = as_gif(trajectory_frames(way, subject.class_names), seconds_per_frame=0.15)
    (IMAGES / "denoising.gif").write_bytes(gif)

    few, process = images.x_0[:2], subject.scheduler.process
    noise = torch.randn(few.shape, generator=torch.Generator().manual_seed(0))
    predict = x_0_predictor(subject, images.labels[:2])
    strip = forward_strip(process, few, noise, [100, 200, 300, 400, 500, 600, 800, 999], predict)
    strip.save(IMAGES / "noising.png", optimize=True)

    steps = measure_steps(subject, images, seed=0)
    rows = [row for row in subject.facts.metrics if "loss" in row]
    charts = {
        "loss": loss_curve([row["step"] for row in rows], [row["loss"] for row in rows]),
        "bound": bound_terms(steps.timesteps, steps.terms_bpd),
        "variance": variance_fraction(steps.timesteps, steps.fractions),
    }
    for name, figure in charts.items():
        figure.set_size_inches(4.2, 3)
        as_image(figure, dpi=110).convert("RGB").quantize(64).save(IMAGES / f"{name}.png", optimize=True)

    sizes = {file.name: file.stat().st_size for file in sorted(IMAGES.iterdir())}
    print(sizes, sum(sizes.values()))
    if sum(sizes.values()) > MOST_BYTES:
        raise SystemExit(f"the pictures take {sum(sizes.values()):,} bytes: at most {MOST_BYTES:,} are to be kept")


if __name__ == "__main__":
    main()
