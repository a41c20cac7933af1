"""Samples images from a trained pipeline: a grid, a folder of PNGs, or the .npz that the field's evaluators read.

    python train_scripts/sample.py --model ddpm-digits --num_images 100 --output digits.png
    accelerate launch train_scripts/sample.py --model ddpm-digits-class-conditional --num_images 50000 --output out.npz
    python train_scripts/sample.py --model ddpm-digits --num_images 8 --compare ddpm:250 ddim:50 ddim:50:0.5

Image i depends on the seed and on i alone, whatever the batch size and the number of processes.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm_ext.training.argument_parser import ScriptArgumentParser
from ddpm_ext.training.argument_rules import Count, File, Group, Place, Switch, Text, Texts, flag
from ddpm_ext.training.command_line import run_script
from ddpm_ext.training.sampling_arguments import SamplingArguments


if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from ddpm_ext.evaluation.generate import Sampling


@dataclass(frozen=True)
class SampleArguments(Group):
    _argument_group_name = "What to sample, and where to"

    model: Text | None = flag(None, "Folder or Hub repository of the pipeline.", metavar="FOLDER|REPO")
    output: Place = flag("samples.png", "A .png for one grid, an .npz, or a folder for one PNG per image.")
    num_images: Count = flag(16, "How many images.")
    trajectory: File | None = flag(
        None, "A .gif or .png of how the first images come about: x_t and the x_0 predicted from it.", metavar="FILE"
    )
    compare: Texts | None = flag(
        None,
        "Several samplers from the same noise, a row for each: ddpm:250, ddim:50 or, with a share of noise,"
        " ddim:50:0.5.",
        metavar="SAMPLER:STEPS[:ETA]",
    )
    class_labels: Texts | None = flag(
        None, "Classes, ids or names, taken in turn (default: all classes in turn).", metavar="CLASS"
    )
    compile: Switch = flag(False, "torch.compile the network, which takes a minute: for thousands of images.")


def main() -> None:
    parser = ScriptArgumentParser([SampleArguments, SamplingArguments], __doc__.split("\n")[0])
    arguments, sampling = parser.parse_dict(vars(parser.read(sys.argv[1:])))
    if arguments.model is None:
        raise ValueError("`model` must be given: the folder or Hub repository of a pipeline.")
    output = Path(arguments.output)
    if output.suffix not in (".png", ".npz", "") or (output.is_dir() if output.suffix else output.is_file()):
        raise ValueError(f"`output` is {output}: a .png, an .npz or a folder is accepted.")
    if arguments.compare is not None:
        _check_comparison(arguments, sampling)
    if arguments.trajectory is not None and Path(arguments.trajectory).suffix not in (".gif", ".png"):
        raise ValueError(f"`trajectory` is {arguments.trajectory}: a .gif or a .png is accepted.")

    from accelerate import Accelerator
    from diffusers.utils.logging import disable_progress_bar

    from ddpm_ext.evaluation.compiled_network import compile_network
    from ddpm_ext.evaluation.generate import generate
    from ddpm_ext.pipelines.loading import load_pipeline
    from ddpm_ext.schedulers.samplers import default_sampler, make_sampler
    from ddpm_ext.training.checkpoints import newest_pipeline
    from ddpm_ext.training.processes import check_processes, on_cpu, prepare_cpu

    disable_progress_bar()  # of loading two small files
    pipeline = load_pipeline(newest_pipeline(arguments.model))
    sampler = sampling.sampler or default_sampler(pipeline.scheduler)
    pipeline.scheduler = make_sampler(sampler, pipeline.scheduler)
    labels = _labels(pipeline, arguments)
    accelerator = Accelerator(cpu=on_cpu())
    check_processes()
    prepare_cpu()
    pipeline.to(accelerator.device)
    chosen = sampling.by(sampler).with_batch_size(pipeline, arguments.num_images, accelerator)
    if arguments.compile:
        compile_network(pipeline.unet)
    if arguments.compare is not None:
        _write_comparison(pipeline, labels, accelerator, arguments, chosen)
        return
    images = generate(pipeline, arguments.num_images, chosen, labels, accelerator, progress="sampling")
    if accelerator.is_main_process:
        _write(images, labels, output)
        print(f"{len(images)} images are in {output}")
        if arguments.trajectory is not None:
            _write_trajectory(pipeline, chosen, labels, arguments)


def _check_comparison(arguments: SampleArguments, sampling: SamplingArguments) -> None:
    if not arguments.output.endswith(".png"):
        raise ValueError(f"`output` is {arguments.output}: with `compare`, a .png is accepted.")
    for name, value in (*vars(sampling).items(), ("trajectory", arguments.trajectory)):
        if name in ("sampler", "num_inference_steps", "eta", "trajectory") and value is not None:
            raise ValueError(f"`{name}` is {value} beside `compare`, which leaves no use for it.")


def _write_comparison(
    pipeline, labels: list[int] | None, accelerator: "Accelerator", arguments: SampleArguments, sampling: "Sampling"
) -> None:
    from ddpm_ext.evaluation.samplers_side_by_side import comparison_grid, draw_each, parse

    choices = [parse(entry) for entry in arguments.compare]
    drawn = list(draw_each(pipeline, choices, arguments.num_images, sampling, labels, accelerator))
    if accelerator.is_main_process:
        output = Path(arguments.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        names = [] if labels is None else [pipeline.class_names[label] for label in labels]
        comparison_grid(choices, drawn, names).save(output)
        print(f"{len(choices)} rows of {arguments.num_images} images are in {output}")


def _labels(pipeline, arguments: SampleArguments) -> list[int] | None:
    """The class of each image: those asked for in turn, or all of the model's."""
    if not hasattr(pipeline, "label_ids"):
        if arguments.class_labels is not None:
            raise ValueError("`class_labels` was given, but the model is unconditional and knows no classes.")
        return None
    chosen = pipeline.label_ids(arguments.class_labels or list(range(pipeline.unet.num_classes)))
    return [chosen[i % len(chosen)] for i in range(arguments.num_images)]


def _write(images: "Tensor", labels: list[int] | None, output: Path) -> None:
    import numpy as np
    from PIL import Image

    from ddpm_ext.visualization import image_grid

    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".png":
        classes = 0 if labels is None else len(set(labels))
        image_grid(images, columns=classes if 1 < classes <= 20 else None).save(output)  # a column for each class
    elif output.suffix == ".npz":
        arrays = {"arr_0": images.permute(0, 2, 3, 1).numpy()}
        if labels is not None:
            arrays["arr_1"] = np.array(labels)
        np.savez(output, **arrays)
    else:
        output.mkdir(exist_ok=True)
        for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(output / f"{i:06d}.png")


def _write_trajectory(pipeline, sampling, labels: list[int] | None, arguments: SampleArguments) -> None:
    from ddpm_ext.evaluation.trajectory import images_side_by_side, record_trajectory
    from ddpm_ext.visualization import as_gif, opaque_image, trajectory_frames, trajectory_grid

    file = Path(arguments.trajectory)
    file.parent.mkdir(parents=True, exist_ok=True)
    count = min(images_side_by_side(pipeline, 10 if file.suffix == ".gif" else 4), arguments.num_images)
    trajectory = record_trajectory(pipeline, count, sampling, labels)
    if file.suffix == ".gif":
        names = [] if labels is None else [pipeline.class_names[label] for label in labels[:count]]
        file.write_bytes(as_gif(trajectory_frames(trajectory, names)))
    else:
        opaque_image(trajectory_grid(trajectory)).save(file)
    print(f"the way to the first {count} is in {file}")


if __name__ == "__main__":
    run_script(main)
