"""Measures a trained pipeline, or a file of its samples: how good it is, by numbers that say how they were measured.

    python train_scripts/evaluate.py --model ddpm-digits --dataset_name digits --features pixels --num_images 1000 \
        --metrics fid kid precision_recall nll memorisation
    accelerate launch train_scripts/evaluate.py --model samples.npz --dataset_name cifar10 --metrics fid

Writes metrics.json, metrics.md and model-index.yaml for the model card. The processes share sampling and features, and
give the numbers of one.
"""

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm_ext.training.argument_parser import ScriptArgumentParser
from ddpm_ext.training.command_line import run_script
from ddpm_ext.training.evaluation_arguments import EvaluationArguments, ReferenceDataArguments
from ddpm_ext.training.sampling_arguments import SamplingArguments


if TYPE_CHECKING:
    from PIL.Image import Image

    from ddpm_ext.data.images import ImageData
    from ddpm_ext.evaluation.evaluator import EvaluationSettings, Evaluator
    from ddpm_ext.evaluation.records import Measurement
    from ddpm_ext.evaluation.subject import Subject


METRICS = ("fid", "kid", "precision_recall", "class_accuracy", "nll", "memorisation")


def main() -> None:
    groups = (EvaluationArguments, SamplingArguments, ReferenceDataArguments)
    parser = ScriptArgumentParser(groups, __doc__.split("\n")[0])
    arguments, sampling, data = parser.parse_dict(vars(parser.read(sys.argv[1:])))
    metrics = _metrics(arguments)

    from accelerate import Accelerator
    from diffusers.utils.logging import disable_progress_bar
    from tqdm.auto import tqdm

    from ddpm_ext.evaluation.evaluator import Evaluator
    from ddpm_ext.evaluation.records import as_text, write_measurements
    from ddpm_ext.evaluation.subject import open_subject
    from ddpm_ext.training.processes import check_processes, on_cpu, prepare_cpu

    disable_progress_bar()  # of loading two small files
    subject = open_subject(arguments.model, arguments.weights)
    _check_subject(subject, metrics)
    accelerator = Accelerator(cpu=on_cpu())
    check_processes()
    prepare_cpu()
    evaluator = Evaluator(subject, _settings(arguments, sampling, subject), accelerator, say=tqdm.write)
    measurements, pictures = _measure(evaluator, metrics, arguments, _with_what_was_trained_on(data, subject))
    if not accelerator.is_main_process:
        return
    folder = _output(arguments)
    write_measurements(folder, measurements, arguments.model)
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    print(as_text(measurements))
    files = ["metrics.json", "metrics.md", "model-index.yaml", *(f"{name}.png" for name in pictures)]
    print(f"{', '.join(files)} are in {folder}")
    if _renew_card(folder):
        print(f"{folder.parent / 'README.md'}, the model card, has the numbers now")


def _renew_card(folder: Path) -> bool:
    """Writes the card of the run that `folder` belongs to anew, unless there is none or somebody has edited it."""
    run = folder.parent
    if folder.name != "evaluation" or not all((run / file).exists() for file in ("README.md", "model_index.json")):
        return False

    from ddpm_ext.publishing.facts import read_facts
    from ddpm_ext.publishing.model_card import write_model_card

    return write_model_card(run, licence=read_facts(run).configuration.get("hub_license"))


def _metrics(arguments: EvaluationArguments) -> list[str]:
    from ddpm_ext.diffusion.checks import one_of

    if arguments.model is None:
        raise ValueError("`model` must be given: a folder or Hub repository of a pipeline, or an .npz of samples.")
    return [one_of("metrics", metric, METRICS) for metric in arguments.metrics or ["fid"]]


def _check_subject(subject: "Subject", metrics: list[str]) -> None:
    if subject.pipeline is None and "nll" in metrics:
        raise ValueError("`metrics` holds nll, which needs a model, and `model` is a file of samples.")
    if "nll" in metrics and not subject.has_bound:
        raise ValueError("`metrics` holds nll, but the model was trained by flow matching, which has no bound.")
    if "class_accuracy" in metrics and not subject.is_class_conditional and subject.labels is None:
        what = "is unconditional" if subject.images is None else "is a file without labels (`arr_1`)"
        raise ValueError(f"`metrics` holds class_accuracy, but the model {what}: there are no classes to look for.")


def _with_what_was_trained_on(data: ReferenceDataArguments, subject: "Subject") -> ReferenceDataArguments:
    """The arguments, or where they name no data, those of the run that trained the model."""
    if data.dataset_name is not None or data.train_data_dir is not None:
        return data
    known = {field.name: (subject.trained_on or {}).get(field.name) for field in fields(data)}
    if known["dataset_name"] is None and known["train_data_dir"] is None:
        raise ValueError("`dataset_name` must be given: the model's folder does not say what it was trained on.")
    return replace(data, **{name: value for name, value in known.items() if value is not None})


def _settings(arguments: EvaluationArguments, sampling: SamplingArguments, subject: "Subject") -> "EvaluationSettings":
    from ddpm_ext.diffusion.checks import one_of
    from ddpm_ext.evaluation.evaluator import EvaluationSettings
    from ddpm_ext.evaluation.reference import default_cache
    from ddpm_ext.schedulers.samplers import SAMPLERS, check_sampler, default_sampler

    if subject.pipeline is None:
        sampler = one_of("sampler", sampling.sampler or "ddpm", SAMPLERS)
    else:
        sampler = sampling.sampler or default_sampler(subject.pipeline.scheduler)
        check_sampler(sampler, subject.pipeline.scheduler)
    cache = default_cache() if arguments.reference_cache is None else Path(arguments.reference_cache)
    return EvaluationSettings(
        num_images=arguments.num_images,
        features=arguments.features,
        classifier=arguments.classifier,
        reference_images=arguments.reference_images,
        reference_cache=cache,
        allow_few_images=arguments.allow_few_images,
        likelihood=arguments.likelihood,
        likelihood_images=arguments.likelihood_images,
        sampler=sampler,
        sampling=sampling.by(sampler),
    )


def _measure(
    evaluator: "Evaluator", metrics: list[str], arguments: EvaluationArguments, data: ReferenceDataArguments
) -> "tuple[list[Measurement], dict[str, Image]]":
    """All measurements and pictures. The data are opened, and checked, before anything takes time."""
    from ddpm_ext.evaluation.suite import IMAGE_METRICS

    by_images = [metric for metric in IMAGE_METRICS if metric in metrics]
    needed = {arguments.reference} if by_images else set()
    needed |= {"test"} if "nll" in metrics else set()
    needed |= {"train", "test"} if "memorisation" in metrics else set()
    splits = {name: _open(data, name) for name in sorted(needed)}
    for split in splits.values():
        evaluator.subject.check_same_images(split)
        evaluator.subject.check_same_classes(
            split, needed=bool({"nll", "memorisation", "class_accuracy"} & set(metrics))
        )
    name = data.dataset_name or data.train_data_dir
    measurements, pictures = [], {}
    if by_images:
        measurements += evaluator.measure_images(
            by_images, splits[arguments.reference], name, _split(data, arguments.reference)
        )
    if "nll" in metrics:
        measurements.append(evaluator.measure_likelihood(splits["test"], name, data.test_split))
    if "memorisation" in metrics:
        found, pictures = evaluator.measure_memorisation(splits["train"], splits["test"], name, data.train_split)
        measurements += found
    return measurements, pictures


def _split(data: ReferenceDataArguments, which: str) -> str:
    return data.train_split if which == "train" else data.test_split


def _open(data: ReferenceDataArguments, which: str) -> "ImageData":
    from ddpm_ext.data.images import load_images
    from ddpm_ext.training.processes import is_main_process

    return load_images(
        data.dataset_name,
        data.dataset_config_name,
        data.train_data_dir,
        _split(data, which),
        data.resolution,
        center_crop=True,
        image_channels=data.image_channels,
        image_column=data.image_column,
        label_column=data.label_column,
        cache_dir=data.cache_dir,
        skip_bad_images=data.skip_bad_images,
        num_workers=data.dataloader_num_workers,
        show_progress=is_main_process(),
    )


def _output(arguments: EvaluationArguments) -> Path:
    """Where the results go: beside what they are about, unless told otherwise."""
    model = Path(arguments.model)
    if arguments.output is not None:
        return Path(arguments.output)
    if model.suffix == ".npz":
        return model.with_name(f"{model.stem}-evaluation")
    return model / "evaluation" if model.is_dir() else Path("evaluation")


if __name__ == "__main__":
    run_script(main)
