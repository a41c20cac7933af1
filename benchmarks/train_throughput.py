"""Training steps per second beside what people use today: the same network, batch and data, in turns in one process.

    python benchmarks/train_throughput.py --compile             # the digits recipe's network on a CPU
    python benchmarks/train_throughput.py --network cifar10 --batch_size 4 --steps 1     # 35.7 million parameters
    python benchmarks/train_throughput.py --network cifar10 --batch_size 256 --device cuda --mixed_precision bf16

*ours* is the body of `train_unconditional.py`, with `--compile` also with a compiled network. *diffusers* is the loop
of diffusers' example of that name, with stock classes, torchvision's transforms of PIL images in a `DataLoader`,
`EMAModel`, and the loss of each step in a progress bar. *denoising-diffusion-pytorch* (pip install
denoising-diffusion-pytorch) is its `Trainer` around the same network. All keep an average of the weights and clip
gradients. They take turns of a few steps each; the table has the medians of the turns, the median and quartiles of
the ratios of neighbouring turns, and which share of this machine's matrix rate a step is.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from limits import measure_limits, operations_of
from machine import describe_machine
from peers import denoising_diffusion_pytorch_steps, diffusers_steps
from PIL import Image
from tables import write_result
from turns import Contenders, Side, take_turns, times_as_fast

from ddpm_ext import ImprovedDDPMPipeline, ImprovedDDPMScheduler
from ddpm_ext.data.images import load_images
from ddpm_ext.models import unet_config
from ddpm_ext.training.building import build_loss, build_timestep_sampler, build_unet, load_training_images
from ddpm_ext.training.command_line import parse
from ddpm_ext.training.run import Run


NETWORKS = {
    "digits": unet_config((8, 8), 1, block_out_channels=[32, 64], layers_per_block=1, attention_resolutions=[4])
    | {"attention_head_dim": 32},
    "cifar10": unet_config((32, 32), 3, attention_resolutions=[16], attention_head_dim=256),
}
STOCK = "diffusers' example"
TITLES = {"digits": "the digits recipe's network", "cifar10": "the CIFAR-10 network of Ho et al. (2020)"}


def our_steps(argv: list[str]) -> Iterator[None]:
    """One update of `train_unconditional.py` per `next`."""
    sys.argv = ["train_unconditional.py", *argv]
    arguments = parse("unconditional")
    data = load_training_images(arguments)
    unet = build_unet(arguments, data)
    scheduler = ImprovedDDPMScheduler()
    process = scheduler.process
    timesteps = build_timestep_sampler(arguments, process)
    loss_of = build_loss(arguments, process)
    run = Run(arguments, unet, data, timesteps, lambda unet: ImprovedDDPMPipeline(unet, scheduler))
    for batch in run.batches():
        x_0 = batch["images"]
        noise = run.random.normal("noise", *data.shape)
        t, weight = timesteps.sample(run.random.uniform("timestep"))
        x_t = process.add_noise(x_0, noise, t)
        output = run.network(x_t, t).sample
        run.update(loss_of(output, x_0, x_t, noise, t), t, weight)
        yield


def our_contenders(arguments: argparse.Namespace, root: Path) -> Contenders:
    """An update each, of `train_unconditional.py`."""
    _silence(root)
    never = str(2 * _updates(arguments))
    argv = ["--model_config_name_or_path", str(root), "--train_data_dir", str(root / "images"), "--use_ema"]
    argv += ["--image_channels", str(NETWORKS[arguments.network]["in_channels"]), "--random_flip"]
    argv += ["--train_batch_size", str(arguments.batch_size), "--mixed_precision", arguments.mixed_precision]
    argv += ["--max_train_steps", str(_updates(arguments)), "--save_images_steps", never, "--logger", "none"]
    argv += ["--checkpointing_steps", never, "--save_model_epochs", never]
    found = {"ours": our_steps([*argv, "--compile", "never", "--output_dir", str(root / "ours")])}
    if arguments.compile:
        found["ours, compiled"] = our_steps([*argv, "--compile", "always", "--output_dir", str(root / "compiled")])
    return {name: partial(next, training) for name, training in found.items()}


def their_contenders(arguments: argparse.Namespace, root: Path) -> Contenders:
    """An update each, of what people use today."""
    _silence(root)
    options = (NETWORKS[arguments.network], root / "images", arguments.batch_size, arguments.device)
    options += (arguments.mixed_precision, _updates(arguments))
    found = {STOCK: diffusers_steps(*options)}
    if find_spec("denoising_diffusion_pytorch") is not None and arguments.batch_size >= 16:  # it takes no fewer
        found["denoising-diffusion-pytorch"] = denoising_diffusion_pytorch_steps(*options, root / "results")
    return {name: partial(next, training) for name, training in found.items()}


def _updates(arguments: argparse.Namespace) -> int:
    """More than there will be."""
    return 10 * (arguments.rounds + 2) * arguments.steps


def _silence(root: Path) -> None:
    """Progress bars of this process go into a file."""
    sys.stderr = open(root / f"{os.getpid()}.bars", "w")


def write_images(folder: Path, size: int, channels: int) -> None:
    """The digits' train split as PNG files."""
    data = load_images("digits", resolution=size, image_channels=channels, show_progress=False)
    folder.mkdir()
    for i, image in enumerate(data.integers(torch.arange(len(data))).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image.squeeze(2) if channels == 1 else image).save(folder / f"{i:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=tuple(NETWORKS), default="digits")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--compile", action="store_true", help="also ours with a compiled network")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each")
    parser.add_argument("--steps", type=int, default=10, help="updates in a turn")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("`device` is cuda, but there is no GPU: cpu is accepted.")
    config = NETWORKS[arguments.network]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **config}))
        write_images(root / "images", config["sample_size"], config["in_channels"])
        with Side(our_contenders, arguments, root) as ours, Side(their_contenders, arguments, root) as theirs:
            seconds = take_turns([ours, theirs], arguments.rounds, arguments.steps)
    limits = measure_limits(arguments.device, arguments.mixed_precision)
    operations = operations_of(config, arguments.batch_size, backward=True)
    rows = [
        [
            name,
            f"{1000 * median(own):.1f} ms",
            times_as_fast(own, seconds[STOCK]),
            limits.share(operations, median(own)),
        ]
        for name, own in seconds.items()
    ]
    write_result(
        f"train_throughput_{arguments.network}_{arguments.device}",
        f"A training step of {TITLES[arguments.network]}, batch {arguments.batch_size}, precision "
        f"{arguments.mixed_precision}; medians of {arguments.rounds} turns of {arguments.steps} steps, quartiles in "
        f"brackets, by `benchmarks/train_throughput.py`. The network asks for {operations / 1e9:.3g} GFLOP per step; "
        f"{limits.describe()}. {describe_machine(arguments.device)}.",
        ["", "step", "times as fast as diffusers' example", "of the matrix rate"],
        rows,
    )


if __name__ == "__main__":
    main()
