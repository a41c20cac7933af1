"""Classifier-free guidance for samples of any shape."""

import torch
from diffusers import ModelMixin
from torch import Tensor


def guided_output(unet: ModelMixin, x_t: Tensor, t: Tensor, labels: Tensor, guidance_scale: float) -> Tensor:
    """The network's output with its first C channels guided; a learned variance stays that of the class.

    Guided is uncond + w (cond - uncond), w being `guidance_scale` (Ho & Salimans 2022, eq. 6, whose w is ours minus
    1).
    """
    if guidance_scale == 1:
        return unet(x_t, t, labels).sample
    both = torch.cat([labels, torch.full_like(labels, unet.null_class)])
    output = unet(torch.cat([x_t, x_t]), t.repeat(2), both).sample
    output = output.to(torch.promote_types(output.dtype, torch.float32))  # a difference of halves is rounded coarsely
    conditional, unconditional = output.chunk(2)
    channels = x_t.shape[1]
    guided = torch.lerp(unconditional[:, :channels], conditional[:, :channels], guidance_scale)
    return torch.cat([guided, conditional[:, channels:]], dim=1)
