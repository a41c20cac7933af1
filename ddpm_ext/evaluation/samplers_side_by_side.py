"""Several samplers of one model side by side: the same noise, the same weights, a row of images for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from ddpm_ext.evaluation.generate import Sampling, check_sampling, generate
from ddpm_ext.pipelines import ImprovedDDPMPipeline
from ddpm_ext.schedulers.samplers import make_sampler
from ddpm_ext.visualization import labelled_grid, opaque_image


@dataclass(frozen=True)
class Choice:
    """A sampler, its steps and, for DDIM, its share of noise, as `parse` reads them from "ddim:50:0.5"."""

    sampler: str
    steps: int | str
    eta: float | None

    def __str__(self) -> str:
        return f"{self.sampler}, {self.steps} steps" + (f", eta {self.eta:g}" if self.eta is not None else "")


def parse(entry: str) -> Choice:
    """SAMPLER:STEPS or SAMPLER:STEPS:ETA; ValueError otherwise."""
    parts = entry.split(":")
    try:
        eta = float(parts[2]) if len(parts) == 3 else None
    except ValueError:
        eta = -1.0
    if len(parts) not in (2, 3) or not all(parts) or not 0 <= (eta or 0) <= 1 or (eta and parts[0] != "ddim"):
        raise ValueError(
            f"`compare` holds '{entry}': SAMPLER:STEPS is accepted, such as ddpm:250, and for ddim also its share of "
            "noise from 0 to 1, such as ddim:50:0.5."
        )
    return Choice(parts[0], int(parts[1]) if parts[1].isdecimal() else parts[1], eta)


def draw_each(
    pipeline: ImprovedDDPMPipeline,
    choices: Sequence[Choice],
    num_images: int,
    sampling: Sampling,
    class_labels: Sequence[int] | None = None,
    accelerator: Accelerator | None = None,
) -> Iterator[Tensor]:
    """The images of each choice, uint8 (N, C, H, W), from the noise that `sampling.seed` settles for all of them.

    All choices are checked before the first is drawn.
    """
    trained, settings = pipeline.scheduler, []
    for choice in choices:
        scheduler = make_sampler(choice.sampler, trained)
        settings.append((scheduler, replace(sampling, num_inference_steps=choice.steps, eta=choice.eta)))
        pipeline.scheduler = scheduler
        check_sampling(pipeline, settings[-1][1], class_labels is not None)
    for choice, (scheduler, own) in zip(choices, settings, strict=True):
        pipeline.scheduler = scheduler
        yield generate(pipeline, num_images, own, class_labels, accelerator, progress=str(choice))
    pipeline.scheduler = trained


def comparison_grid(
    choices: Sequence[Choice], drawn: Sequence[Tensor], class_names: Sequence[str] = ()
) -> Image.Image:
    """A row for each choice, with its name; `class_names`, one per image, stand above."""
    return opaque_image(labelled_grid([list(images) for images in drawn], list(map(str, choices)), class_names))
