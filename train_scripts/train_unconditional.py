"""Trains an unconditional diffusion model on images (Ho et al. 2020, algorithm 1; Nichol & Dhariwal 2021).

accelerate launch train_scripts/train_unconditional.py                       # real 8x8 digits, minutes on a CPU
accelerate launch train_scripts/train_unconditional.py --dataset_name cifar10 --resolution 32
"""

from collections.abc import Sequence

from ddpm_ext.training.command_line import parse, run_script


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse("unconditional", argv)

    from ddpm_ext import ImprovedDDPMPipeline
    from ddpm_ext.schedulers.stock import process_of
    from ddpm_ext.training.building import (
        build_loss,
        build_scheduler,
        build_timestep_sampler,
        build_unet,
        load_training_images,
    )
    from ddpm_ext.training.run import Run

    # 1. The images, the network, and the process that turns images into noise.
    data = load_training_images(arguments)
    unet = build_unet(arguments, data)
    scheduler = build_scheduler(arguments)
    process = process_of(scheduler)
    timesteps = build_timestep_sampler(arguments, process)
    loss_of = build_loss(arguments, process)

    # 2. Ho et al. 2020, algorithm 1.
    run = Run(arguments, unet, data, timesteps, lambda unet: ImprovedDDPMPipeline(unet, scheduler))
    for batch in run.batches():
        x_0 = batch["images"]
        noise = run.random.normal("noise", *data.shape)
        t, weight = timesteps.sample(run.random.uniform("timestep"))
        x_t = process.add_noise(x_0, noise, t)
        output = run.network(x_t, t).sample
        loss = loss_of(output, x_0, x_t, noise, t)
        run.update(loss, t, weight)

    # 3. The pipeline, ready for `DiffusionPipeline.from_pretrained`.
    run.finish()


if __name__ == "__main__":
    run_script(main)
