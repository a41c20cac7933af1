"""The experiments of papers and courses: what runs of them have shown, in docs/results, and the README's table of it.

    python benchmarks/experiments.py keep ddpm_cifar10_mini ddpm-cifar10-mini    # NAME, and the folder of the run
    python benchmarks/experiments.py pictures practicum side-by-side             # NAME, and what compare_runs.py left
    python benchmarks/experiments.py tables
    python benchmarks/tables.py

A row says what the source reports (nothing where it reports none), and what ours has shown within the stated budget.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import yaml
from kept import Kept, keep_picture, read_kept, write_kept
from tables import write_result

from ddpm_ext.publishing.facts import Facts, read_facts


@dataclass(frozen=True)
class Experiment:
    """`name` of its file in docs/results, `title`, `command`, what the source reports (`theirs`), and what to show."""

    name: str
    title: str
    command: str
    theirs: str
    ours: Callable[[Kept], str]


def keep(name: str, folder: Path) -> None:
    """What the run in `folder` has shown: its budget, its loss, and what was measured of it."""
    facts = read_facts(folder)
    rows = [row for row in facts.metrics if "loss" in row]
    seen, speed = f"{facts.noun}_seen", f"{facts.noun}_per_second"
    counts = [0, *(row[seen] for row in rows)]
    seconds = sum((after - before) / row[speed] for before, after, row in zip(counts, counts[1:], rows, strict=False))
    content = {
        "updates": rows[-1]["step"],
        "samples_seen": rows[-1][seen],
        "samples": facts.noun,
        "training_minutes": round(seconds / 60, 1),
        "parameters": facts.num_parameters,
        "loss": _losses(rows),
        "results": [
            {
                "name": one.metric_type,
                "title": one.name,
                "shown": one.shown,
                "value": one.value,
                "protocol": one.protocol,
            }
            for one in facts.results
        ],
        "configuration": _configuration(facts),
        "environment": facts.run.get("environment"),
    }
    write_kept(name, content)


def keep_pictures(name: str, folder: Path) -> None:
    """The pictures in `folder`, in few colours, as docs/images/NAME_*.png."""
    for picture in folder.glob("*.png"):
        keep_picture(picture, f"{name}_{picture.stem}", 128)


def _losses(rows: list[dict[str, float]]) -> dict[str, float]:
    """The loss of the last 100 updates after each twentieth of the run, by the update."""
    logged = {row["step"]: row["loss"] for row in rows}  # each the mean since the one before
    steps = list(logged)
    ends = sorted({steps[max(0, round(len(steps) * part / 20) - 1)] for part in range(1, 21)})
    means = {end: mean(loss for step, loss in logged.items() if end - 100 < step <= end) for end in ends}
    return {str(end): float(f"{loss:.4g}") for end, loss in means.items()}


def _configuration(facts: Facts) -> dict[str, object]:
    """The run's arguments, but for those that name places on a machine."""
    shown = {name: value for name, value in facts.configuration.items() if not str(value).startswith(("/", ".."))}
    return yaml.safe_load(yaml.safe_dump(shown))


# ------------------------------------------------------------------ the table


def result(name: str, text: str = "{}") -> Callable[[Kept], str]:
    """The measured number called `name`, put into `text`."""

    def shown(kept: Kept) -> str:
        return next((text.format(one["shown"]) for one in kept["results"] if one["name"] == name), "not measured")

    return shown


def loss_at(*steps: int, text: str = "loss {}") -> Callable[[Kept], str]:
    """The loss of the 100 updates before each of these, or the nearest that is kept, put into `text`."""

    def shown(kept: Kept) -> str:
        nearest = (min(kept["loss"], key=lambda known, step=step: abs(int(known) - step)) for step in steps)
        losses = {int(step): format(kept["loss"][step], ".3g") for step in nearest}
        return "; ".join(f"{text.format(loss)} after {step:,}" for step, loss in losses.items())

    return shown


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "ddpm_cifar10_mini",
        "DDPM, CIFAR-10 (Ho et al. 2020), in miniature",
        "train_unconditional.py --config ddpm_cifar10_mini",
        "FID 3.17, 3.75 bits/dim (`ddpm_cifar10`, 800,000 updates)",
        result("bits_per_dim", "{} bits/dim"),
    ),
    Experiment(
        "improved_ddpm_cifar10_mini",
        "Improved DDPM, CIFAR-10, hybrid loss (Nichol & Dhariwal 2021), in miniature",
        "train_unconditional.py --config improved_ddpm_cifar10_mini",
        "FID 3.19, 3.17 bits/dim (`improved_ddpm_cifar10`, 500,000 updates)",
        result("bits_per_dim", "{} bits/dim"),
    ),
    Experiment(
        "improved_ddpm_cifar10_vlb_mini",
        "the same by the bound alone, in miniature",
        "train_unconditional.py --config improved_ddpm_cifar10_vlb_mini",
        "FID 11.47, 2.94 bits/dim (`improved_ddpm_cifar10_vlb`, 500,000 updates)",
        result("bits_per_dim", "{} bits/dim"),
    ),
    Experiment(
        "improved_ddpm_imagenet64_mini",
        "Improved DDPM, ImageNet 64x64, in miniature",
        "train_unconditional.py --config improved_ddpm_imagenet64_mini",
        "FID 19.2, 3.57 bits/dim (`improved_ddpm_imagenet64`, 1,500,000 updates)",
        result("bits_per_dim", "{} bits/dim"),
    ),
    Experiment(
        "points_swiss_roll",
        "Lab: points of the plane",
        "train_points.py",
        "-",
        result("chamfer", "Chamfer distance {}"),
    ),
    *(
        Experiment(
            f"practicum_{kind}_mini",
            f"Practicum: CIFAR-10, {words}, in miniature",
            f"train_unconditional.py --config practicum_cifar10_mini --variance_type {variance_type}",
            "-",
            result("bits_per_dim", "{} bits/dim"),
        )
        for kind, words, variance_type in (
            ("fixed", "fixed variance", "fixed_large"),
            ("learned", "learned log-variance", "learned"),
            ("range", "variance learned between its bounds", "learned_range"),
        )
    ),
    Experiment(
        "practical_conv",
        "Practical: MNIST, two convolutions",
        "train_unconditional.py --config practical_mnist --model_type conv",
        "-",
        loss_at(2000),
    ),
    Experiment(
        "practical_mnist",
        "Practical: MNIST, strided U-Net",
        "train_unconditional.py --config practical_mnist",
        "loss below 0.1 after 2,500, below 0.05 after 10,000",
        loss_at(2500, 10_000),
    ),
    Experiment(
        "practical_cifar10",
        "Practical: CIFAR-10, strided U-Net",
        "train_unconditional.py --config practical_cifar10",
        "loss below 0.12 after 2,500, about 0.08 after 10,000",
        loss_at(2500, 10_000),
    ),
    Experiment(
        "practical_mnist_class_conditional",
        "Practical: MNIST, strided U-Net told the class",
        "train_class_conditional.py --config practical_mnist_class_conditional",
        "- (25,000 updates)",
        loss_at(2500, 25_000),
    ),
    Experiment(
        "practical_cifar10_class_conditional",
        "Practical: CIFAR-10, strided U-Net told the class",
        "train_class_conditional.py --config practical_cifar10_class_conditional",
        "- (25,000 updates)",
        loss_at(2500, 25_000),
    ),
    Experiment(
        "practical_unet",
        "Practical: MNIST, residual U-Net told the class",
        "train_class_conditional.py --config practical_mnist_class_conditional --model_type unet ...",
        "-",
        loss_at(2500, 25_000),
    ),
    Experiment(
        "slices_64_mini",
        "Lecture: gray slices of 64x64, in miniature",
        "train_unconditional.py --config slices_64_mini --train_data_dir slices",
        "loss 0.0213 in epoch 14, 0.0121 in epoch 60 (`slices_64`, CT images)",
        loss_at(100_000),
    ),
    Experiment(
        "cifar10_200_epochs_mini",
        "Exercise: CIFAR-10 for 200 epochs, in miniature",
        "train_unconditional.py --config cifar10_200_epochs_mini",
        "-",
        loss_at(100_000),
    ),
)


def table() -> None:
    rows = []
    for experiment in EXPERIMENTS:
        kept = read_kept(experiment.name)
        budget, ours = "-", "not measured"
        if kept is not None:
            size = kept["configuration"]["train_batch_size"]
            budget = f"{kept['updates']:,} updates of {size} {kept['samples']}, {kept['training_minutes']:.0f} min"
            ours = experiment.ours(kept)
        rows.append([experiment.title, f"`{experiment.command}`", budget, ours, experiment.theirs])
    write_result(
        "experiments",
        "By `benchmarks/experiments.py`, from the files in docs/results. Minutes are those of training, on one core "
        "of a shared CPU. bits/dim are of held-out images, by the variational bound; those of digits and of CIFAR-10 "
        "are numbers of different data and do not compare. Beside miniatures stands what the source reports of the "
        "full recipe.",
        ["experiment", "command", "our budget", "our number", "the source's number"],
        rows,
    )


# Runs that a guide puts side by side, and what they have in common.
GROUPS = {
    "practicum": (
        ("practicum_fixed_mini", "practicum_learned_mini", "practicum_range_mini"),
        "CIFAR-10 at 16x16 by `practicum_cifar10_mini`",
    ),
    "paper_minis": (
        ("ddpm_cifar10_mini", "improved_ddpm_cifar10_mini", "improved_ddpm_cifar10_vlb_mini"),
        "8x8 digits by the recipes above",
    ),
}


def group_table(name: str, experiments: tuple[str, ...], words: str) -> None:
    rows = []
    for experiment in experiments:
        kept = read_kept(experiment)
        if kept is None:
            return
        told = kept["configuration"]
        rows.append(
            [
                f"`{told['variance_type']}`",
                f"`{told['loss'] or ('hybrid' if told['variance_type'].startswith('learned') else 'simple')}`",
                f"{kept['updates']:,}",
                f"{list(kept['loss'].values())[-1]:.3g}",
                result("bits_per_dim")(kept),
            ]
        )
    write_result(
        name,
        f"{words}, one run each, by `benchmarks/experiments.py`. The loss is what each was trained on; "
        "bits/dim of held-out images are the variational bound's, estimated.",
        ["variance", "loss", "updates", "last loss", "bits/dim"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep")
    pictures = commands.add_parser("pictures")
    for command in (keeping, pictures):
        command.add_argument("name")
        command.add_argument("folder", type=Path)
    commands.add_parser("tables")
    arguments = parser.parse_args()
    if arguments.command == "keep":
        keep(arguments.name, arguments.folder)
    elif arguments.command == "pictures":
        keep_pictures(arguments.name, arguments.folder)
    else:
        table()
        for name, (rows, words) in GROUPS.items():
            group_table(name, rows, words)


if __name__ == "__main__":
    main()
