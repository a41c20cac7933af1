"""What a run measures on the held-out split while it trains; made by `Run` where `eval_steps` asks for it."""

from accelerate import Accelerator

from ddpm_ext.data.training_data import TrainingData
from ddpm_ext.evaluation.likelihood import check_has_likelihood, estimated_bits_per_dim
from ddpm_ext.pipelines import ImprovedDDPMPipeline

from .arguments import Arguments
from .building import load_held_out_images


class HeldOut:
    """The first `eval_images` of the held-out split, of the kind that `trained_on` is; ValueError where it differs."""

    def __init__(self, arguments: Arguments, trained_on: TrainingData, accelerator: Accelerator) -> None:
        check_has_likelihood(trained_on)
        self.arguments, self.accelerator = arguments, accelerator
        self.data = load_held_out_images(arguments)
        if self.data.shape != trained_on.shape:
            here, there = ("x".join(map(str, data.shape)) for data in (self.data, trained_on))
            raise ValueError(f"`test_split` has images of {here}, and those that are trained on are {there}.")
        check_has_likelihood(self.data)

    def measure(self, pipeline: ImprovedDDPMPipeline) -> dict[str, float]:
        """Bits/dim, estimated, and the standard error; every process takes its share of the images."""
        logging = self.arguments.logging
        pipeline.unet.eval()
        estimate = estimated_bits_per_dim(
            pipeline, self.data, logging.eval_images, self.arguments.training.seed, accelerator=self.accelerator
        )
        return {
            "held_out_bits_per_dim": estimate.mean,
            "held_out_bits_per_dim_standard_error": estimate.standard_error,
        }
