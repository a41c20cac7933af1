"""Says a model in the terms of diffusers alone: a UNet2DModel of C channels out, a DDPMScheduler of fixed variance.

What cannot be said is left out by name: the learned half of a network's output, class names, guidance. What would
come out as another model is refused.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, SchedulerMixin, UNet2DModel
from torch import Tensor

from ..diffusion.parameterization import Parameterization, ddim_distribution
from ..diffusion.respacing import space_timesteps
from ..models import is_stock
from ..schedulers import ImprovedDDPMScheduler
from ..schedulers.flow_matching import is_flow_matching
from ..schedulers.stock import trained_scheduler
from .loading_lines import sample_shape


@dataclass(frozen=True)
class PlainModel:
    """A pipeline of stock classes; `left_out` are the parts of the model that it lacks, as noun phrases.

    DDPMPipeline samples unconditional models only. Of a class-conditional one it is the wrapping: its network takes
    `class_labels`, of which the last means "no class".
    """

    pipeline: DDPMPipeline
    left_out: tuple[str, ...]


def to_plain_diffusers(pipeline: DiffusionPipeline, class_label: int | str | None = None) -> PlainModel:
    """`pipeline` in stock terms; ValueError, in one sentence, where there are none for it.

    `class_label`: of a class-conditional model, the class (id or name, or "none" for no class) that the exported one
    always draws. It then is unconditional: the class is added to the bias of the time embedding.
    """
    scheduler = _trained(pipeline.scheduler)
    network = getattr(pipeline, "unet", None)
    if not isinstance(network, UNet2DModel):
        raise ValueError(
            f"`format` is 'diffusers', but the network is a {type(network).__name__}: a UNet2DModel is accepted, and "
            "for any network of ddpm_ext 'self_contained'."
        )
    if not is_stock(network.config):
        raise ValueError(
            "`format` is 'diffusers', but the network has equally many heads on levels of different widths, or "
            "OpenAI's timestep embedding, for which a UNet2DModel has no word: 'self_contained' is accepted."
        )
    takes_labels = network.config.num_class_embeds is not None
    label = None if class_label is None else _label_id(pipeline, class_label)
    unet = _plain_unet(network, label)
    left_out = []
    variance_type = scheduler.parameterization.variance_type
    if scheduler.parameterization.learns_variance:
        variance_type = closest_fixed_variance(scheduler, _predictor(network, label), sample_shape(network))
        left_out.append(f"the learned variance ('{variance_type}' is the fixed one closest to it)")
    if takes_labels:
        left_out.append("class names and guidance" if label is None else "all other classes, and guidance")
    return PlainModel(DDPMPipeline(unet, _plain_scheduler(scheduler, variance_type)), tuple(left_out))


def _trained(scheduler: SchedulerMixin) -> ImprovedDDPMScheduler:
    """The scheduler that the model was trained with, if stock ones can stand for it."""
    if is_flow_matching(scheduler):
        raise ValueError(
            "`format` is 'diffusers', but the model was trained by flow matching, which a DDPMPipeline cannot sample "
            "from: 'self_contained' is accepted."
        )
    if "beta_schedule" not in scheduler.config:
        raise ValueError(
            f"`format` is 'diffusers', but {type(scheduler).__name__} has no noise schedule of betas, which a "
            "DDPMScheduler is made of: 'self_contained' is accepted."
        )
    trained = trained_scheduler(scheduler.config)
    if trained.parameterization.prediction_type == "mean":
        raise ValueError(
            "`format` is 'diffusers', but the model predicts the posterior mean ('mean'), for which stock schedulers "
            "have no word: 'self_contained' is accepted."
        )
    return trained


def _label_id(pipeline: DiffusionPipeline, class_label: int | str) -> int:
    if not hasattr(pipeline, "label_ids"):
        raise ValueError(f"`class_label` is {class_label!r}, but the model knows no classes.")
    is_none = class_label == "none" and "none" not in pipeline.class_names
    return pipeline.unet.null_class if is_none else pipeline.label_ids(class_label)[0]


# ---------------------------------------------------------------------- the network


@torch.no_grad()
def _plain_unet(network: UNet2DModel, label: int | None) -> UNet2DModel:
    """`network` without its variance channels and, where `label` is given, with that class built in."""
    known = inspect.signature(UNet2DModel.__init__).parameters
    config = {name: value for name, value in network.config.items() if name in known}
    config["out_channels"] = config["in_channels"]
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    for name in ("conv_out.weight", "conv_out.bias"):
        weights[name] = weights[name][: config["in_channels"]].clone()
    if label is not None:
        config["num_class_embeds"] = None
        # Both embeddings are added up before anything reads them.
        embedding = weights.pop("class_embedding.weight")[label]
        weights["time_embedding.linear_2.bias"] = weights["time_embedding.linear_2.bias"] + embedding
    unet = UNet2DModel(**config).eval()
    unet.load_state_dict(weights, assign=True)  # and their device and dtype
    _check_same(network, unet, label)
    return unet


def _check_same(network: UNet2DModel, unet: UNet2DModel, label: int | None) -> None:
    """ValueError where the stock network does not return what `network` does: then it has parts of its own."""
    x_t = torch.randn((2, *sample_shape(network)), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 1])
    expected = _predictor(network, label)(x_t, t)[:, : x_t.shape[1]]
    difference = (_predictor(unet, None)(x_t, t) - expected).abs().max()
    if not difference <= torch.finfo(network.dtype).eps ** 0.5 * (1 + expected.abs().max()):
        raise ValueError(
            f"`format` is 'diffusers', but the network, a {type(network).__name__}, computes something else than a "
            "UNet2DModel of its configuration: 'self_contained' is accepted."
        )


def _predictor(network: UNet2DModel, label: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    """`network` as a function of (x_t, t), float32 on the host: of class `label`, or of all classes in turn."""

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        labels = {}
        if network.config.num_class_embeds is not None:
            turns = torch.arange(len(x_t)) % max(1, network.config.num_class_embeds - 1)
            labels["class_labels"] = (turns if label is None else torch.full_like(turns, label)).to(network.device)
        output = network(x_t.to(network.device, network.dtype), t.to(network.device), **labels).sample
        return output.float().cpu()

    return predict


# ---------------------------------------------------------------------- the scheduler


def _plain_scheduler(scheduler: ImprovedDDPMScheduler, variance_type: str) -> DDPMScheduler:
    known = inspect.signature(DDPMScheduler.__init__).parameters
    config = {name: value for name, value in scheduler.config.items() if name in known}
    if config["clip_sample"] and config["clip_sample_range"] == 1 and not config["thresholding"]:
        # The same in words that DPM-Solver++, UniPC, DEIS and SA-Solver know as well. Without them they never recover
        # from the end of a cosine schedule, where a small error in the noise is an x_0 of thousands.
        config |= {"thresholding": True, "sample_max_value": 1.0}
    return DDPMScheduler(**{**config, "variance_type": variance_type})


@torch.no_grad()
def closest_fixed_variance(
    scheduler: ImprovedDDPMScheduler,
    predict: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, int, int],
    images: int = 4,
    steps: int = 20,
) -> str:
    """'fixed_small' or 'fixed_large', whichever has the log-variance nearer to what a model has learned.

    Compared in the mean over the steps in which `images` of them are drawn by DDIM, as it meets these x_t when used.
    """
    training, parameterization = scheduler.process, scheduler.parameterization
    chain = training.respace(space_timesteps(training.num_timesteps, min(steps, training.num_timesteps)))
    x_t = torch.randn((images, *shape), generator=torch.Generator().manual_seed(0))
    distance = dict.fromkeys(("fixed_small", "fixed_large"), 0.0)
    for row in reversed(range(chain.num_timesteps)):
        t = chain.timesteps[row]
        output = predict(x_t, t.expand(images))
        learned = parameterization.log_variance(training, parameterization.split(output, x_t)[1], x_t, int(t))
        for name in distance:
            fixed = Parameterization(variance_type=name).log_variance(training, None, x_t, int(t))
            distance[name] += float((learned - fixed).abs().mean())
        x_0, _ = parameterization.reverse(chain, output, x_t, row, scheduler.clip)
        x_t = ddim_distribution(chain, x_0, x_t, row).mean
    return min(distance, key=distance.get)
