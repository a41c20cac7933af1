"""Writes a model in a form that opens elsewhere: with ddpm_ext, with diffusers and our code, with diffusers alone.

    python train_scripts/export.py --model ddpm-digits --output_dir digits-for-all
    python train_scripts/export.py --model ddpm-digits --format diffusers --output_dir digits-for-diffusers

It prints the lines of Python that open what it wrote.
"""

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ddpm_ext.training.argument_parser import ScriptArgumentParser
from ddpm_ext.training.argument_rules import Folder, Group, Text, flag
from ddpm_ext.training.command_line import run_script


@dataclass(frozen=True)
class ExportArguments(Group):
    _argument_group_name = "What to export, how, and where to"

    model: Text | None = flag(
        None, "A pipeline: output folder of a run, checkpoint, or Hub repository.", metavar="FOLDER|REPO"
    )
    output_dir: Folder | None = flag(None, "Where it goes: a folder, new or empty.", metavar="FOLDER")
    format: Literal["self_contained", "diffusers", "package"] = flag(
        "self_contained",
        "self_contained: with its code, for all who have diffusers; diffusers: stock classes and no code, as far as"
        " they can say the model; package: for those who have ddpm_ext.",
    )
    class_label: Text | None = flag(
        None, "With --format diffusers: the one class, id or name, to draw, or none for no class.", metavar="CLASS"
    )


def main() -> None:
    parser = ScriptArgumentParser([ExportArguments], __doc__.split("\n")[0])
    arguments = ExportArguments(**vars(parser.read(sys.argv[1:])))
    for name in ("model", "output_dir"):
        if getattr(arguments, name) is None:
            raise ValueError(f"`{name}` must be given.")

    from diffusers.utils.logging import disable_progress_bar

    from ddpm_ext.pipelines.loading import load_pipeline
    from ddpm_ext.sharing.export import export_pipeline
    from ddpm_ext.training.checkpoints import newest_pipeline

    disable_progress_bar()  # of loading two small files
    pipeline = load_pipeline(newest_pipeline(arguments.model))
    export = export_pipeline(pipeline, arguments.output_dir, arguments.format, arguments.class_label)
    print(f"{Path(arguments.output_dir)} holds the model ({arguments.format}). {_left_out(export.left_out)}\n")
    print(textwrap.indent(export.lines, "    "))


def _left_out(parts: tuple[str, ...]) -> str:
    return f"Left out: {'; '.join(parts)}." if parts else "Nothing was left out."


if __name__ == "__main__":
    run_script(main)
