"""Measured numbers with how they were measured: as JSON, as a Markdown table, and as the `model-index` of a card."""

import itertools
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from ddpm_ext.publishing.facts import public_name
from ddpm_ext.publishing.markdown import markdown_table

from .estimates import Estimate


Protocol = dict[str, str | int | float]
"""How a number was measured, by name: images, reference, weights, sampler, ... in the order to show them in."""


@dataclass(frozen=True)
class Measurement:
    """One number: its `name` for programs, such as "fid", its `title` for readers, and its protocol.

    `note`: what it means, in a sentence, where that is not plain.
    """

    name: str
    title: str
    estimate: Estimate
    protocol: Protocol
    note: str = ""

    def describe_protocol(self) -> str:
        return _described(self.protocol)

    def as_json(self) -> dict[str, object]:
        found = self.estimate
        interval = None if found.low is None else [found.low, found.high]
        return {
            "name": self.name,
            "title": self.title,
            "value": found.value,
            "interval_95": interval,
            "protocol": self.protocol,
            "note": self.note,
        }

    @staticmethod
    def from_json(entry: dict) -> "Measurement":
        estimate = Estimate(entry["value"], *(entry["interval_95"] or (None, None)))
        return Measurement(entry["name"], entry["title"], estimate, entry["protocol"], entry["note"])


def as_markdown(measurements: Sequence[Measurement]) -> str:
    """A row for each number, with its 95 % interval and its protocol; notes below."""
    rows = [[one.title, str(one.estimate), one.describe_protocol()] for one in measurements]
    notes = [f"\n{one.note}\n" for one in measurements if one.note]
    return "".join([markdown_table(["metric", "value [95 % interval]", "protocol"], rows), *notes])


def as_text(measurements: Sequence[Measurement]) -> str:
    """For a terminal: the numbers, each group of one protocol followed by it; at the end what all protocols share."""
    protocols = [one.protocol for one in measurements]
    shared = {
        name: value for name, value in protocols[0].items() if all(other.get(name) == value for other in protocols)
    }
    width = max(len(one.title) for one in measurements)
    lines = []
    groups = [list(group) for _, group in itertools.groupby(measurements, key=lambda one: one.protocol)]
    for group in groups:
        lines += [f"{one.title:<{width}}  {one.estimate}" for one in group]
        lines += _paragraph({name: value for name, value in group[0].protocol.items() if name not in shared})
        lines += [f"  {one.note}" for one in group if one.note]
        lines.append("")
    return "\n".join([*lines, *_paragraph(shared, "all of these: " if len(groups) > 1 else ""), ""])


def eval_results(
    measurements: Sequence[Measurement], task: str = "unconditional-image-generation"
) -> list[EvalResult]:
    """For the `eval_results` of a model card; the protocol, but for the model's place, is the metric's arguments."""
    return [
        EvalResult(
            task_type=task,
            dataset_type=public_name(one.protocol["data_set"]),
            dataset_name=public_name(one.protocol["data_set"]),
            dataset_split=one.protocol.get("split"),
            metric_type=one.name,
            metric_name=one.title,
            metric_value=one.estimate.value,
            metric_args={name: public_name(value) for name, value in one.protocol.items() if name != "model"},
        )
        for one in measurements
    ]


def read_measurements(file: Path) -> list[Measurement]:
    """Those in a metrics.json; none where there is no such file."""
    if not file.exists():
        return []
    try:
        return [Measurement.from_json(entry) for entry in json.loads(file.read_text())["metrics"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"`output` holds {file}, which is no list of metrics: move it away.") from error


def write_measurements(folder: Path, measurements: Sequence[Measurement], model: str) -> None:
    """Writes metrics.json, metrics.md and model-index.yaml.

    Numbers of the same weights that metrics.json already holds stay, but for those that were measured anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "metrics.json"
    anew = {(one.name, json.dumps(one.protocol)) for one in measurements}
    digests = {one.protocol.get("weights_digest") for one in measurements}
    kept = [
        one
        for one in read_measurements(file)
        if one.protocol.get("weights_digest") in digests and (one.name, json.dumps(one.protocol)) not in anew
    ]
    both = [*kept, *measurements]
    content = {
        "model": model,
        "metrics": [one.as_json() for one in both],
        "torch": torch.__version__,
    }
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    (folder / "metrics.md").write_text(as_markdown(both))
    index = {"model-index": eval_results_to_model_index(Path(model).name, eval_results(both))}
    (folder / "model-index.yaml").write_text(yaml.safe_dump(index, sort_keys=False, allow_unicode=True))


def _paragraph(protocol: Protocol, before: str = "") -> list[str]:
    return textwrap.wrap(before + _described(protocol), 100, initial_indent="    ", subsequent_indent="    ")


def _described(protocol: Protocol) -> str:
    return "; ".join(f"{name.replace('_', ' ')}: {_shown(value)}" for name, value in protocol.items())


def _shown(value: str | int | float) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
