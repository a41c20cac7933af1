"""The pictures of the README's section "See it", of the class-conditional digits model, into docs/images.

python benchmarks/readme_pictures.py --model ddpm-digits-class-conditional
"""

import argparse

import torch
from kept import IMAGES, keep_picture

from ddpm_ext.evaluation.generate import Sampling
from ddpm_ext.evaluation.trajectory import record_trajectory
from ddpm_ext.report.reported_model import load_real_images, open_model
from ddpm_ext.report.steps import measure_steps, x_0_predictor
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ddpm-digits-class-conditional")
    model = open_model(parser.parse_args().model)
    images = load_real_images(model, "digits")

    model.pipeline.scheduler = make_sampler("ddim", model.pipeline.scheduler)
    way = record_trajectory(model.pipeline, 10, Sampling(0, 10, 50, 1.5), list(range(10)), num_frames=20)
    gif = as_gif(trajectory_frames(way, model.class_names), seconds_per_frame=0.15)
    (IMAGES / "denoising.gif").write_bytes(gif)

    few, process = images.x_0[:2], model.scheduler.process
    noise = torch.randn(few.shape, generator=torch.Generator().manual_seed(0))
    predict = x_0_predictor(model, images.labels[:2])
    strip = forward_strip(process, few, noise, [100, 200, 300, 400, 500, 600, 800, 999], predict)
    strip.save(IMAGES / "noising.png", optimize=True)

    steps = measure_steps(model, images, seed=0)
    rows = [row for row in model.facts.metrics if "loss" in row]
    charts = {
        "loss": loss_curve([row["step"] for row in rows], [row["loss"] for row in rows]),
        "bound": bound_terms(steps.timesteps, steps.terms_bpd),
        "variance": variance_fraction(steps.timesteps, steps.fractions),
    }
    for name, figure in charts.items():
        figure.set_size_inches(4.2, 3)
        keep_picture(as_image(figure, dpi=110), name)


if __name__ == "__main__":
    main()
