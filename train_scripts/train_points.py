"""Trains a diffusion model on points of the plane (Ho et al. 2020, algorithm 1): everything in sight, in seconds.

python train_scripts/train_points.py                                      # the Swiss roll
python train_scripts/train_points.py --dataset_name checkerboard --class_conditional --output_dir ddpm-checkerboard
"""

from collections.abc import Sequence

from ddpm_ext.training.command_line import parse, run_script


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse("points", argv)

    import torch

    from ddpm_ext import PointsDDPMPipeline
    from ddpm_ext.schedulers.stock import process_of
    from ddpm_ext.training.building import (
        build_loss,
        build_mlp,
        build_scheduler,
        build_timestep_sampler,
        load_training_points,
    )
    from ddpm_ext.training.point_samples import POINTS, report_points
    from ddpm_ext.training.run import Run

    # 1. The points, the network, and the process that turns points into noise.
    data = load_training_points(arguments)
    unet = build_mlp(arguments, data)
    scheduler = build_scheduler(arguments)
    process = process_of(scheduler)
    timesteps = build_timestep_sampler(arguments, process)
    loss_of = build_loss(arguments, process)

    # 2. Ho et al. 2020, algorithm 1; some points are shown without their class, where classes are shown at all.
    run = Run(arguments, unet, data, timesteps, lambda unet: PointsDDPMPipeline(unet, scheduler), POINTS)
    for batch in run.batches():
        x_0, labels = batch["points"], None
        if arguments.training.class_conditional:
            dropped = run.random.uniform("label dropout") < arguments.training.label_dropout
            labels = torch.where(dropped, unet.null_class, batch["labels"])
        noise = run.random.normal("noise", *data.shape)
        t, weight = timesteps.sample(run.random.uniform("timestep"))
        x_t = process.add_noise(x_0, noise, t)
        output = run.network(x_t, t, labels).sample
        loss = loss_of(output, x_0, x_t, noise, t)
        run.update(loss, t, weight)

    # 3. Pictures of both processes, and the distance to fresh points.
    report_points(run)

    # 4. The pipeline, ready for `DiffusionPipeline.from_pretrained`.
    run.finish()


if __name__ == "__main__":
    run_script(main)
