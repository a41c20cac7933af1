"""Training batches per second from a data set of CIFAR-10's size, beside the loading of diffusers' example.

    python benchmarks/loading_throughput.py --train_data_dir FOLDER        # parquet files with a column of images
    python benchmarks/loading_throughput.py --dataset_name cifar10 --workers 2 --device cuda

*ours* is the stream of a training run: integer images that were decoded once, flipped and scaled where they are used.
*diffusers' example* decodes with PIL, and resizes, crops, flips and scales with torchvision, in a `DataLoader`. Both
shuffle, and bring batches to the device. They take turns; the table has medians of the turns, and median and quartiles
of the ratios of neighbouring turns.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator
from datasets import Dataset, load_dataset
from machine import describe_machine
from tables import write_result
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from turns import times_as_fast

from ddpm_ext.data.images import load_images
from ddpm_ext.training.global_batch import GlobalBatch
from ddpm_ext.training.stream import Stream


def our_batches(arguments: argparse.Namespace) -> Iterator[Tensor]:
    data = load_images(
        dataset_name=arguments.dataset_name,
        train_data_dir=arguments.train_data_dir,
        split="train",
        resolution=arguments.resolution,
        num_workers=arguments.workers,
    )
    data.random_flip = True
    accelerator = Accelerator(cpu=arguments.device == "cpu")
    stream = Stream(data, GlobalBatch(arguments.batch_size, 1, 1), 0, 10**9, accelerator)
    return (batch["images"] for _, batch in stream.batches(0))


def their_batches(arguments: argparse.Namespace) -> Iterator[Tensor]:
    """Written from the description of diffusers' `train_unconditional.py`."""
    data = _their_data(arguments)
    column = next(name for name, feature in data.features.items() if type(feature).__name__ == "Image")
    augment = transforms.Compose(
        [
            transforms.Resize(arguments.resolution, interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.RandomCrop(arguments.resolution),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    data.set_transform(lambda rows: {"input": [augment(image.convert("RGB")) for image in rows[column]]})
    loader = DataLoader(data, batch_size=arguments.batch_size, shuffle=True, num_workers=arguments.workers)
    while True:
        for batch in loader:
            yield batch["input"].to(arguments.device)


def _their_data(arguments: argparse.Namespace) -> Dataset:
    if arguments.dataset_name is not None:
        return load_dataset(arguments.dataset_name, split="train")
    files = sorted(str(path) for path in Path(arguments.train_data_dir).rglob("*train*.parquet"))
    return load_dataset("parquet", data_files=files, split="train")


def take_turns(arguments: argparse.Namespace) -> tuple[dict[str, list[float]], float]:
    """Seconds per batch in each turn, by name, and how long ours took until its first batch; a first turn of each is
    not counted."""
    began = time.perf_counter()
    ours = our_batches(arguments)
    next(ours)
    to_first = time.perf_counter() - began
    loaders = {
        "ours": (ours, 10 * arguments.batches),
        "diffusers' example": (their_batches(arguments), arguments.batches),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(arguments.rounds + 1):
        for name, (batches, count) in loaders.items():
            began = time.perf_counter()
            for _ in range(count):
                images = next(batches)
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append((time.perf_counter() - began) / count)
            assert images.shape[2:] == (arguments.resolution, arguments.resolution) and images.min() < 0
    return seconds, to_first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train_data_dir")
    parser.add_argument("--dataset_name")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=0, help="processes that decode, of either")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each, at least 2")
    parser.add_argument(
        "--batches", type=int, default=8, help="batches of theirs in a turn; ours are ten times as many"
    )
    arguments = parser.parse_args()
    if (arguments.train_data_dir is None) == (arguments.dataset_name is None):
        parser.error("`train_data_dir` or `dataset_name` must be given.")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("`device` is cuda, but there is no GPU: cpu is accepted.")
    seconds, to_first = take_turns(arguments)
    rows = [
        [
            name,
            f"{arguments.batch_size / median(own):,.0f}",
            f"{1000 * median(own):.2f} ms",
            times_as_fast(own, seconds["diffusers' example"]),
        ]
        for name, own in seconds.items()
    ]
    write_result(
        f"loading_throughput_{arguments.device}",
        f"Batches of {arguments.batch_size} images of {arguments.resolution}x{arguments.resolution}, with "
        f"{arguments.workers} decoding processes; ours has decoded all of them once, in {to_first:.0f} s. Medians of "
        f"{arguments.rounds} turns, quartiles in brackets, by `benchmarks/loading_throughput.py`. "
        f"{describe_machine(arguments.device)}.",
        ["", "images/s", "a batch", "times as fast as diffusers' example"],
        rows,
    )


if __name__ == "__main__":
    main()
