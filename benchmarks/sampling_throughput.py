"""Sampling beside what people use today: the same network, weights, noise and steps, in turns in one process.

    python benchmarks/sampling_throughput.py                  # 64 digits in 250 steps on a CPU, minutes
    python benchmarks/sampling_throughput.py --compile        # with torch.compile, which takes a minute more
    python benchmarks/sampling_throughput.py --network cifar10 --batch_size 256 --device cuda --compile \
        --mixed_precision bf16

Ours is `ImprovedDDPMPipeline`; what it draws is first checked, in float32, to be what diffusers' `DDPMPipeline` and
`DDIMPipeline` draw, to 1e-4. *guided* is `ClassConditionalDDPMPipeline` beside one evaluation of twice the batch;
*scheduler alone*, the steps without a network. The `sample` of denoising-diffusion-pytorch (pip install
denoising-diffusion-pytorch) takes as many steps by DDIM, from its own noise. They take turns; the table has the
medians of the turns, the median and quartiles of the ratios of neighbouring turns, and which share of this machine's
matrix rate the network's evaluations are.
"""

import argparse
import os
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from statistics import median

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from limits import Limits, measure_limits, operations_of
from machine import describe_machine
from peers import lucidrains_diffusion
from tables import write_result
from torch import Tensor
from train_throughput import NETWORKS, TITLES
from turns import Contenders, Side, take_turns, times_as_fast

from ddpm_ext import (
    ClassConditionalDDPMPipeline,
    ClassConditionalUNet2DModel,
    ImprovedDDPMPipeline,
    ImprovedDDPMScheduler,
)
from ddpm_ext.evaluation.compiled_network import compile_network
from ddpm_ext.evaluation.generate import Sampling


CLASSES = 10
DDIM = {"clip_sample": False, "timestep_spacing": "trailing"}  # without noise: in these, ours does what stock means
REFERENCES = {
    "DDPM": "DDPMPipeline",
    "DDIM": "DDIMPipeline",
    "guided": "one doubled batch",
    "scheduler alone": "DDPMScheduler",
}
TOLERANCE = 1e-4
LUCIDRAINS = "denoising-diffusion-pytorch"
Contender = Callable[[], Tensor]


def our_contenders(arguments: argparse.Namespace) -> Contenders:
    """Names are of a group and, after a colon, of who it is."""
    unet = _unet(arguments)
    found = {
        "DDPM: ours": _draw(ImprovedDDPMPipeline(unet, ImprovedDDPMScheduler()), arguments),
        "DDIM: ours": _draw(ImprovedDDPMPipeline(unet, DDIMScheduler(**DDIM)), arguments, eta=0.0),
        **guided(arguments),
        "scheduler alone: ours": _steps(ImprovedDDPMScheduler(), arguments),
    }
    if arguments.compile:
        compiled = deepcopy(unet)
        compile_network(compiled)
        found["DDPM: ours, compiled"] = _draw(ImprovedDDPMPipeline(compiled, ImprovedDDPMScheduler()), arguments)
    return _in_precision(found, arguments)


def their_contenders(arguments: argparse.Namespace) -> Contenders:
    unet = _unet(arguments)
    stock = DDPMScheduler(timestep_spacing="linspace")
    found = {
        "DDPM: DDPMPipeline": _draw(DDPMPipeline(unet, stock), arguments),
        "DDIM: DDIMPipeline": _draw(DDIMPipeline(unet, DDIMScheduler(**DDIM)), arguments, eta=0.0),
        "scheduler alone: DDPMScheduler": _steps(DDPMScheduler(timestep_spacing="linspace"), arguments),
    }
    if find_spec("denoising_diffusion_pytorch") is not None:
        found[f"DDIM: {LUCIDRAINS}"] = of_denoising_diffusion_pytorch(unet, arguments)
    return _in_precision(found, arguments)


def guided(arguments: argparse.Namespace) -> Contenders:
    """Guidance, and the same network on as many images as it evaluates for that."""
    torch.manual_seed(0)
    config = {**NETWORKS[arguments.network], "num_class_embeds": CLASSES + 1}
    unet = ClassConditionalUNet2DModel(**config).eval().to(arguments.device)
    pipeline = ClassConditionalDDPMPipeline(unet, ImprovedDDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)

    def sample(count: int, scale: float) -> Tensor:
        return pipeline(
            [i % CLASSES for i in range(count)],
            guidance_scale=scale,
            generator=_generator(arguments),
            num_inference_steps=arguments.num_inference_steps,
            output_type="pt",
        ).images

    count = arguments.batch_size
    return {"guided: one doubled batch": lambda: sample(2 * count, 1.0), "guided: ours": lambda: sample(count, 2.0)}


def of_denoising_diffusion_pytorch(unet: UNet2DModel, arguments: argparse.Namespace) -> Contender:
    diffusion = lucidrains_diffusion(
        NETWORKS[arguments.network], sampling_timesteps=arguments.num_inference_steps, ddim_sampling_eta=0.0
    ).to(arguments.device)
    diffusion.model.unet.load_state_dict(unet.state_dict())
    return lambda: diffusion.sample(batch_size=arguments.batch_size)


def check_same_images(*sides: Side) -> None:
    """That all of a group draw what its first draws, as uint8 does not tell apart; ends the program where they do
    not."""
    exact = {name: side for side in sides for name in side.names if LUCIDRAINS not in name}
    images = {name: side.result(name) for name, side in exact.items() if name.startswith(("DDPM", "DDIM"))}
    for group in ("DDPM", "DDIM"):
        (name, first), *others = ((name, drawn) for name, drawn in images.items() if name.startswith(group))
        for other, drawn in others:
            difference = float(np.abs(first - drawn).max())
            if difference > TOLERANCE:
                raise SystemExit(f"{name} and {other} draw other images: they differ by {difference:.2g}.")


def as_rows(
    seconds: dict[str, list[float]], limits: Limits, evaluation: int, arguments: argparse.Namespace
) -> list[list[str]]:
    """A row for each contender, group by group; the first of a group is what the others are measured by."""
    rows = []
    for group, reference in REFERENCES.items():
        name_of = {name.partition(": ")[2]: name for name in seconds if name.startswith(f"{group}: ")}
        operations = evaluation * arguments.num_inference_steps * (2 if group == "guided" else 1)
        for name in sorted(name_of, key=lambda name: name != reference):
            own = seconds[name_of[name]]
            fast = times_as_fast(own, seconds[name_of[reference]])
            share = "-" if group == "scheduler alone" else limits.share(operations, median(own))
            rows.append([group, name, f"{median(own):.3g} s", fast, share])
    return rows


def main() -> None:
    arguments = _arguments()
    os.environ["TQDM_DISABLE"] = "1"  # of the processes that are started here
    precision = arguments.mixed_precision
    if precision != "no":
        exact = argparse.Namespace(**{**vars(arguments), "mixed_precision": "no"})
        with Side(our_contenders, exact) as ours, Side(their_contenders, exact) as theirs:
            check_same_images(ours, theirs)
    with Side(our_contenders, arguments) as ours, Side(their_contenders, arguments) as theirs:
        if precision == "no":
            check_same_images(ours, theirs)
        seconds = take_turns([ours, theirs], arguments.rounds)
    limits = measure_limits(arguments.device, precision)
    evaluation = operations_of(NETWORKS[arguments.network], arguments.batch_size, backward=False)
    write_result(
        f"sampling_throughput_{arguments.network}_{arguments.device}",
        f"{arguments.batch_size} samples in {arguments.num_inference_steps} steps with {TITLES[arguments.network]}, "
        f"precision {precision}; medians of {arguments.rounds} turns, quartiles in brackets, by "
        f"`benchmarks/sampling_throughput.py`. An evaluation of the network asks for {evaluation / 1e9:.3g} GFLOP; "
        f"{limits.describe()}. {describe_machine(arguments.device)}.",
        ["", "", "time", "times as fast as the first", "of the matrix rate"],
        as_rows(seconds, limits, evaluation, arguments),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=tuple(NETWORKS), default="digits")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_inference_steps", type=int, default=250)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="also ours with a compiled network")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each, at least 2")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("`device` is cuda, but there is no GPU: cpu is accepted.")
    return arguments


def _unet(arguments: argparse.Namespace) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(**NETWORKS[arguments.network]).eval().to(arguments.device)


def _draw(
    pipeline: ImprovedDDPMPipeline | DDPMPipeline | DDIMPipeline, arguments: argparse.Namespace, **options: float
) -> Contender:
    pipeline.set_progress_bar_config(disable=True)
    options |= {"batch_size": arguments.batch_size, "num_inference_steps": arguments.num_inference_steps}
    if isinstance(pipeline, ImprovedDDPMPipeline):
        return lambda: pipeline(generator=_generator(arguments), output_type="pt", **options).images

    def draw() -> Tensor:
        images = pipeline(generator=_generator(arguments), output_type="np", **options).images
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    return draw


def _in_precision(contenders: Contenders, arguments: argparse.Namespace) -> Contenders:
    """All of them, with the network in the precision asked for."""
    sampling = Sampling(mixed_precision=arguments.mixed_precision)

    def within(contender: Contender) -> Contender:
        def draw() -> Tensor:
            with sampling.autocast(torch.device(arguments.device)):
                return contender()

        return draw

    return {name: within(contender) for name, contender in contenders.items()}


def _steps(scheduler: DDPMScheduler, arguments: argparse.Namespace) -> Contender:
    """The steps of DDPM without a network."""
    size, channels = NETWORKS[arguments.network]["sample_size"], NETWORKS[arguments.network]["in_channels"]
    output = torch.randn(arguments.batch_size, channels, size, size, device=arguments.device)

    def steps() -> Tensor:
        x, generator = output, _generator(arguments)
        scheduler.set_timesteps(arguments.num_inference_steps)
        for timestep in scheduler.timesteps:
            x = scheduler.step(output, timestep, x, generator=generator).prev_sample
        return x

    return steps


def _generator(arguments: argparse.Namespace) -> torch.Generator:
    return torch.Generator(arguments.device).manual_seed(0)


if __name__ == "__main__":
    main()
