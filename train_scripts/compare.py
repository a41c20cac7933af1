"""Trains the same network for every noise schedule and every predictor under one budget, and compares what they draw.

python train_scripts/compare.py                                # points: linear, quad, cosine x noise, x_0, mean
python train_scripts/compare.py --data digits
python train_scripts/compare.py --dataset_name checkerboard --schedules linear cosine --predictors noise v

What is finished is kept: the same command goes on where it was interrupted.
"""

import contextlib
import io
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddpm_ext.data.point_sets import PointSet
from ddpm_ext.publishing.markdown import markdown_table
from ddpm_ext.training.argument_parser import ScriptArgumentParser
from ddpm_ext.training.argument_rules import Count, CountOrZero, Folder, Group, Text, Texts, flag
from ddpm_ext.training.command_line import run_script


if TYPE_CHECKING:
    from ddpm_ext.evaluation.comparison import Compared, Domain


SCHEDULES = ("linear", "quad", "cosine", "sigmoid")
PREDICTORS = {"noise": "epsilon", "x_0": "sample", "mean": "mean", "v": "v_prediction"}


@dataclass(frozen=True)
class CompareArguments(Group):
    _argument_group_name = "What to compare, on what, and how long to train"

    data: Literal["points", "digits"] = flag("points", "Points of the plane, or real 8x8 digits.")
    dataset_name: PointSet = flag("swiss_roll", "Which points.")
    schedules: Texts | None = flag(
        None, f"Noise schedules, of {', '.join(SCHEDULES)} (default: the first three).", metavar="NAME"
    )
    predictors: Texts | None = flag(
        None, f"What the network predicts, of {', '.join(PREDICTORS)} (default: the first three).", metavar="NAME"
    )
    config: Text | None = flag(
        None, "Recipe that all have in common (default: points or digits, as `data` is).", metavar="RECIPE"
    )
    max_train_steps: Count | None = flag(None, "Updates of each network (default: the recipe's).", metavar="STEPS")
    num_samples: Count | None = flag(None, "Samples of each model (default: 2000 points, 1000 digits).")
    num_inference_steps: Count = flag(250, "Sampling steps.", metavar="STEPS")
    seed: CountOrZero = flag(0, "Settles everything random.")
    output_dir: Folder | None = flag(None, "Where it goes (default: comparison-points or -digits).", metavar="FOLDER")


def main() -> None:
    parser = ScriptArgumentParser([CompareArguments], __doc__.split("\n")[0])
    arguments = CompareArguments(**vars(parser.read(sys.argv[1:])))
    schedules, predictors = _asked_for(arguments)
    folder = Path(arguments.output_dir or f"comparison-{arguments.data}")
    _claim(folder, arguments)

    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading two small files
    domain = _open_domain(arguments)
    models = [
        _compared(folder / f"{schedule}-{predictor}", schedule, predictor, domain, arguments)
        for schedule in schedules
        for predictor in predictors
    ]
    domain.draw_trajectories(models).save(folder / "trajectories.png")
    domain.draw_samples(models, len(predictors)).save(folder / "samples.png")
    (folder / "comparison.json").write_text(_as_json(domain, models, arguments))
    table = _as_table(domain, models)
    (folder / "comparison.md").write_text(table)
    print(f"\n{table}\n{folder} holds trajectories.png, samples.png, this table and comparison.json.")


def _asked_for(arguments: CompareArguments) -> tuple[list[str], list[str]]:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("compare.py trains one model after the other in one process: start it with python.")
    chosen = []
    for name, known in (("schedules", SCHEDULES), ("predictors", tuple(PREDICTORS))):
        values = list(getattr(arguments, name) or known[:3])
        wrong = [value for value in values if value not in known]
        if wrong or len(set(values)) < len(values):
            shown = wrong[0] if wrong else "one of them twice"
            raise ValueError(f"`{name}` holds {shown}: {', '.join(known)} are accepted, each once.")
        chosen.append(values)
    return chosen[0], chosen[1]


def _claim(folder: Path, arguments: CompareArguments) -> None:
    """Makes the folder of this comparison; ValueError where it holds one of other settings."""
    settings = {name: value for name, value in asdict(arguments).items() if name not in _NOT_COMPARED}
    path = folder / "settings.json"
    there = json.loads(path.read_text()) if path.exists() else settings
    for name, value in settings.items():
        if there.get(name) != value:
            raise ValueError(
                f"`output_dir` is {folder}, which holds a comparison with {name} = {there.get(name)}, and this one "
                f"has {value}: another folder is accepted."
            )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n")


_NOT_COMPARED = ("schedules", "predictors", "output_dir")  # more of them may be asked for later


def _open_domain(arguments: CompareArguments) -> "Domain":
    from ddpm_ext.evaluation.comparison import Digits, Points

    steps, seed = arguments.num_inference_steps, arguments.seed
    if arguments.data == "digits":
        return Digits(arguments.num_samples or 1000, steps, seed)
    return Points(arguments.dataset_name, arguments.num_samples or 2000, steps, seed)


def _compared(
    folder: Path, schedule: str, predictor: str, domain: "Domain", arguments: CompareArguments
) -> "Compared":
    """The model in `folder`, which is trained, measured and looked at unless that is done."""
    import torch
    from diffusers import DiffusionPipeline

    from ddpm_ext.evaluation.comparison import Compared, Look

    done = folder / "compared.pt"
    if not done.exists():
        print(f"{schedule}, {predictor}: training", flush=True)
        _train(folder, schedule, predictor, arguments)
        pipeline = DiffusionPipeline.from_pretrained(folder)
        pipeline.unet.eval()
        values, look = domain.examine(pipeline)
        partial = done.with_name(".partial-compared.pt")
        torch.save({"values": values, **vars(look)}, partial)
        partial.replace(done)
    found = torch.load(done, weights_only=True)
    values = found.pop("values")
    model = Compared(schedule, predictor, values, Look(**found))
    print(f"{model.name}: {domain.metric} {model}", flush=True)
    return model


def _train(folder: Path, schedule: str, predictor: str, arguments: CompareArguments) -> None:
    from ddpm_ext.train_scripts import train_points, train_unconditional

    argv = ["--config", arguments.config or arguments.data, "--output_dir", str(folder), "--resume"]
    argv += ["--beta_schedule", schedule, "--prediction_type", PREDICTORS[predictor]]
    argv += ["--seed", str(arguments.seed), "--logger", "none"]
    if arguments.max_train_steps is not None:
        argv += ["--max_train_steps", str(arguments.max_train_steps)]
    with contextlib.redirect_stdout(io.StringIO()):  # where each of them is, and how to load it
        if arguments.data == "points":
            train_points.main([*argv, "--dataset_name", arguments.dataset_name])
        else:
            train_unconditional.main(argv)


def _as_json(domain: "Domain", models: "list[Compared]", arguments: CompareArguments) -> str:
    content = {
        "metric": domain.metric,
        "protocol": domain.protocol,
        "real_samples": domain.floor,
        "settings": {name: value for name, value in asdict(arguments).items() if name != "output_dir"},
        "models": [
            {"schedule": model.schedule, "predictor": model.predictor, "value": model.value, "values": model.values}
            for model in models
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _as_table(domain: "Domain", models: "list[Compared]") -> str:
    """Markdown: a row for each schedule, a column for each predictor."""
    predictors = list(dict.fromkeys(model.predictor for model in models))
    schedules = dict.fromkeys(model.schedule for model in models)
    rows = [[name, *(str(model) for model in models if model.schedule == name)] for name in schedules]
    table = markdown_table(["schedule", *predictors], rows)
    return f"{table}\n*{domain.metric} ({domain.protocol}); that of real samples is {domain.floor:.2g}.*\n"


if __name__ == "__main__":
    run_script(main)
