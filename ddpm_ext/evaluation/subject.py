"""What is measured: a trained pipeline, or a file of samples.

A sample file has the field's form: an .npz with `arr_0`, uint8 (N, H, W, C), and perhaps labels, `arr_1` (N,).
"""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from ddpm_ext.data.images import ImageData
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from ddpm_ext.pipelines.loading import load_pipeline
from ddpm_ext.schedulers.flow_matching import is_flow_matching
from ddpm_ext.schedulers.stock import scheduler_of_training

from .features import weights_digest
from .records import Protocol


@dataclass(frozen=True)
class Subject:
    """A `pipeline`, with the scheduler of its training, or `images`, uint8 (N, C, H, W), and perhaps their `labels`,
    int64 (N,).

    `protocol` says which weights, or which file. `trained_on` are the data arguments of the run that made a pipeline,
    as far as its folder tells.
    """

    protocol: Protocol
    pipeline: ImprovedDDPMPipeline | None = None
    images: Tensor | None = None
    labels: Tensor | None = None
    trained_on: dict[str, str | int | None] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        if self.images is not None:
            return tuple(self.images.shape[1:])
        return self.pipeline.sample_shape

    @property
    def is_class_conditional(self) -> bool:
        return isinstance(self.pipeline, ClassConditionalDDPMPipeline)

    @property
    def has_bound(self) -> bool:
        """Whether bits/dim can be taken of it: of a pipeline, but not one of flow matching."""
        return self.pipeline is not None and not is_flow_matching(self.pipeline.scheduler)

    def check_same_images(self, data: ImageData) -> None:
        """ValueError where `data` has images of another size or number of channels."""
        if data.shape != self.shape:
            own, other = ("x".join(map(str, shape)) for shape in (self.shape, data.shape))
            raise ValueError(
                f"the samples are {own} and the data set's images {other} (channels x height x width): pass "
                f"`--resolution {self.shape[1]}x{self.shape[2]} --image_channels {self.shape[0]}` to convert the "
                "latter, or another data set."
            )

    def check_same_classes(self, data: ImageData, needed: bool) -> None:
        """ValueError where a class-conditional pipeline has other classes than `data`, or `data` none but `needed`."""
        if not self.is_class_conditional or (data.labels is None and not needed):
            return
        if data.labels is None:
            raise ValueError(
                "`label_column` names no column, and the data set has no labels that could be found, which a "
                f"class-conditional model needs (columns: {', '.join(data.columns)})."
            )
        own, other = self.pipeline.class_names, data.class_names or []
        is_named = own != [str(i) for i in range(len(own))]
        if len(own) != len(other) or (is_named and own != other):
            shown = [", ".join(names[:5]) + (", ..." if len(names) > 5 else "") for names in (own, other)]
            raise ValueError(
                f"the model has {len(own)} classes ({shown[0]}) and the data set {len(other)} ({shown[1]}): they must "
                "be the same, in the same order."
            )


def open_subject(model: str, weights: str = "saved") -> Subject:
    """The pipeline in folder or repository `model`, or the samples in `model`.npz; ValueError where there is neither.

    `weights` "raw" takes those of the training, without an average, from the run's newest checkpoint.
    """
    if Path(model).suffix == ".npz":
        if weights == "raw":
            raise ValueError(f"`weights` is raw, but {model} holds samples: a pipeline is needed.")
        return _read_samples(Path(model))
    pipeline = load_pipeline(model)
    pipeline.scheduler = scheduler_of_training(pipeline.scheduler)
    config = _run_config(Path(model))
    described = {True: "EMA", False: "raw", None: "as saved"}[config.get("use_ema")]
    if weights == "raw" and described != "raw":
        checkpoint = _newest_with_raw_weights(Path(model))
        pipeline.unet = type(pipeline.unet).from_pretrained(checkpoint, subfolder="unet_raw")
        described = f"raw, {checkpoint.name}"
    protocol = {"model": model, "weights": described, "weights_digest": weights_digest(pipeline.unet)}
    return Subject(protocol, pipeline, trained_on=config)


def _read_samples(file: Path) -> Subject:
    if not file.is_file():
        raise ValueError(f"`model` is {file}, which does not exist.")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images = arrays["arr_0"] if "arr_0" in arrays.files else None
            labels = arrays["arr_1"] if "arr_1" in arrays.files else None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"`model` is {file}, which cannot be read: {reason}.") from error
    found = "missing" if images is None else f"{images.dtype} {images.shape}"
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(f"`model` is {file}, whose `arr_0` is {found}: uint8 (N, H, W, 1 or 3) is accepted.")
    if len(images) == 0:
        raise ValueError(f"`model` is {file}, which holds no images.")
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise ValueError(
            f"`model` is {file}, whose `arr_1` is {labels.dtype} {labels.shape}: one class number for each of its "
            f"{len(images)} images is accepted."
        )
    digest = hashlib.blake2b(np.ascontiguousarray(images), digest_size=8).hexdigest()
    protocol = {"model": str(file), "weights": "samples from a file", "weights_digest": digest}
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    classes = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return Subject(protocol, images=pixels, labels=classes)


def _run_config(model: Path) -> dict[str, str | int | None]:
    """The arguments of the run that wrote the folder, or the checkpoint, `model`; empty where they are not there."""
    for folder in (model, model.parent.parent):
        file = folder / "config.yaml"
        if file.is_file():
            try:
                return dict(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
            except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError):
                return {}
    return {}


def _newest_with_raw_weights(model: Path) -> Path:
    checkpoints = [model, *model.glob("checkpoints/checkpoint-*")]
    found = [folder for folder in checkpoints if (folder / "unet_raw").is_dir()]
    if not found:
        raise ValueError(f"`weights` is raw, but {model} holds none: a run's folder with its checkpoints is accepted.")
    return max(found, key=lambda folder: int(folder.name.rpartition("-")[2]))
