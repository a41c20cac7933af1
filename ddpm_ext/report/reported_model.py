"""What a report is about: the pipeline, what is known of its training, and real images to show it."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from huggingface_hub import snapshot_download
from torch import Tensor

from ddpm_ext.data.images import load_images, to_unit_range
from ddpm_ext.diffusion import FlowMatching, GaussianDiffusion
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from ddpm_ext.pipelines.loading import load_pipeline
from ddpm_ext.publishing.facts import Facts, read_facts
from ddpm_ext.schedulers.scheduling_improved_ddpm import ImprovedDDPMScheduler
from ddpm_ext.schedulers.stock import process_of, scheduler_of_training
from ddpm_ext.training.checkpoints import newest_pipeline


_OF_A_MODEL = ["model_index.json", "unet/*", "scheduler/*", "config.yaml", "run.json", "samples/*"]
_OF_A_MODEL += ["metrics.jsonl", "evaluation/metrics.json"]
_MOST_IMAGES, _MOST_VALUES = 64, 2**16  # of real images; values are those of a network's batch


@dataclass(frozen=True)
class ReportedModel:
    """A model, its `name` as it was asked for, and the `folder` of its run, in which, or in the newest checkpoint of
    which, the pipeline lies."""

    name: str
    folder: Path
    facts: Facts
    pipeline: ImprovedDDPMPipeline

    @property
    def title(self) -> str:
        return self.folder.resolve().name if Path(self.name).exists() else self.name.split("/")[-1]

    @property
    def where(self) -> str:
        """What `from_pretrained` is to be told."""
        return str(self.facts.folder) if Path(self.name).exists() else self.name

    @property
    def scheduler(self) -> ImprovedDDPMScheduler | FlowMatchEulerDiscreteScheduler:
        """The one that the model was trained with."""
        return scheduler_of_training(self.pipeline.scheduler)

    @property
    def process(self) -> GaussianDiffusion | FlowMatching:
        """How noise was added in training."""
        return process_of(self.pipeline.scheduler)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes by id; empty for an unconditional model."""
        is_conditional = isinstance(self.pipeline, ClassConditionalDDPMPipeline)
        return self.pipeline.class_names if is_conditional else []


@dataclass(frozen=True)
class RealImages:
    """`x_0`, (N, C, H, W) in [-1, 1], their labels where the model wants them, and where they come from, in words."""

    x_0: Tensor
    labels: Tensor | None
    source: str


def open_model(model: str) -> ReportedModel:
    """The model in folder or repository `model`; ValueError, in one sentence, where there is none."""
    pipeline = load_pipeline(newest_pipeline(model))
    try:
        folder = Path(model) if Path(model).exists() else Path(snapshot_download(model, allow_patterns=_OF_A_MODEL))
        facts = read_facts(folder, Path(newest_pipeline(str(folder))))
    except (OSError, ValueError) as error:
        raise ValueError(f"`model` is {model}, of which a file cannot be read: {error}.") from error
    # Configs of stock models leave out what is at its default, and classes may have no names; the pipeline knows all.
    scheduler, unet = dict(scheduler_of_training(pipeline.scheduler).config), dict(pipeline.unet.config)
    found = ReportedModel(model, folder, replace(facts, unet=unet, scheduler=scheduler), pipeline)
    index = {**facts.index, "id2label": dict(enumerate(found.class_names))}
    return replace(found, facts=replace(found.facts, index=index))


def load_real_images(model: ReportedModel, dataset_name: str | None) -> RealImages:
    """Some images of `dataset_name`, or else of what the model was trained on where that is on this machine.

    Held-out ones where there are such. ValueError, in one sentence, where there are none: nothing is downloaded that
    `dataset_name` does not ask for.
    """
    recorded = model.facts.configuration
    if dataset_name is not None:
        return _first_images(model, {"dataset_name": dataset_name})
    name = recorded.get("dataset_name") or recorded.get("train_data_dir")
    if name is None:
        raise ValueError("What it was trained on is not recorded: `--dataset_name` tells where to find images.")
    if name != "digits" and not Path(str(name)).exists():
        raise ValueError(f"Its training data, {name}, is not here: `--dataset_name` tells where to find images.")
    keys = ("dataset_name", "train_data_dir", "dataset_config_name", "image_column", "label_column", "cache_dir")
    return _first_images(model, {key: recorded.get(key) for key in keys})


def _first_images(model: ReportedModel, where: dict[str, str | None]) -> RealImages:
    """The first images of the test split, or of the train split where there is no other."""
    recorded = model.facts.configuration
    channels, height, width = model.pipeline.sample_shape
    count = max(4, min(_MOST_IMAGES, _MOST_VALUES // (channels * height * width)))
    splits = [str(recorded.get(f"{kind}_split") or kind) for kind in ("test", "train")]
    for split in splits:
        part = split if where["dataset_name"] == "digits" or "[" in split else f"{split}[:{count}]"
        try:
            data = load_images(
                **where,
                split=part,
                resolution=f"{height}x{width}",
                center_crop=True,
                image_channels=channels,
                show_progress=False,
            )
            break
        except ValueError as error:
            if split == splits[-1]:
                raise ValueError(f"No images could be read: {error}") from error
    chosen = torch.arange(min(count, len(data)))
    labels = data.labels[chosen] if model.class_names and data.labels is not None else None
    if labels is not None and int(labels.max()) >= len(model.class_names):
        raise ValueError(f"Split '{split}' has a class {int(labels.max())}: the model knows {len(model.class_names)}.")
    device = model.pipeline.unet.device
    x_0 = to_unit_range(data.integers(chosen).to(device), data.max_value)
    source = (
        f"{len(x_0)} images of {Path(str(where['dataset_name'] or where['train_data_dir'])).name}, split '{split}'"
    )
    return RealImages(x_0, None if labels is None else labels.to(device), source)
