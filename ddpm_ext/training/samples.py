"""The grid of samples that a run draws while it trains, always from the same noise; called by `Run`."""

from accelerate import Accelerator
from PIL import Image

from ddpm_ext.evaluation.generate import Sampling, generate
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from ddpm_ext.visualization import image_grid

from .arguments import Arguments


def sample_grid(pipeline: ImprovedDDPMPipeline, arguments: Arguments, accelerator: Accelerator) -> Image.Image:
    """`eval_batch_size` images, of all classes in turn; the processes share them, and all get the grid."""
    logging = arguments.logging
    sampling = Sampling(
        seed=arguments.training.seed,
        batch_size=-(-logging.eval_batch_size // accelerator.num_processes),
        num_inference_steps=logging.num_inference_steps,
        guidance_scale=getattr(logging, "guidance_scale", 1.0),
    )
    pipeline.unet.eval()
    classes = pipeline.unet.num_classes if isinstance(pipeline, ClassConditionalDDPMPipeline) else None
    labels = classes and [i % classes for i in range(logging.eval_batch_size)]
    images = generate(pipeline, logging.eval_batch_size, sampling, labels, accelerator)
    return image_grid(images, columns=classes and min(classes, 10))
