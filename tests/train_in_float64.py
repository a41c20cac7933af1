"""The unconditional training script in float64, where rounding leaves nothing of another order of summation; the
weights go to `float64.pt` in the output folder."""

from copy import deepcopy
from pathlib import Path

import torch

from ddpm_ext import ImprovedDDPMPipeline
from ddpm_ext.schedulers.stock import process_of
from ddpm_ext.training.building import (
    build_loss,
    build_scheduler,
    build_timestep_sampler,
    build_unet,
    load_training_images,
)
from ddpm_ext.training.command_line import parse, run_script
from ddpm_ext.training.run import Run


def main() -> None:
    arguments = parse("unconditional")
    data = load_training_images(arguments)
    unet = build_unet(arguments, data).double()
    scheduler = build_scheduler(arguments)
    process = process_of(scheduler)
    timesteps = build_timestep_sampler(arguments, process)
    loss_of = build_loss(arguments, process)
    run = Run(arguments, unet, data, timesteps, lambda unet: ImprovedDDPMPipeline(unet, scheduler))
    run.save_checkpoint = run.save_pipeline = lambda: None  # they are for float32
    run.pipeline = lambda: ImprovedDDPMPipeline(deepcopy(unet).float(), scheduler)  # for the samples at the end
    for batch in run.batches():
        x_0 = batch["images"].double()
        noise = run.random.normal("noise", *data.shape).double()
        t, weight = timesteps.sample(run.random.uniform("timestep"))
        x_t = process.add_noise(x_0, noise, t)
        output = run.network(x_t, t).sample
        run.update(loss_of(output, x_0, x_t, noise, t), t, weight)
    if run.accelerator.is_main_process:
        torch.save(run.state.unet.state_dict(), Path(arguments.training.output_dir) / "float64.pt")
    run.finish()


if __name__ == "__main__":
    run_script(main)
