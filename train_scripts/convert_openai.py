"""Converts a checkpoint of improved-diffusion, guided-diffusion or deepinv's DiffUNet to a pipeline.

    python train_scripts/convert_openai.py --checkpoint ema_0.9999_500000.pt --output_dir iddpm-64 --library improved \
        --flags "--image_size 64 --num_res_blocks 3 --learn_sigma True --diffusion_steps 4000 --noise_schedule cosine"

The flags are those of the command that trained it; defaults may be left out.
"""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from ddpm_ext.training.argument_parser import ScriptArgumentParser
from ddpm_ext.training.argument_rules import Folder, Group, ShareBelowOne, Text, flag
from ddpm_ext.training.command_line import run_script


if TYPE_CHECKING:
    from ddpm_ext.sharing.convert_openai import Converted


@dataclass(frozen=True)
class ConversionArguments(Group):
    _argument_group_name = "What to convert, how it was trained, and where to"

    checkpoint: Text | None = flag(None, "The .safetensors or .pt file; of a .pt, only tensors are read.", "FILE")
    flags: Text | None = flag(None, 'OpenAI\'s flags, in quotes: "--image_size 64 --learn_sigma True".', "FLAGS")
    library: Literal["improved", "guided", "deepinv"] | None = flag(
        None, "Whose defaults hold where the flags are silent (default: told from the flags)."
    )
    ema: ShareBelowOne | None = flag(
        None, "Converts the average of this rate, ema_RATE_STEP.pt, which lies beside a modelSTEP.pt.", "RATE"
    )
    output_dir: Folder | None = flag(None, "Where the pipeline goes: a folder, new or empty.", "FOLDER")


def main() -> None:
    parser = ScriptArgumentParser([ConversionArguments], __doc__.split("\n")[0])
    arguments = ConversionArguments(**vars(parser.read(sys.argv[1:])))
    for name in ("checkpoint", "output_dir"):
        if getattr(arguments, name) is None:
            raise ValueError(f"`{name}` must be given.")
    output = Path(arguments.output_dir)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(f"`output_dir` is {output}, which exists: a folder, new or empty, is accepted.")
    checkpoint = Path(arguments.checkpoint)
    if arguments.ema is not None:
        checkpoint = _average_of(checkpoint, arguments.ema)

    from ddpm_ext.sharing.convert_openai import convert_openai

    converted = convert_openai(checkpoint, arguments.flags or "", arguments.library)
    _save(converted, output)
    _report(converted, checkpoint, output)


def _averages_beside(checkpoint: Path) -> dict[float, Path]:
    """By its rate, each average that OpenAI's training wrote together with a model<step>.pt."""
    step = re.fullmatch(r"model(\d+)", checkpoint.stem)
    if not step:
        return {}
    found = [(re.fullmatch(rf"ema_([\d.]+)_{step[1]}", path.stem), path) for path in checkpoint.parent.glob("ema_*")]
    return dict(sorted((float(match[1]), path) for match, path in found if match))


def _average_of(checkpoint: Path, rate: float) -> Path:
    found = _averages_beside(checkpoint)
    if not found:
        raise ValueError(f"`ema` is {rate:g}, but no average of its step (ema_RATE_STEP.pt) lies beside {checkpoint}.")
    if rate not in found:
        raise ValueError(
            f"`ema` is {rate:g}: {', '.join(f'{other:g}' for other in found)} is accepted, whose averages lie beside "
            f"{checkpoint}."
        )
    return found[rate]


def _save(converted: "Converted", output: Path) -> None:
    """Into a folder beside `output`, which takes its name when it is whole."""
    from ddpm_ext.training.checkpoints import WRITE_ERRORS

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as beside:
            whole = Path(beside) / output.name
            converted.pipeline.save_pretrained(str(whole))
            if output.exists():
                output.rmdir()
            os.replace(whole, output)
    except WRITE_ERRORS as error:
        raise ValueError(f"`output_dir` is {output}, which could not be written: {error}.") from error


def _report(converted: "Converted", checkpoint: Path, output: Path) -> None:
    flags, unet, scheduler = converted.flags, converted.pipeline.unet, converted.pipeline.scheduler
    size = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    classes = f" of {unet.num_classes} classes" if flags.class_cond else ""
    print(
        f"{output} holds {checkpoint} as a pipeline. Network: {type(unet).__name__}, {size:.1f} million parameters, "
        f"{flags.image_size}x{flags.image_size} images{classes}. Chain: {flags.diffusion_steps} steps, "
        f"{flags.noise_schedule} schedule, {scheduler.config.variance_type} variance; the network predicts "
        f"{scheduler.config.prediction_type}."
    )
    if flags.class_cond:
        print("It was never shown images without their class: guidance is refused until it is trained to know them.")
    if converted.unused_keys:
        print(f"Not used: {', '.join(converted.unused_keys)}")
    for rate, path in _averages_beside(checkpoint).items():
        print(
            f"Beside it lies {path.name}, an average of its weights, which samples better: `--ema {rate:g}` takes it."
        )
    steps = flags.timestep_respacing or str(min(250, flags.diffusion_steps))
    command = f"python train_scripts/sample.py --model {output} --num_images 4 --num_inference_steps {steps}"
    if steps.startswith("ddim"):
        command += " --sampler ddim"
    if flags.class_cond:
        command += f" --class_labels {' '.join(map(str, range(min(4, unet.num_classes))))}"
    print(f"Sample with\n\n    {command}\n")


if __name__ == "__main__":
    run_script(main)
