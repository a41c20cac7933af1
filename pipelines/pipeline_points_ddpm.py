"""Points in the plane from an MLPDenoiser, with our scheduler or any stock one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from .guidance import guided_output
from .pipeline_improved_ddpm import Generators, ImprovedDDPMPipeline, StepCallback


@dataclass
class PointsPipelineOutput(BaseOutput):
    """`points`: float32 (N, 2)."""

    points: Tensor


class PointsDDPMPipeline(ImprovedDDPMPipeline):
    """Samples points from `unet`, an MLPDenoiser, by `scheduler`.

    The network keeps the name `unet`: checkpoints, averages, exports and stock samplers then need no second path.
    """

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin):
        super().__init__(unet, scheduler)

    @property
    def example(self) -> str:
        return "points = pipe(num_points=1000).points"

    @torch.no_grad()
    def __call__(
        self,
        num_points: int = 1000,
        class_labels: int | Sequence[int] | Tensor | None = None,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        num_inference_steps: int | str = 250,
        eta: float | None = None,
        noise: Tensor | None = None,
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
    ) -> PointsPipelineOutput | tuple[Tensor]:
        """`num_points` points, on the model's device.

        `class_labels`: for a model that knows classes, one for all points or one for each; None is no class.
        The other arguments are those of ClassConditionalDDPMPipeline, with tensors of shape (N, 2).
        """
        if num_points < 1:
            raise ValueError(f"`num_points` is {num_points}: at least 1 is accepted.")
        labels = self._labels(class_labels, num_points)
        if labels is None and guidance_scale != 1:
            raise ValueError(
                f"`guidance_scale` is {guidance_scale}, but no `class_labels` are given: there is no class to guide "
                "towards, and only 1 is accepted."
            )

        def predict(x_t: Tensor, t: Tensor) -> tuple[Tensor]:
            if labels is None:
                return (self.unet(x_t, t).sample,)
            return (guided_output(self.unet, x_t, t, labels, guidance_scale),)

        noise = self.initial_noise(num_points, generator, noise)
        points = self._denoise(predict, noise, generator, num_inference_steps, eta, callback_on_step_end)
        self.maybe_free_model_hooks()
        return PointsPipelineOutput(points=points) if return_dict else (points,)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one point: (2,)."""
        return (self.unet.config.in_channels,)

    def _labels(self, class_labels: int | Sequence[int] | Tensor | None, num_points: int) -> Tensor | None:
        if class_labels is None:
            return None
        if self.unet.num_classes is None:
            raise ValueError("`class_labels` was given, but the model is unconditional and knows no classes.")
        labels = torch.as_tensor(class_labels)
        if labels.is_floating_point() or labels.dtype == torch.bool or labels.numel() not in (1, num_points):
            raise ValueError(
                f"`class_labels` has shape {tuple(labels.shape)} and dtype {labels.dtype}: one whole number, or one "
                f"for each of {num_points} points, is accepted."
            )
        wrong = labels[(labels < 0) | (labels >= self.unet.num_classes)]
        if len(wrong):
            raise ValueError(f"`class_labels` holds {wrong[0]}: 0 to {self.unet.num_classes - 1} are accepted.")
        return labels.long().flatten().expand(num_points).to(self._execution_device)
