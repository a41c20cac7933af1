"""What the runs of docs/practical.md have shown: numbers in docs/results, pictures in docs/images, and the table.

    python benchmarks/practical.py --runs FOLDER --mnist mnist       # FOLDER holds the runs by their guide's names
    python benchmarks/tables.py

Runs that are not there leave what was kept of them before.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from experiments import keep, loss_at
from kept import keep_picture, read_kept
from matplotlib.figure import Figure
from PIL import Image
from tables import write_result

from ddpm_ext.data.images import Draw, load_images
from ddpm_ext.pipelines.loading import load_pipeline
from ddpm_ext.visualization import as_image, labelled_grid, metric_curves, opaque_image
from ddpm_ext.visualization.grids import to_bytes


LOSSES = loss_at(500, 1000, 2500, 10_000, text="{}")
_NO_CURVE = "practical_cifar10_class_conditional"  # a figure has five
TIMESTEPS = (0, 20, 50, 100, 150, 200, 300, 399)


@dataclass(frozen=True)
class Row:
    """A run of the guide: the name of its file in docs/results and of its folder, its words, the published losses."""

    name: str
    folder: str
    words: str
    theirs: str = "-"

    @property
    def short(self) -> str:
        return self.name.removeprefix("practical_").replace("_", " ")


ROWS = (
    Row("practical_conv", "ddpm-practical-conv", "MNIST, two convolutions"),
    Row(
        "practical_mnist",
        "ddpm-practical-mnist",
        "MNIST, strided U-Net",
        "below 0.1 after 2,500, below 0.05 after 10,000",
    ),
    Row(
        "practical_cifar10",
        "ddpm-practical-cifar10",
        "CIFAR-10, strided U-Net",
        "below 0.12 after 2,500, about 0.08 after 10,000",
    ),
    Row(
        "practical_mnist_class_conditional",
        "ddpm-practical-mnist-class-conditional",
        "MNIST, strided U-Net, told the class",
    ),
    Row(
        "practical_cifar10_class_conditional",
        "ddpm-practical-cifar10-class-conditional",
        "CIFAR-10, strided U-Net, told the class",
    ),
    Row("practical_unet", "ddpm-practical-mnist-unet", "MNIST, residual U-Net, told the class and the timestep"),
)


def table() -> None:
    rows = []
    for row in ROWS:
        kept = read_kept(row.name)
        if kept is None:
            continue
        rows.append([row.words, f"{kept['parameters']:,}", LOSSES(kept), row.theirs])
    write_result(
        "practical",
        "The commands of this page, ended after the updates that the last number of a row names, by "
        "`benchmarks/practical.py`. A loss is the mean of the last 100 updates.",
        ["network", "parameters", "loss", "the practical's loss"],
        rows,
    )


def draw_losses(folders: dict[str, Path]) -> Figure:
    """The loss of each run over its updates."""
    curves = {}
    for words, folder in folders.items():
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows = [row for row in rows if "loss" in row]
        curves[words] = ([row["step"] for row in rows], [row["loss"] for row in rows])
    return metric_curves(curves, "loss", log_scale=True)


@torch.no_grad()
def draw_rows(networks: dict[str, Path], mnist: str) -> Image.Image:
    """x_0, x_t, the noise in it, and what each network takes for it: a column for each timestep."""
    data = load_images(mnist, split="test[:100]", resolution="32", image_channels=3, show_progress=False)
    x_0 = next(data.batches([Draw(torch.arange(len(TIMESTEPS)))]))["images"]
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(TIMESTEPS)
    rows: dict[str, torch.Tensor] = {}
    for words, folder in networks.items():
        pipeline = load_pipeline(str(folder))
        x_t = pipeline.scheduler.process.add_noise(x_0, noise, t)
        rows = rows or {"x₀": x_0, "xₜ": x_t, "noise": noise}
        rows[words] = pipeline.unet.eval()(x_t, t).sample
    tiles = [list(to_bytes(images)) for images in rows.values()]
    return labelled_grid(tiles, list(rows), [f"t = {step}" for step in TIMESTEPS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("."))
    parser.add_argument("--mnist", default="mnist", help="the data set, or a local copy")
    arguments = parser.parse_args()
    found = {
        row: arguments.runs / row.folder for row in ROWS if (arguments.runs / row.folder / "model_index.json").exists()
    }
    for row, folder in found.items():
        keep(row.name, folder)
    table()
    if found:
        curves = {row.short: folder for row, folder in found.items() if row.name != _NO_CURVE}
        keep_picture(as_image(draw_losses(curves)), "practical_loss", 32)
    unconditional = {
        row.words.partition(", ")[2]: folder for row, folder in found.items() if row in (ROWS[0], ROWS[1])
    }
    if unconditional:
        picture = opaque_image(draw_rows(unconditional, arguments.mnist))
        keep_picture(picture, "practical_rows")
    for row in (ROWS[1], ROWS[2], ROWS[-1]):
        for grid in sorted((found[row] / "samples").glob("step-*.png"))[-1:] if row in found else ():
            keep_picture(grid, f"{row.name}_samples", 128)


if __name__ == "__main__":
    main()
