"""Puts finished runs side by side: in what they differ, their curves, samples from the same noise, and their numbers.

    python train_scripts/compare_runs.py --runs practicum-fixed practicum-learned practicum-range

Numbers are those that the runs, and `evaluate.py`, have left: bits/dim of runs with `--eval_steps`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from ddpm_ext.training.argument_parser import ScriptArgumentParser
from ddpm_ext.training.argument_rules import Count, CountOrZero, Folder, Group, NonNegative, Texts, flag
from ddpm_ext.training.command_line import run_script


@dataclass(frozen=True)
class CompareRunsArguments(Group):
    _argument_group_name = "Which runs, and what to draw"

    runs: Texts | None = flag(None, "Two to five folders of runs.", metavar="FOLDER")
    output: Folder = flag("side-by-side", "Where the pictures and the table go.", metavar="FOLDER")
    num_images: Count = flag(10, "Samples of each run.")
    num_inference_steps: Count = flag(100, "Sampling steps.", metavar="STEPS")
    guidance_scale: NonNegative = flag(1.0, "Classifier-free guidance; 1 is none.", metavar="W")
    seed: CountOrZero = flag(0, "Settles the noise that all samples start from.")


def main() -> None:
    parser = ScriptArgumentParser([CompareRunsArguments], __doc__.split("\n")[0])
    arguments = CompareRunsArguments(**vars(parser.read(sys.argv[1:])))
    runs = arguments.runs or []
    if not 2 <= len(runs) <= 5 or len(set(runs)) < len(runs):
        raise ValueError(f"`runs` are {len(runs)}: two to five folders of runs, all different, are accepted.")

    from accelerate import Accelerator
    from diffusers.utils.logging import disable_progress_bar

    from ddpm_ext.evaluation.generate import Sampling
    from ddpm_ext.report.reported_model import open_model
    from ddpm_ext.report.runs_side_by_side import curves, samples, short_names, table
    from ddpm_ext.training.processes import on_cpu, prepare_cpu
    from ddpm_ext.visualization import as_image

    disable_progress_bar()  # of loading two small files
    models = [open_model(run) for run in runs]
    device = Accelerator(cpu=on_cpu()).device
    prepare_cpu()
    for model in models:
        model.pipeline.to(device)
    names, facts, folder = short_names(models), [model.facts for model in models], Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    sampling = Sampling(
        arguments.seed,
        num_inference_steps=arguments.num_inference_steps,
        guidance_scale=arguments.guidance_scale,
    )
    samples(models, names, arguments.num_images, sampling).save(folder / "samples.png")
    written = ["samples.png"]
    for key, ylabel, file in (
        ("loss", "training loss", "loss.png"),
        ("held_out_bits_per_dim", "bits/dim of held-out images", "bits_per_dim.png"),
    ):
        figure = curves(facts, names, key, ylabel)
        if figure is not None:
            as_image(figure).save(folder / file)
            written.append(file)
    text = table(facts, names)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{folder} holds {', '.join(written)} and this table.")


if __name__ == "__main__":
    run_script(main)
