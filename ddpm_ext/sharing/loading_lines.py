"""The lines of Python that open a model and draw from it, as scripts print them and cards show them."""

from diffusers import DiffusionPipeline, UNet2DModel


def package_lines(pipeline: DiffusionPipeline, where: str) -> str:
    """For a folder or repository `where` as our pipelines save it: ddpm_ext must be installed."""
    return f"import ddpm_ext\n{_pipeline_lines(pipeline, where, '')}"


def self_contained_lines(pipeline: DiffusionPipeline, where: str) -> str:
    """For a folder or repository that carries its code: diffusers suffices, and the code is run."""
    return _pipeline_lines(pipeline, where, ", trust_remote_code=True")


def plain_lines(unet: UNet2DModel, where: str) -> str:
    """For stock classes; diffusers has no pipeline that asks for classes, hence the steps that it would take."""
    opened = f"""from diffusers import DDPMPipeline

pipe = DDPMPipeline.from_pretrained("{where}")
"""
    if unet.config.num_class_embeds is None:
        return f"{opened}images = pipe(batch_size=16).images\n"
    labels = _some_labels(unet)
    shape = (len(labels), *sample_shape(unet))
    return f"""import torch
{opened}pipe.scheduler.set_timesteps(250)
class_labels = torch.tensor({labels})
x = torch.randn({shape})
for t in pipe.scheduler.timesteps:
    with torch.no_grad():
        x = pipe.scheduler.step(pipe.unet(x, t, class_labels).sample, t, x).prev_sample
images = pipe.numpy_to_pil((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())
"""


def sample_shape(unet: UNet2DModel) -> tuple[int, int, int]:
    """(C, H, W) of the images that a network alone is for."""
    size = unet.config.sample_size
    return (unet.config.in_channels, *((size, size) if isinstance(size, int) else size))


def _pipeline_lines(pipeline: DiffusionPipeline, where: str, options: str) -> str:
    return f"""from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{where}"{options})
{pipeline.example}
"""


def _some_labels(unet: UNet2DModel) -> list[int]:
    return list(range(min(3, unet.config.num_class_embeds - 1)))
