"""The metrics of a set of images, each with its protocol.

    reference = load_reference(data, "digits", "train", extractor, keep_features=features_needed(metrics, 1000))
    measurements = measure_images(["fid", "kid"], images, reference, extractor, protocol)

`Evaluator` does this for a pipeline.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from ddpm_ext.data.images import Draw, ImageData

from .estimates import Estimate
from .features import Extractor
from .image_metrics import (
    COVERAGE_NEIGHBOURS,
    PRECISION_NEIGHBOURS,
    class_accuracy,
    frechet_estimate,
    kernel_distance,
    nearest_labels,
    precision_recall,
)
from .records import Measurement, Protocol
from .reference import Reference
from .statistics import GROUPS, IMAGES_AT_A_TIME, extract


IMAGE_METRICS = ("fid", "kid", "precision_recall", "class_accuracy")
_TITLES = {"inception": ("FID", "KID"), "dinov2": ("FD-DINOv2", "KD-DINOv2")}


@dataclass(frozen=True)
class Classifier:
    """What reads the images: a network whose features are logits, or the class of the nearest reference image."""

    network: Extractor | None = None

    @property
    def name(self) -> str:
        return "nearest reference image" if self.network is None else self.network.name

    def read(self, images: Tensor, features: Tensor, reference: Reference) -> Tensor:
        """The class that it takes each of `images`, uint8 (N, C, H, W), for, int64 (N,); `features` are theirs."""
        if self.network is None:
            return nearest_labels(features, reference.features, reference.labels)
        return torch.cat([self.network(part).argmax(1) for part in images.split(IMAGES_AT_A_TIME)])

    def read_reference(self, data: ImageData, reference: Reference) -> Tensor:
        """The same for the images of the reference `data` whose features are kept, each without itself, int64 (M,)."""
        if self.network is None:
            return nearest_labels(reference.features, reference.features, reference.labels)
        chunks = reference.indices[: len(reference.features)].split(IMAGES_AT_A_TIME)
        read = data.integer_batches(Draw(chunk) for chunk in chunks)
        return torch.cat([self.network(batch).argmax(1) for batch in read])


def features_needed(metrics: Collection[str], num_images: int) -> int:
    """Of how many reference images these metrics need the features themselves: as many as are generated, or none."""
    return num_images if {"kid", "precision_recall", "class_accuracy"} & set(metrics) else 0


def check_enough(
    metrics: Collection[str], num_images: int, num_reference: int, dimension: int, allow_few: bool = False
) -> None:
    """ValueError where there are fewer images than these metrics can use, of features of `dimension` D.

    `allow_few` lets the Fréchet distance pass of fewer images than dimensions.
    """
    fewest = {"fid": 2 * GROUPS, "kid": 3, "precision_recall": COVERAGE_NEIGHBOURS + 1, "class_accuracy": 1}
    for metric in metrics:
        needed = fewest[metric]
        for name, count in (("num_images", num_images), ("reference_images", num_reference)):
            if count < needed:
                raise ValueError(f"`{name}` is {count}: `{metric}` needs at least {needed}.")
    if "fid" in metrics and not allow_few:
        for name, count in (("num_images", num_images), ("reference_images", num_reference)):
            if count <= dimension:
                raise ValueError(
                    f"`{name}` is {count}, and the features have {dimension} dimensions: the covariance of so few "
                    "images is singular, and their `fid` far above that of many; give more than "
                    f"{dimension} images, use features of fewer dimensions, or pass `--allow_few_images`."
                )


def measure_images(
    metrics: Sequence[str],
    images: Tensor,
    reference: Reference,
    extractor: Extractor,
    protocol: Protocol,
    labels: Tensor | None = None,
    classifier: Classifier | None = None,
    data: ImageData | None = None,
    accelerator: Accelerator | None = None,
    progress: str | None = None,
) -> list[Measurement]:
    """The `metrics`, of `IMAGE_METRICS`, of `images`, uint8 (N, C, H, W), in the order of their names there.

    class_accuracy needs `labels`, int64 (N,), the `classifier`, and the `data` that the reference is made of, which it
    reads too: no number is better than its classifier. The processes share the work on the features; the numbers are
    the same on all.
    """
    kept = len(images) if features_needed(metrics, len(images)) else 0
    extracted = extract(extractor, images, accelerator, keep_features=kept, progress=progress)
    shared = {**protocol, "images": len(images), **reference.protocol, "features": extractor.name}
    compared = {**shared, "reference_images": len(reference.features)}
    device = "cpu" if accelerator is None or accelerator.device.type == "mps" else accelerator.device
    frechet, kernel = _TITLES.get(
        extractor.name, (f"Fréchet distance ({extractor.label})", f"KID ({extractor.label})")
    )
    found = []
    if "fid" in metrics:
        found.append(Measurement("fid", frechet, frechet_estimate(extracted.sums, reference.moments), shared))
    if "kid" in metrics:
        estimate = kernel_distance(extracted.features, reference.features, device)
        found.append(Measurement("kid", kernel, estimate, compared))
    if "precision_recall" in metrics:
        for name, value in precision_recall(extracted.features, reference.features, device).items():
            neighbours = PRECISION_NEIGHBOURS if name in ("precision", "recall") else COVERAGE_NEIGHBOURS
            how = {**compared, "neighbours": neighbours}
            found.append(Measurement(name, f"{name} ({extractor.label})", Estimate(value), how))
    if "class_accuracy" in metrics:
        how = {**compared, "classifier": classifier.name}
        read = classifier.read(images, extracted.features, reference), classifier.read_reference(data, reference)
        real = class_accuracy(read[1], reference.labels)
        found.append(Measurement("class_accuracy", "class accuracy", class_accuracy(read[0], labels), how))
        found.append(Measurement("class_accuracy_of_reference", "class accuracy of the reference", real, how))
    return found
