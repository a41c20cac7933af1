"""Images of given classes, with classifier-free guidance."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

import torch
from diffusers import ImagePipelineOutput, ModelMixin, SchedulerMixin
from torch import Tensor

from .guidance import guided_output
from .pipeline_improved_ddpm import Generators, ImprovedDDPMPipeline, StepCallback


class ClassConditionalDDPMPipeline(ImprovedDDPMPipeline):
    """Samples images of the classes asked for from a ClassConditionalUNet2DModel or OneHotUNet2DModel.

    `id2label` maps class ids to names, {"0": "airplane", ...} (strings, because it is saved as JSON); without it the
    classes have no names but their ids.
    """

    def __init__(
        self,
        unet: ModelMixin,  # diffusers warns of classes that are none of the named, such as another network
        scheduler: SchedulerMixin,
        id2label: Mapping[str, str] | None = None,
    ):
        super().__init__(unet, scheduler)
        self.register_to_config(id2label=None if id2label is None else {str(k): str(v) for k, v in id2label.items()})

    @property
    def class_names(self) -> list[str]:
        """One name per class, in the order of their ids."""
        names = self.config.id2label or {}
        return [names.get(str(label), str(label)) for label in range(self.unet.num_classes)]

    @property
    def example(self) -> str:
        return f"images = pipe(class_labels={list(range(min(3, self.unet.num_classes)))}).images"

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | Tensor,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        num_inference_steps: int | str = 250,
        eta: float | None = None,
        noise: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
    ) -> ImagePipelineOutput | tuple[object]:
        """One image in [0, 1] per entry of `class_labels`, which are ids or names.

        `guidance_scale` w: the prediction is moved to uncond + w (cond - uncond); 1 is none, 0 ignores the class. (Ho
        & Salimans 2022 count from 0: their w is ours minus 1.) The other arguments are those of ImprovedDDPMPipeline.
        """
        if guidance_scale != 1 and not self.unet.knows_null_class:
            raise ValueError(
                f"`guidance_scale` is {guidance_scale}: only 1 is accepted, since this network was never shown images "
                "without their class; training it further with label dropout opens the others."
            )
        labels = torch.tensor(self.label_ids(class_labels), device=self._execution_device)

        def predict(x_t: Tensor, t: Tensor) -> tuple[Tensor]:
            return (guided_output(self.unet, x_t, t, labels, guidance_scale),)

        return self._sample(
            predict,
            len(labels),
            generator,
            num_inference_steps,
            eta,
            noise,
            output_type,
            return_dict,
            callback_on_step_end,
        )

    def label_ids(self, class_labels: int | str | Sequence[int | str] | Tensor) -> list[int]:
        """The ids of `class_labels`; a ValueError names the first that is not a class of this model."""
        if isinstance(class_labels, Tensor):
            class_labels = class_labels.tolist()
        is_one = isinstance(class_labels, str) or not isinstance(class_labels, Iterable)
        entries = [class_labels] if is_one else list(class_labels)
        if not entries:
            raise ValueError("`class_labels` is empty: at least one class id or name is accepted.")
        names = self.class_names
        ids = {name: label for label, name in enumerate(names)}
        return [self._label_id(entry, names, ids) for entry in entries]

    @staticmethod
    def _label_id(entry: int | str, names: list[str], ids: dict[str, int]) -> int:
        if isinstance(entry, str) and entry in ids:
            return ids[entry]
        number = int(entry) if str(entry).isdecimal() else None  # 3, "3" and numpy's 3, but neither True nor 1.5
        if number is not None and number < len(names):
            return number
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        near = difflib.get_close_matches(str(entry), names, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(
            f"`class_labels` holds {entry!r}: ids 0 to {len(names) - 1} or names ({shown}) are accepted.{hint}"
        )
