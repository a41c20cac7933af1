"""Trains a class-conditional diffusion model for classifier-free guidance (Ho & Salimans 2022, algorithm 1), by
default with a learned variance and the hybrid loss (Nichol & Dhariwal 2021).

    accelerate launch train_scripts/train_class_conditional.py                   # real 8x8 digits, minutes on a CPU
    accelerate launch train_scripts/train_class_conditional.py --dataset_name cifar10 --resolution 32
"""

from ddpm_ext.training.command_line import parse, run_script


def main() -> None:
    arguments = parse("class_conditional")

    import torch

    from ddpm_ext import ClassConditionalDDPMPipeline
    from ddpm_ext.schedulers.stock import process_of
    from ddpm_ext.training.building import (
        build_loss,
        build_scheduler,
        build_timestep_sampler,
        build_unet,
        load_training_images,
        names_of_classes,
    )
    from ddpm_ext.training.run import Run

    # 1. The images with their classes, the network, and the process that turns images into noise.
    data = load_training_images(arguments)
    id2label = names_of_classes(data)
    unet = build_unet(arguments, data, num_classes=len(id2label))
    scheduler = build_scheduler(arguments)
    process = process_of(scheduler)
    timesteps = build_timestep_sampler(arguments, process)
    loss_of = build_loss(arguments, process)

    # 2. Ho & Salimans 2022, algorithm 1: some images are shown without their class.
    run = Run(arguments, unet, data, timesteps, lambda unet: ClassConditionalDDPMPipeline(unet, scheduler, id2label))
    for batch in run.batches():
        x_0 = batch["images"]
        dropped = run.random.uniform("label dropout") < arguments.training.label_dropout
        labels = torch.where(dropped, unet.null_class, batch["labels"])
        noise = run.random.normal("noise", *data.shape)
        t, weight = timesteps.sample(run.random.uniform("timestep"))
        x_t = process.add_noise(x_0, noise, t)
        output = run.network(x_t, t, labels).sample
        loss = loss_of(output, x_0, x_t, noise, t)
        run.update(loss, t, weight)

    # 3. The pipeline, ready for `DiffusionPipeline.from_pretrained`.
    run.finish()


if __name__ == "__main__":
    run_script(main)
