"""What a run measures on the held-out split while it trains; made where `eval_steps` asks for it."""

from collections.abc import Mapping

from accelerate import Accelerator

from ddpm_ext.data.training_data import TrainingData
from ddpm_ext.evaluation.likelihood import check_has_likelihood, estimated_bits_per_dim
from ddpm_ext.pipelines import ImprovedDDPMPipeline

from .arguments import Arguments
from .building import load_held_out_images
from .sample_distance import SampleDistance


COLUMNS = {"bits_per_dim": "held_out_bits_per_dim", "fid": "held_out_fid"}
"""The names that metrics are logged by."""


class HeldOut:
    """The held-out split, of the kind that `trained_on` is; ValueError where it differs."""

    def __init__(self, arguments: Arguments, trained_on: TrainingData, accelerator: Accelerator) -> None:
        self._has_likelihood = arguments.training.objective == "ddpm"
        self._check(trained_on)
        self.arguments, self.accelerator = arguments, accelerator
        self.data = load_held_out_images(arguments)
        if self.data.shape != trained_on.shape:
            here, there = ("x".join(map(str, data.shape)) for data in (self.data, trained_on))
            raise ValueError(f"`test_split` has images of {here}, and those that are trained on are {there}.")
        self._check(self.data)
        wants_distance = arguments.logging.eval_fid is not None
        self.distance = SampleDistance(arguments, self.data, accelerator) if wants_distance else None

    @property
    def metrics(self) -> list[str]:
        """The names of what is measured, of those of `COLUMNS`."""
        return ["bits_per_dim"] * self._has_likelihood + ["fid"] * (self.distance is not None)

    def measure(self, pipeline: ImprovedDDPMPipeline) -> dict[str, float]:
        """Bits/dim of the first `eval_images`, estimated, and the standard error, where the objective has such, and
        the Fréchet distance where it is asked for; the processes share the work, and have the same numbers."""
        pipeline.unet.eval()
        values = {}
        if self._has_likelihood:
            count, seed = self.arguments.logging.eval_images, self.arguments.training.seed
            estimate = estimated_bits_per_dim(pipeline, self.data, count, seed, accelerator=self.accelerator)
            values[COLUMNS["bits_per_dim"]] = estimate.mean
            values["held_out_bits_per_dim_standard_error"] = estimate.standard_error
        if self.distance is not None:
            values[COLUMNS["fid"]] = self.distance.measure(pipeline)
        return values

    def protocol(self, metric: str) -> Mapping[str, str | int | float]:
        """How `metric` is measured: values compare where these agree."""
        if metric == "fid":
            return self.distance.protocol
        split, count = self.arguments.data.test_split, min(len(self.data), self.arguments.logging.eval_images)
        seed = self.arguments.training.seed
        return {
            "split": split,
            "data": self.data.fingerprint,
            "images": count,
            "likelihood": "estimated",
            "seed": seed,
        }

    def _check(self, data: TrainingData) -> None:
        if self._has_likelihood:
            check_has_likelihood(data)
        elif data.max_value != 255:
            raise ValueError(f"`eval_fid` is measured on 8-bit images, which these {data.noun} are not.")
