"""Everything that can be measured of a subject, one method for each; its samples are drawn once, when first needed.

    evaluator = Evaluator(open_subject("ddpm-digits"), EvaluationSettings(features="pixels"))
    measurements = evaluator.measure_images(["fid", "kid"], load_images("digits"), "digits", "train")

Under `accelerate launch`, all processes call the same methods and get the same numbers.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from ddpm_ext.data.images import ImageData
from ddpm_ext.pipelines import ImprovedDDPMPipeline
from ddpm_ext.schedulers.samplers import make_sampler
from ddpm_ext.visualization import as_image, image_grid, nearest_distances

from .estimates import Estimate
from .features import Extractor, load_classifier, load_extractor
from .generate import Sampling, check_sampling, duration, generate, labels_like
from .likelihood import estimated_bits_per_dim, exact_bits_per_dim_of
from .memorisation import bits_per_dim_gap, nearest_images, side_by_side, verdict
from .records import Measurement, Protocol
from .reference import choose, load_reference
from .subject import Subject
from .suite import Classifier, check_enough, features_needed, measure_images


_PAIRS = 40


@dataclass(frozen=True)
class EvaluationSettings:
    """How things are measured; the arguments of the same names of `evaluate.py`.

    `reference_cache` None keeps no statistics.
    """

    num_images: int = 10_000
    features: str = "inception"
    classifier: str = "nearest"
    reference_images: int | None = None
    reference_cache: Path | None = None
    allow_few_images: bool = False
    likelihood: str = "estimated"
    likelihood_images: int = 1000
    sampler: str = "ddpm"
    sampling: Sampling = field(default_factory=Sampling)


class Evaluator:
    """Measures `subject`; `say` gets a line now and then for whoever waits, on the main process only."""

    def __init__(
        self,
        subject: Subject,
        settings: EvaluationSettings,
        accelerator: Accelerator | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.subject, self.settings, self.accelerator = subject, settings, accelerator
        is_main = accelerator is None or accelerator.is_main_process
        self._tell = say if is_main else None
        self._device = torch.device("cpu") if accelerator is None else accelerator.device
        if subject.pipeline is not None:
            subject.pipeline.unet.eval()
            if accelerator is not None:
                subject.pipeline.to(accelerator.device)
            self._device = subject.pipeline.device
        self._samples: tuple[Tensor, Tensor | None] | None = None
        self._likelihoods: dict[ImageData, tuple[Tensor, Protocol]] = {}

    @cached_property
    def extractor(self) -> Extractor:
        return load_extractor(self.settings.features, self._device)

    @property
    def num_images(self) -> int:
        """How many samples there will be."""
        available = None if self.subject.images is None else len(self.subject.images)
        return self.settings.num_images if available is None else min(available, self.settings.num_images)

    def samples(self, labels_of: ImageData | None = None) -> tuple[Tensor, Tensor | None]:
        """The samples, uint8 (N, C, H, W), and the classes they were asked for, int64 (N,), or None.

        A class-conditional pipeline is asked for the classes of `labels_of` in their proportions, else for all alike.
        """
        if self._samples is None:
            if self.subject.images is None:
                self._samples = self._draw(labels_of)
            else:
                labels = None if self.subject.labels is None else self.subject.labels[: self.num_images]
                self._samples = self.subject.images[: self.num_images], labels
        return self._samples

    def measure_images(
        self, metrics: Collection[str], data: ImageData, data_name: str, split: str
    ) -> list[Measurement]:
        """The `metrics` that compare the samples with `data`, the `split` of the data set called `data_name`."""
        settings = self.settings
        if self.subject.pipeline is not None:
            with self._sampler() as pipeline:
                check_sampling(pipeline, settings.sampling, self.subject.is_class_conditional)
        count = len(data) if settings.reference_images is None else min(len(data), settings.reference_images)
        dimension = self.extractor.dimension(data.integers(torch.zeros(1, dtype=torch.int64)))
        check_enough(metrics, self.num_images, count, dimension, settings.allow_few_images)
        classifier = self._classifier(data) if "class_accuracy" in metrics else None
        reference = load_reference(
            data,
            data_name,
            split,
            self.extractor,
            settings.reference_images,
            features_needed(metrics, self.num_images),
            settings.reference_cache,
            self.accelerator,
            progress=self._bar("features of the reference"),
        )
        images, labels = self.samples(data)
        return measure_images(
            metrics,
            images,
            reference,
            self.extractor,
            self._how_drawn(),
            labels,
            classifier,
            data,
            self.accelerator,
            progress=self._bar("features of the samples"),
        )

    def measure_likelihood(self, data: ImageData, data_name: str, split: str) -> Measurement:
        """Bits/dim of `likelihood_images` of `data`, with the interval of other images of the same kind."""
        per_image, how = self._bits_per_dim(data)
        protocol = {**self.subject.protocol, **_described(data, data_name, split), "images": len(per_image), **how}
        return Measurement("bits_per_dim", f"bits/dim ({split} split)", Estimate.of_mean(per_image), protocol)

    def measure_memorisation(
        self, train: ImageData, held_out: ImageData, data_name: str, split: str
    ) -> tuple[list[Measurement], dict[str, Image.Image]]:
        """How near the samples are to `train`, the `split` of the data set, against images of `held_out`; with the gap
        in bits/dim where there is a bound, and the pictures "nearest" and "nearest_distances"."""
        samples, _ = self.samples(train)
        unseen = held_out.integers(choose(len(held_out), len(samples)))
        bar = self._bar("nearest training images")
        found = nearest_images(self.extractor, samples, train, unseen, self.accelerator, bar)
        data = _described(train, data_name, split)
        measurements, gap = [], None
        if self.subject.has_bound:
            (here, how), (there, _) = self._bits_per_dim(train), self._bits_per_dim(held_out)
            gap = bits_per_dim_gap(here, there)
            counts = {"training_images": len(here), "held_out_images": len(there)}
            protocol = {**self.subject.protocol, **data, **counts, **how}
            measurements.append(Measurement("bits_per_dim_gap", "held-out minus training bits/dim", gap, protocol))
        counts = {"images": len(samples), "training_images": len(train), "held_out_images": len(unseen)}
        protocol = {**self._how_drawn(), **data, **counts, "features": self.extractor.name}
        share, note = found.near_share, verdict(found, gap)
        title = "share of samples near a training image"
        measurements.insert(0, Measurement("near_share", title, share, protocol, note))
        histogram = nearest_distances(found.distances, found.held_out_distances, f"by {self.extractor.label}")
        pairs = image_grid(side_by_side(samples, train, found, _PAIRS), columns=5)
        return measurements, {"nearest": pairs, "nearest_distances": as_image(histogram)}

    def _draw(self, labels_of: ImageData | None) -> tuple[Tensor, Tensor | None]:
        pipeline, settings = self.subject.pipeline, self.settings
        labels = None
        if self.subject.is_class_conditional:
            of = None if labels_of is None else labels_of.labels
            labels = labels_like(of, pipeline.unet.num_classes, self.num_images)

        def announce(seconds: float) -> None:
            self._say(f"sampling {self.num_images:,} images will take about {duration(seconds)}")

        with self._sampler():
            images = generate(
                pipeline, self.num_images, settings.sampling, labels, self.accelerator, self._bar("sampling"), announce
            )
        return images, None if labels is None else torch.tensor(labels)

    @contextmanager
    def _sampler(self) -> Iterator[ImprovedDDPMPipeline]:
        """The pipeline with the scheduler to sample by, for as long as that."""
        pipeline = self.subject.pipeline
        trained = pipeline.scheduler
        pipeline.scheduler = make_sampler(self.settings.sampler, trained)
        try:
            yield pipeline
        finally:
            pipeline.scheduler = trained

    def _classifier(self, data: ImageData) -> Classifier:
        if data.labels is None:
            raise ValueError(
                "`metrics` holds class_accuracy, but the data set has no classes: `label_column` names their column."
            )
        name = self.settings.classifier
        return Classifier(None if name == "nearest" else load_classifier(name, self._device))

    def _bits_per_dim(self, data: ImageData) -> tuple[Tensor, Protocol]:
        """Of each image, (N,), and how it was found; of the same data, once."""
        if data not in self._likelihoods:
            self._likelihoods[data] = self._measure_bits_per_dim(data)
        return self._likelihoods[data]

    def _measure_bits_per_dim(self, data: ImageData) -> tuple[Tensor, Protocol]:
        pipeline, seed = self.subject.pipeline, self.settings.sampling.seed
        indices = choose(len(data), self.settings.likelihood_images)
        bar = self._bar(f"bits/dim of {len(indices):,} images")
        if self.settings.likelihood == "exact":
            found = exact_bits_per_dim_of(pipeline, data, indices, seed, accelerator=self.accelerator, progress=bar)
            return found, {"likelihood": f"exact, {pipeline.scheduler.process.num_timesteps} steps", "seed": seed}
        estimate = estimated_bits_per_dim(
            pipeline, data, len(data), seed, accelerator=self.accelerator, indices=indices, progress=bar
        )
        return estimate.per_image, {"likelihood": f"estimated, {estimate.num_evaluations} evaluations", "seed": seed}

    def _say(self, line: str) -> None:
        if self._tell is not None:
            self._tell(line)

    def _bar(self, title: str) -> str | None:
        """The title of a progress bar, where there is somebody to see it."""
        return None if self._tell is None else title

    def _how_drawn(self) -> Protocol:
        """The subject, and how its samples were drawn."""
        if self.subject.pipeline is None:
            return self.subject.protocol
        sampling = self.settings.sampling
        drawn = {
            "sampler": self.settings.sampler,
            "steps": sampling.num_inference_steps,
            "guidance_scale": sampling.guidance_scale,
            "eta": sampling.eta,
            "seed": sampling.seed,
            "mixed_precision": None if sampling.mixed_precision == "no" else sampling.mixed_precision,
        }
        return {**self.subject.protocol, **{name: value for name, value in drawn.items() if value is not None}}


def _described(data: ImageData, name: str, split: str) -> Protocol:
    return {"data_set": name, "split": split, "resolution": "x".join(map(str, data.shape[1:]))}
