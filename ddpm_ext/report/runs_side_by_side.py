"""Runs side by side: in what they differ, their curves in one figure, samples from the same noise, their numbers.

`train_scripts/compare_runs.py` puts these together for the folders that it is given.
"""

from collections.abc import Sequence
from dataclasses import fields

from matplotlib.figure import Figure
from PIL import Image

from ddpm_ext.evaluation.generate import Sampling, generate
from ddpm_ext.publishing.facts import Facts
from ddpm_ext.publishing.markdown import markdown_table
from ddpm_ext.training.logging_arguments import ClassConditionalLoggingArguments
from ddpm_ext.visualization import labelled_grid, metric_curves, opaque_image, smoothed

from .reported_model import ReportedModel


# What says where a run goes and what is seen of it, not what is trained.
_BESIDES = {field.name for field in fields(ClassConditionalLoggingArguments)}
_BESIDES |= {"output_dir", "overwrite_output_dir", "resume", "resume_from_checkpoint", "cache_dir"}
_BESIDES |= {"checkpointing_steps", "checkpoints_total_limit", "dataloader_num_workers"}


def differences(runs: Sequence[Facts]) -> dict[str, list[str]]:
    """The arguments of training that are not the same in all runs, each with its value in every one."""
    names = dict.fromkeys(name for run in runs for name in run.configuration if name not in _BESIDES)
    values = {name: [_shown(run.configuration.get(name)) for run in runs] for name in names}
    return {name: found for name, found in values.items() if len(set(found)) > 1}


def short_names(models: Sequence[ReportedModel]) -> list[str]:
    """The runs' names without the beginning and the end, cut at hyphens, that all have in common."""
    parts = [model.title.split("-") for model in models]
    if len({model.title for model in models}) == len(models) > 1:
        while len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 1:
            parts = [part[1:] for part in parts]
        while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
            parts = [part[:-1] for part in parts]
    return ["-".join(part) for part in parts]


def curves(runs: Sequence[Facts], names: Sequence[str], key: str, ylabel: str) -> Figure | None:
    """What each run has logged as `key` over its steps, smoothed where it was logged often; None where none has."""
    found = {}
    for run, name in zip(runs, names, strict=True):
        rows = [row for row in run.metrics if key in row]
        if rows:
            found[name] = [row["step"] for row in rows], smoothed([row[key] for row in rows])
    return metric_curves(found, ylabel, log_scale=True) if found else None


def samples(models: Sequence[ReportedModel], names: Sequence[str], num_images: int, sampling: Sampling) -> Image.Image:
    """`num_images` samples of each run in a row of its own, each column from the same noise; of a class-conditional
    model, of all classes in turn."""
    rows = []
    for model in models:
        classes = len(model.class_names)
        labels = [i % classes for i in range(num_images)] if classes else None
        rows.append(list(generate(model.pipeline, num_images, sampling, labels, progress=model.title)))
    return opaque_image(labelled_grid(rows, list(names)))


def table(runs: Sequence[Facts], names: Sequence[str]) -> str:
    """Markdown: a row for each run, with its arguments where they differ, its last loss, and what was measured of it
    by the same protocol in all runs."""
    different = differences(runs)
    columns = {"run": list(names), **{f"`{name}`": values for name, values in different.items()}}
    columns["updates"] = [f"{run.metrics[-1]['step']:,}" if run.metrics else "-" for run in runs]
    columns["last loss"] = [_last_loss(run) for run in runs]
    protocols = []
    for first in runs[0].results:
        found = [
            next((one for one in run.results if (one.name, one.protocol) == (first.name, first.protocol)), None)
            for run in runs
        ]
        if None not in found:
            columns[first.name] = [one.shown for one in found]
            protocols.append(f"{first.name}: {first.protocol}.")
    notes = "".join(f"\n{protocol}\n" for protocol in protocols)
    return markdown_table(list(columns), zip(*columns.values(), strict=True)) + notes


def _last_loss(run: Facts) -> str:
    losses = [row["loss"] for row in run.metrics if "loss" in row]
    return f"{smoothed(losses)[-1]:.4g}" if losses else "-"


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
