"""The Fréchet distance of a run's samples to the held-out split, for `eval_fid`.

To images that were not trained on, as the distance also chooses the best pipeline: that to the train split is lowest
for a network that repeats what it has seen. (`--test_split train` measures that one, which papers state.)
"""

from collections.abc import Mapping

from accelerate import Accelerator
from tqdm.auto import tqdm

from ddpm_ext.data.images import ImageData
from ddpm_ext.evaluation.features import load_extractor
from ddpm_ext.evaluation.generate import Sampling, duration, generate, labels_like
from ddpm_ext.evaluation.image_metrics import frechet_distance
from ddpm_ext.evaluation.reference import default_cache, load_reference
from ddpm_ext.evaluation.statistics import extract
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline

from .arguments import Arguments


class SampleDistance:
    """Of `eval_fid_images` samples, always from the same noise, to all of `held_out`, by the features `eval_fid`.

    ValueError where there are no such features, or where they are not for these images.
    """

    def __init__(self, arguments: Arguments, held_out: ImageData, accelerator: Accelerator) -> None:
        logging = arguments.logging
        if logging.eval_fid_images < 2:
            raise ValueError(f"`eval_fid_images` is {logging.eval_fid_images}: a covariance needs at least 2.")
        self.count, self.held_out, self.accelerator = logging.eval_fid_images, held_out, accelerator
        self.sampling = Sampling(
            seed=arguments.training.seed,
            num_inference_steps=logging.num_inference_steps,
            guidance_scale=getattr(logging, "guidance_scale", 1.0),
        )
        self.extractor = load_extractor(logging.eval_fid, accelerator.device, "eval_fid")
        name = arguments.data.dataset_name or arguments.data.train_data_dir
        self.reference = load_reference(
            held_out,
            name,
            arguments.data.test_split,
            self.extractor,
            cache=default_cache(),
            accelerator=accelerator,
            progress="features of the held-out split" if accelerator.is_main_process else None,
        )
        self._has_told_time = not accelerator.is_main_process
        dimension = len(self.reference.moments.mean)
        if accelerator.is_main_process and min(self.count, self.reference.moments.count) <= dimension:
            tqdm.write(
                f"note: `eval_fid` compares {self.count:,} samples with {self.reference.moments.count:,} images by "
                f"{dimension:,} features: of fewer images than features it is far above the distance of many, and "
                "tells only which step of this run is nearer."
            )

    @property
    def protocol(self) -> Mapping[str, str | int | float]:
        """How it is measured: values compare where these agree."""
        return {
            **self.reference.protocol,
            "data": self.held_out.fingerprint,
            "features": self.extractor.name,
            "features_digest": self.extractor.fingerprint,
            "images": self.count,
            "steps": self.sampling.num_inference_steps,
            "guidance_scale": self.sampling.guidance_scale,
            "seed": self.sampling.seed,
        }

    def measure(self, pipeline: ImprovedDDPMPipeline) -> float:
        """The distance of `pipeline`'s samples, the same on every process, which share the work."""
        labels = None
        if isinstance(pipeline, ClassConditionalDDPMPipeline):
            labels = labels_like(self.held_out.labels, pipeline.unet.num_classes, self.count)
        images = generate(pipeline, self.count, self.sampling, labels, self.accelerator, announce=self._tell_time)
        extracted = extract(self.extractor, images, self.accelerator, groups=1)
        return frechet_distance(extracted.sums.moments(), self.reference.moments)

    def _tell_time(self, seconds: float) -> None:
        if not self._has_told_time:
            self._has_told_time = True
            tqdm.write(f"the {self.count:,} samples for `eval_fid` take about {duration(seconds)} each time")
