"""Unconditional images from a U-Net of any prediction and variance type, with our scheduler or any stock one."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ddpm_ext.freed_memory import keep_freed_memory
from ddpm_ext.publishing.carried_code import CarriesCode
from ddpm_ext.schedulers.stock import sampler_for


Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[[DiffusionPipeline, int, int | float, dict[str, Tensor]], dict[str, Tensor] | None]


class ImprovedDDPMPipeline(CarriesCode, DiffusionPipeline):
    """Samples images from `unet`, a UNet2DModel or a network that is called as one, by `scheduler`.

    The scheduler's config says what the network predicts. A stock scheduler made by `from_config` from it works with
    every prediction and variance type:

        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    """

    model_cpu_offload_seq = "unet"
    _num_timesteps = 0

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @property
    def example(self) -> str:
        """A line of Python that draws a few samples from the pipeline, called `pipe`."""
        return "images = pipe(batch_size=16).images"

    @property
    def num_timesteps(self) -> int:
        """How many steps the call at hand takes, or the last one took."""
        return self._num_timesteps

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool = True,
        token: str | None = None,
        create_pr: bool = False,
        licence: str | None = None,
    ) -> str:
        """Uploads the pipeline and its model card to `repo_id`, and returns the address of the commit.

        A repository that does not exist is made, private unless `private` is false. `licence` is the card's, such as
        "mit". A pipeline that was loaded from the folder of a run gets a card that tells how it was trained.
        """
        # Imported here, as exports that need no ddpm_ext go without this method.
        from ddpm_ext.publishing.uploads import add_run, upload_folder

        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            add_run(Path(folder), Path(self.config.get("_name_or_path") or folder))
            message = commit_message or "Upload the pipeline"
            return upload_folder(Path(folder), repo_id, private, token, licence, message, create_pr)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        num_inference_steps: int | str = 250,
        eta: float | None = None,
        noise: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
    ) -> ImagePipelineOutput | tuple[object]:
        """Images in [0, 1].

        `generator`: one, or a list with one per image, so that an image does not depend on the batch it is made in.
        `num_inference_steps`: at most the training chain's; with ImprovedDDPMScheduler also "10,15,25" or "ddim50".
        `eta`: DDIM's share of noise, 0 to 1. `noise`: standard normal x_T, (B, C, H, W), instead of drawing it.
        `output_type`: "pil" for a list of images, "np" for (B, H, W, C), "pt" for a (B, C, H, W) tensor.
        `callback_on_step_end(pipeline, step, timestep, tensors)`: called after each step, with any scheduler;
        `timestep` is the training chain's, perhaps fractional. `tensors` are named as by schedulers, (B, C, H, W) in
        [-1, 1] and noise: "sample" x_t as the network saw it, "pred_original_sample" the x_0 that it predicted from
        it, clipped, and "prev_sample", which is replaced where the callback returns another one.
        """
        return self._sample(
            self.unet,
            batch_size,
            generator,
            num_inference_steps,
            eta,
            noise,
            output_type,
            return_dict,
            callback_on_step_end,
        )

    def _sample(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        batch_size: int,
        generator: Generators,
        num_inference_steps: int | str,
        eta: float | None,
        noise: Tensor | None,
        output_type: str,
        return_dict: bool,
        callback_on_step_end: StepCallback | None,
    ) -> ImagePipelineOutput | tuple[object]:
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"`output_type` is {output_type!r}: 'pil', 'np' or 'pt' is accepted.")
        noise = self.initial_noise(batch_size, generator, noise)
        x_0 = self._denoise(predict, noise, generator, num_inference_steps, eta, callback_on_step_end)
        images = self._decode(x_0, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _denoise(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        noise: Tensor,
        generator: Generators,
        num_inference_steps: int | str,
        eta: float | None,
        callback_on_step_end: StepCallback | None,
    ) -> Tensor:
        """Ho et al. 2020, algorithm 2, from `noise` for a network `predict(x_t, t)` with t of shape (B,)."""
        sampler = sampler_for(self.scheduler)
        sampler.set_timesteps(num_inference_steps)  # on the host: a step then reads nothing back from the device
        self._num_timesteps = len(sampler.timesteps)
        x = noise * sampler.init_noise_sigma
        dtype = self.unet.dtype  # which diffusers looks for in all of its modules
        if x.device.type == "cpu":
            keep_freed_memory()
        for step, timestep in enumerate(self.progress_bar(sampler.timesteps)):
            scaled = sampler.scale_model_input(x, timestep)
            told = sampler.network_timestep(timestep)
            told = told.item() if isinstance(told, Tensor) else told  # of the host: it waits for no device
            t = torch.full((len(x),), told, device=x.device)
            output = predict(scaled.to(dtype), t)[0].to(x.dtype)
            done = sampler.step(output, timestep, x, generator=generator, eta=eta)
            x = done.prev_sample
            if callback_on_step_end is not None:
                tensors = {"sample": scaled, "pred_original_sample": done.pred_original_sample, "prev_sample": x}
                x = (callback_on_step_end(self, step, told, tensors) or {}).get("prev_sample", x)
        return x

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample: (C, H, W)."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    def initial_noise(self, batch_size: int, generator: Generators = None, noise: Tensor | None = None) -> Tensor:
        """The x_T, float32 (B, C, H, W), that a call with these arguments starts from."""
        shape = (batch_size, *self.sample_shape)
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(
                f"`generator` is a list of {len(generator)}: one per sample, here {batch_size}, is accepted."
            )
        if noise is None:
            return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        if tuple(noise.shape) != shape:
            raise ValueError(f"`noise` has shape {tuple(noise.shape)}: {shape} is accepted.")
        return noise.to(self._execution_device, torch.float32)

    def _decode(self, x: Tensor, output_type: str) -> object:
        """[-1, 1] to [0, 1] in the form asked for."""
        images = (x / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        images = images.cpu().permute(0, 2, 3, 1).numpy()
        return images if output_type == "np" else self.numpy_to_pil(images)
