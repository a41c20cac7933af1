"""Sampling beside what people use today: the same network, weights, noise and steps, in turns in one process.

    python benchmarks/sampling_throughput.py                  # 64 digits in 250 steps on a CPU, minutes
    python benchmarks/sampling_throughput.py --compile        # with torch.compile, which takes a minute more
    python benchmarks/sampling_throughput.py --network cifar10 --batch_size 256 --device cuda --compile

Ours is `ImprovedDDPMPipeline`; what it draws is first checked to be what diffusers' `DDPMPipeline` and `DDIMPipeline`
draw, to 1e-4. *guided* is `ClassConditionalDDPMPipeline` beside one evaluation of twice the batch. The `sample` of
denoising-diffusion-pytorch (pip install denoising-diffusion-pytorch) takes as many steps by DDIM, from its own noise.
They take turns; the table has the medians of the turns, and median and quartiles of the ratios of neighbouring turns.
"""

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from statistics import median, quantiles

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from machine import describe_machine
from peers import lucidrains_diffusion
from tables import write_result
from torch import Tensor
from train_throughput import NETWORKS, TITLES

from ddpm_ext import (
    ClassConditionalDDPMPipeline,
    ClassConditionalUNet2DModel,
    ImprovedDDPMPipeline,
    ImprovedDDPMScheduler,
)
from ddpm_ext.evaluation.compiled_network import compile_network


CLASSES = 10
TOLERANCE = 1e-4
Contender = Callable[[], Tensor]


def ancestral(unet: UNet2DModel, arguments: argparse.Namespace) -> dict[str, Contender]:
    """DDPM: ours, stock and, on request, ours compiled."""
    options = {"batch_size": arguments.batch_size, "num_inference_steps": arguments.num_inference_steps}
    ours = _quiet(ImprovedDDPMPipeline(unet, ImprovedDDPMScheduler()))
    stock = _quiet(DDPMPipeline(unet, DDPMScheduler(timestep_spacing="linspace")))
    found = {
        "ours": lambda: ours(generator=_generator(arguments), output_type="pt", **options).images,
        "DDPMPipeline": lambda: _as_tensor(stock(generator=_generator(arguments), output_type="np", **options).images),
    }
    if arguments.compile:
        compiled = _quiet(ImprovedDDPMPipeline(_compiled(unet), ImprovedDDPMScheduler()))
        found["ours, compiled"] = lambda: compiled(generator=_generator(arguments), output_type="pt", **options).images
    return found


def implicit(unet: UNet2DModel, arguments: argparse.Namespace) -> dict[str, Contender]:
    """DDIM without noise or clipping, with the spacing of steps that stock means: in these, ours does the same."""
    config = {"clip_sample": False, "timestep_spacing": "trailing"}
    steps = arguments.num_inference_steps
    options = {"batch_size": arguments.batch_size, "num_inference_steps": steps, "eta": 0.0}
    ours = _quiet(ImprovedDDPMPipeline(unet, DDIMScheduler(**config)))
    stock = _quiet(DDIMPipeline(unet, DDIMScheduler(**config)))
    return {
        "ours": lambda: ours(generator=_generator(arguments), output_type="pt", **options).images,
        "DDIMPipeline": lambda: _as_tensor(stock(generator=_generator(arguments), output_type="np", **options).images),
    }


def guided(arguments: argparse.Namespace) -> dict[str, Contender]:
    """Guidance, and the same network on as many images as it evaluates for that."""
    torch.manual_seed(0)
    config = {**NETWORKS[arguments.network], "num_class_embeds": CLASSES + 1}
    unet = ClassConditionalUNet2DModel(**config).eval().to(arguments.device)
    pipeline = _quiet(ClassConditionalDDPMPipeline(unet, ImprovedDDPMScheduler()))

    def sample(count: int, scale: float) -> Tensor:
        return pipeline(
            [i % CLASSES for i in range(count)],
            guidance_scale=scale,
            generator=_generator(arguments),
            num_inference_steps=arguments.num_inference_steps,
            output_type="pt",
        ).images

    count = arguments.batch_size
    return {"one doubled batch": lambda: sample(2 * count, 1.0), "guided": lambda: sample(count, 2.0)}


def of_denoising_diffusion_pytorch(unet: UNet2DModel, arguments: argparse.Namespace) -> Contender:
    diffusion = lucidrains_diffusion(
        NETWORKS[arguments.network], sampling_timesteps=arguments.num_inference_steps, ddim_sampling_eta=0.0
    ).to(arguments.device)
    diffusion.model.unet.load_state_dict(unet.state_dict())
    return lambda: diffusion.sample(batch_size=arguments.batch_size)


def check_same_images(contenders: dict[str, Contender]) -> None:
    """That all draw what the first draws, as uint8 does not tell apart; ends the program where they do not."""
    (name, first), *others = ((name, draw().cpu()) for name, draw in contenders.items())
    for other, images in others:
        difference = float((first - images).abs().max())
        if difference > TOLERANCE:
            raise SystemExit(f"{name} and {other} draw other images: they differ by {difference:.2g}.")


def take_turns(contenders: dict[str, Contender], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each turn, by name."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, draw in contenders.items():
            began = time.perf_counter()
            draw()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def rows_of(title: str, seconds: dict[str, list[float]]) -> list[list[str]]:
    """A row for each contender; ratios are to the first."""
    first = next(iter(seconds))
    rows = []
    for name, own in seconds.items():
        ratios = [mine / reference for mine, reference in zip(own, seconds[first], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        ratio = "1" if name == first else f"{median(ratios):.2f} ({low:.2f} to {high:.2f})"
        rows.append([title, name, f"{median(own):.2f} s", ratio])
    return rows


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(0)
    unet = UNet2DModel(**NETWORKS[arguments.network]).eval().to(arguments.device)
    rows = []
    for title, contenders in (
        ("DDPM", ancestral(unet, arguments)),
        ("DDIM", implicit(unet, arguments)),
        ("guided", guided(arguments)),
    ):
        if title == "guided":
            contenders["one doubled batch"]()  # what the first call sets up is nobody's
        else:
            check_same_images(contenders)
        if title == "DDIM" and find_spec("denoising_diffusion_pytorch") is not None:
            contenders["denoising-diffusion-pytorch"] = of_denoising_diffusion_pytorch(unet, arguments)
        rows += rows_of(title, take_turns(contenders, arguments.rounds, arguments.device))
    write_result(
        f"sampling_throughput_{arguments.network}_{arguments.device}",
        f"{arguments.batch_size} samples in {arguments.num_inference_steps} steps with {TITLES[arguments.network]}; "
        f"medians of {arguments.rounds} turns, quartiles in brackets, by `benchmarks/sampling_throughput.py`. "
        f"{describe_machine(arguments.device)}.",
        ["", "", "time", "relative to the first"],
        rows,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=tuple(NETWORKS), default="digits")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_inference_steps", type=int, default=250)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="also ours with a compiled network")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each, at least 2")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("`device` is cuda, but there is no GPU: cpu is accepted.")
    return arguments


def _compiled(unet: UNet2DModel) -> UNet2DModel:
    copy = deepcopy(unet)
    compile_network(copy)
    return copy


def _generator(arguments: argparse.Namespace) -> torch.Generator:
    return torch.Generator(arguments.device).manual_seed(0)


def _quiet(pipeline: ImprovedDDPMPipeline | DDPMPipeline | DDIMPipeline) -> ImprovedDDPMPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _as_tensor(images: object) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
