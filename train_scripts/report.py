"""Makes one page of HTML that shows what a model is, how it was trained, what it draws and how well.

    python train_scripts/report.py --model ddpm-digits
    python train_scripts/report.py --model someone/ddpm-cifar10 --dataset_name cifar10 --output cifar10.html

The page holds all that it shows, and opens offline.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from ddpm_ext.training.argument_parser import ScriptArgumentParser
from ddpm_ext.training.argument_rules import Count, CountOrZero, File, Group, NonNegative, Text, flag
from ddpm_ext.training.command_line import run_script


@dataclass(frozen=True)
class ReportArguments(Group):
    _argument_group_name = "Which model, and what to draw"

    model: Text | None = flag(
        None, "Folder of a run, or folder or Hub repository of a pipeline.", metavar="FOLDER|REPO"
    )
    output: File = flag("report.html", "The page.", metavar="FILE")
    num_images: Count = flag(50, "How many samples to show.")
    num_inference_steps: Count | None = flag(None, "Steps of DDIM to each of them (default: 50, or all if fewer).")
    guidance_scale: NonNegative = flag(1.0, "Classifier-free guidance; 1 is none.", metavar="W")
    dataset_name: Text | None = flag(
        None,
        "Real images to show: digits, a folder, parquet, or a data set of the Hub (default: what the model was trained"
        " on, where that is on this machine).",
        metavar="NAME",
    )
    seed: CountOrZero = flag(0, "Settles every image.")
    batch_size: Count = flag(64, "Images per forward pass.")


def main() -> None:
    parser = ScriptArgumentParser([ReportArguments], __doc__.split("\n")[0])
    arguments = ReportArguments(**vars(parser.read(sys.argv[1:])))
    if arguments.model is None:
        raise ValueError("`model` must be given: the folder of a run, or the folder or Hub repository of a pipeline.")
    output = Path(arguments.output)
    if output.suffix not in (".html", ".htm"):
        raise ValueError(f"`output` is {output}: a file that ends in .html is accepted.")

    from accelerate import Accelerator
    from diffusers.utils.logging import disable_progress_bar

    from ddpm_ext.report.page import Choices, make_report
    from ddpm_ext.report.reported_model import open_model
    from ddpm_ext.training.processes import on_cpu, prepare_cpu

    disable_progress_bar()  # of loading two small files
    model = open_model(arguments.model)
    model.pipeline.to(Accelerator(cpu=on_cpu()).device)
    prepare_cpu()
    choices = Choices(
        num_images=arguments.num_images,
        num_inference_steps=arguments.num_inference_steps,
        guidance_scale=arguments.guidance_scale,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        dataset_name=arguments.dataset_name,
    )
    page = make_report(model, choices)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    print(f"the report on {model.title} is in {output} ({len(page.encode()) / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_script(main)
