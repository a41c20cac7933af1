"""Keeps what runs on points have shown: numbers in docs/results, pictures in docs/images, tables for docs/points.md.

    for name in swiss_roll two_moons circles checkerboard pinwheel gaussian_mixture; do
        python train_scripts/train_points.py --dataset_name $name --output_dir points/$name
    done
    python train_scripts/compare.py --output_dir points/comparison-points
    python train_scripts/compare.py --data digits --output_dir points/comparison-digits
    python benchmarks/points.py --runs points
    python benchmarks/tables.py

Runs that are not there leave what was kept of them before.
"""

import argparse
import json
import shutil
from pathlib import Path

from experiments import keep
from kept import IMAGES, keep_picture, read_kept, write_kept
from tables import write_result


SHAPES = ("swiss_roll", "two_moons", "circles", "checkerboard", "pinwheel", "gaussian_mixture")
_COLOURS = 32  # a picture of blue points needs no more, and is a third as large


def keep_run(name: str, run: Path) -> None:
    """The numbers and pictures of a finished run of train_points.py."""
    if not (run / "evaluation" / "metrics.json").exists():
        return
    keep(f"points_{name}", run)
    keep_picture(run / "trajectory.png", f"points_{name}", _COLOURS)
    if name == SHAPES[0]:
        keep_picture(run / "forward.png", "points_forward", _COLOURS)
        keep_picture(run / "loss.png", "points_loss", _COLOURS)
        for motion in ("forward", "trajectory"):
            shutil.copyfile(run / f"{motion}.gif", IMAGES / f"points_{motion}.gif")


def keep_comparison(data: str, folder: Path) -> None:
    """The numbers and pictures of a finished compare.py."""
    if not (folder / "comparison.json").exists():
        return
    write_kept(f"comparison_{data}", json.loads((folder / "comparison.json").read_text()))
    for picture in ("trajectories", "samples"):
        keep_picture(folder / f"{picture}.png", f"comparison_{data}_{picture}", _COLOURS)


def table_of_runs() -> None:
    rows = []
    for name in SHAPES:
        kept = read_kept(f"points_{name}")
        if kept is not None:
            found = {entry["name"]: entry["value"] for entry in kept["results"]}
            floor = f"{found['chamfer_floor']:.2g}"
            rows.append(
                [f"`{name}`", f"{kept['updates']:,}", f"{found['chamfer']:.2g}", floor, f"{found['energy']:.2g}"]
            )
    points, steps = (kept["configuration"][key] for key in ("eval_batch_size", "num_inference_steps"))
    write_result(
        "points",
        f"`train_points.py --dataset_name ...`, seed 0: {points:,} samples in {steps} steps against as many fresh "
        "points. The Chamfer distance sees points that stray, the energy distance (its unbiased estimate, 0 for equal "
        "distributions) also how the mass is spread.",
        ["data set", "updates", "Chamfer distance", "the same of training points", "energy distance"],
        rows,
    )


def table_of_comparison(data: str) -> None:
    kept = read_kept(f"comparison_{data}")
    if kept is None:
        return
    predictors = list(dict.fromkeys(model["predictor"] for model in kept["models"]))
    rows = [
        [schedule, *(f"{m['value']:.2g}" for m in kept["models"] if m["schedule"] == schedule)]
        for schedule in dict.fromkeys(model["schedule"] for model in kept["models"])
    ]
    updates = kept["settings"]["max_train_steps"]
    budget = f"{updates:,} updates each" if updates else "the recipe's updates each"
    write_result(
        f"comparison_{data}",
        f"{kept['metric']} ({kept['protocol']}), {budget}, seed {kept['settings']['seed']}, by `compare.py --data "
        f"{data}`; that of real samples is {kept['real_samples']:.2g}.",
        ["schedule", *(f"predicts {name}" for name in predictors)],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("points"))
    runs = parser.parse_args().runs
    for name in SHAPES:
        keep_run(name, runs / name)
    table_of_runs()
    for data in ("points", "digits"):
        keep_comparison(data, runs / f"comparison-{data}")
        table_of_comparison(data)


if __name__ == "__main__":
    main()
