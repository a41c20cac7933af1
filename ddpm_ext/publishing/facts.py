"""What is known of a model: the configs of its pipeline, and what a run or an evaluation has left in its folder."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist

import yaml
from safetensors import SafetensorError, safe_open

from ddpm_ext.rounding import rounded


_RUNNING = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm
_REACH = NormalDist().inv_cdf(0.975)  # standard errors to either side that 95 % lie within
_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Result:
    """A measured number; `protocol` says how it came about, `note` what it means, where that is not plain."""

    metric_type: str
    name: str
    value: float
    protocol: str
    interval: tuple[float, float] | None = None
    note: str = ""

    @property
    def shown(self) -> str:
        """The value, and the interval of 95 %."""
        return rounded(self.value, self.interval)


@dataclass(frozen=True)
class Facts:
    """What lies in a folder: the pipeline's configs and, where it is that of a run, how the run went."""

    folder: Path
    index: dict[str, object]
    unet: dict[str, object]
    scheduler: dict[str, object]
    run: dict[str, object] = field(default_factory=dict)
    configuration: dict[str, object] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes by id; empty for an unconditional model."""
        return list((self.index.get("id2label") or {}).values())

    @property
    def noun(self) -> str:
        """What the samples are, in the plural: images, or points, whose network has no size."""
        return "images" if "sample_size" in self.unet else "points"

    @property
    def is_flow_matching(self) -> bool:
        """Whether it was trained by flow matching: its schedulers alone have a shift, others are told to follow it."""
        return "shift" in self.scheduler or self.scheduler.get("prediction_type") == "flow_prediction"

    @property
    def dataset(self) -> str:
        """What was trained on, as it was told: a name, or the name of a folder."""
        name, folder = self.configuration.get("dataset_name"), self.configuration.get("train_data_dir")
        return str(public_name(name) if name else Path(str(folder)).name if folder else "an unknown data set")

    @property
    def num_parameters(self) -> int | None:
        """How many numbers the network has learned by gradients; None where its weights cannot be read."""
        try:
            with safe_open(self.folder / _WEIGHTS, framework="pt") as weights:
                learned = [name for name in weights.keys() if not name.endswith(_RUNNING)]  # noqa: SIM118 - no iterator
                shapes = [weights.get_slice(name).get_shape() for name in learned]
        except (OSError, SafetensorError):
            return None
        return sum(math.prod(shape) for shape in shapes)


def read_facts(folder: Path, pipeline_folder: Path | None = None) -> Facts:
    """Reads the pipeline in `folder`, or in `pipeline_folder`, and what a run has left in `folder`. OSError or
    ValueError where there is none.

    The first models of diffusers have all files in one folder: there, `unet` and `scheduler` stay empty.
    """
    place = pipeline_folder or folder
    rows = [json.loads(line) for line in _text(folder / "metrics.jsonl").splitlines() if line.endswith("}")]
    configuration = yaml.safe_load(_text(folder / "config.yaml")) or {}
    return Facts(
        place,
        index=json.loads((place / "model_index.json").read_text()),
        unet=json.loads(_text(place / "unet" / "config.json") or "{}"),
        scheduler=json.loads(_text(place / "scheduler" / "scheduler_config.json") or "{}"),
        run=json.loads(_text(folder / "run.json") or "{}"),
        configuration=configuration,
        metrics=rows,
        results=_held_out(rows, configuration) + _evaluated(_text(folder / "evaluation" / "metrics.json")),
    )


def public_name(value: object) -> object:
    """The last part of what is a path on some machine: the others are nobody's business."""
    is_path = isinstance(value, str) and (os.path.isabs(value) or os.path.exists(value))
    return Path(value).name if is_path else value


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _evaluated(text: str) -> list[Result]:
    """What an evaluation has left: {"metrics": [{"name", "value", "protocol", ...}]}; nothing of what is not that.

    A file that somebody else has put there is no reason for a run to stop.
    """
    try:
        entries = json.loads(text or "{}")
    except ValueError:
        return []
    entries = entries.get("metrics") if isinstance(entries, dict) else None
    found = [_result(entry) for entry in entries] if isinstance(entries, list) else []
    return [result for result in found if result is not None]


def _result(entry: object) -> Result | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("value"), int | float) or "name" not in entry:
        return None
    protocol, interval = entry.get("protocol", ""), entry.get("interval_95")
    if isinstance(protocol, dict):
        shown = ((name.replace("_", " "), public_name(value)) for name, value in protocol.items() if name != "model")
        protocol = "; ".join(f"{name}: {value}" for name, value in shown)
    is_interval = isinstance(interval, list) and [isinstance(end, int | float) for end in interval] == [True, True]
    return Result(
        str(entry["name"]),
        str(entry.get("title") or entry["name"]),
        float(f"{entry['value']:.6g}"),
        str(protocol),
        (float(interval[0]), float(interval[1])) if is_interval else None,
        str(entry.get("note") or ""),
    )


def _held_out(rows: list[dict[str, float]], configuration: dict[str, object]) -> list[Result]:
    measured = [row for row in rows if row.keys() & {"held_out_bits_per_dim", "held_out_fid"}]
    last, found = measured[-1] if measured else {}, []
    if "held_out_bits_per_dim" in last:
        protocol = (
            f"variational bound, estimated on at most {configuration.get('eval_images')} images of the split "
            f"'{configuration.get('test_split')}', after {last['step']:,} updates"
        )
        value, reach = last["held_out_bits_per_dim"], _REACH * last["held_out_bits_per_dim_standard_error"]
        found.append(Result("bits_per_dim", "bits/dim", value, protocol, (value - reach, value + reach)))
    if "held_out_fid" in last:
        features = Path(str(configuration.get("eval_fid"))).name
        protocol = (
            f"{configuration.get('eval_fid_images')} samples of {configuration.get('num_inference_steps')} steps "
            f"against the split '{configuration.get('test_split')}', after {last['step']:,} updates"
        )
        found.append(Result("fid", f"Fréchet distance ({features})", last["held_out_fid"], protocol))
    return found
