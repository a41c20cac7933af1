"""The data set, the network, the process and the loss that a script's arguments describe."""

import sys
from collections.abc import Callable
from dataclasses import asdict

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ModelMixin, UNet2DModel
from torch import Tensor

from ddpm_ext.data.images import ImageData, load_images
from ddpm_ext.data.points import PointData, load_points
from ddpm_ext.diffusion import (
    P2,
    FlowMatching,
    GaussianDiffusion,
    LogitNormalTimes,
    LossSecondMomentTimesteps,
    MinSNR,
    Parameterization,
    TimestepSampler,
    TrainingLoss,
    UniformTimes,
    UniformTimesteps,
)
from ddpm_ext.models import (
    ClassConditionalUNet2DModel,
    ConvDenoiser,
    ImprovedUNet2DModel,
    MLPDenoiser,
    OneHotUNet2DModel,
    is_blind_to_brightness,
    is_stock,
    unet_config,
    zero_initialize,
)
from ddpm_ext.schedulers import ImprovedDDPMScheduler
from ddpm_ext.schedulers.flow_matching import flow_scheduler

from .arguments import Arguments
from .model_arguments import ModelArguments
from .processes import is_main_process


def load_training_images(arguments: Arguments) -> ImageData:
    """The split that is trained on; of several processes, the main one shows how the reading goes."""
    data = _load_split(arguments, arguments.data.train_split)
    data.random_flip = arguments.data.random_flip
    return data


def load_held_out_images(arguments: Arguments) -> ImageData:
    """The split that is held out; it must have the channels of the one that is trained on."""
    return _load_split(arguments, arguments.data.test_split)


def _load_split(arguments: Arguments, split: str) -> ImageData:
    data = arguments.data
    return load_images(
        dataset_name=data.dataset_name,
        dataset_config_name=data.dataset_config_name,
        train_data_dir=data.train_data_dir,
        split=split,
        resolution=data.resolution,
        center_crop=data.center_crop,
        image_channels=data.image_channels,
        image_column=data.image_column,
        label_column=data.label_column,
        cache_dir=data.cache_dir,
        preserve_input_precision=data.preserve_input_precision,
        skip_bad_images=data.skip_bad_images,
        num_workers=data.dataloader_num_workers,
        show_progress=is_main_process(),
        streaming=data.streaming,
        shuffle_window=data.shuffle_window,
    )


def load_training_points(arguments: Arguments) -> PointData:
    """The points that are trained on."""
    return load_points(arguments.data.dataset_name, arguments.data.num_points, arguments.training.seed)


def build_mlp(arguments: Arguments, data: PointData) -> MLPDenoiser:
    """An untrained network for `data`, class-conditional where that is asked for; the seed settles its weights."""
    is_conditional = arguments.training.class_conditional
    if is_conditional and data.num_classes is None:
        raise ValueError(
            f"`class_conditional` is true, but the points of '{arguments.data.dataset_name}' have no classes."
        )
    if arguments.logging.guidance_scale != 1 and not is_conditional:
        raise ValueError(
            f"`guidance_scale` is {arguments.logging.guidance_scale} but `class_conditional` is false: there is no "
            "class to guide towards, and only 1 is accepted."
        )
    torch.manual_seed(arguments.training.seed)
    (coordinates,) = data.shape
    return MLPDenoiser(
        in_channels=coordinates,
        out_channels=2 * coordinates if arguments.process.learns_variance else coordinates,
        hidden_sizes=tuple(arguments.model.hidden_sizes or (128, 128, 128)),
        num_class_embeds=data.num_classes + 1 if is_conditional else None,
    )


def build_unet(arguments: Arguments, data: ImageData, num_classes: int | None = None) -> ModelMixin:
    """An untrained network for `data`, class-conditional where `num_classes` is given; the seed settles its weights.

    With `model_config_name_or_path` it is the network of that configuration, which must fit the data's channels and
    the variance type.
    """
    channels, height, width = data.shape
    learns_variance = arguments.process.learns_variance
    outputs = 2 * channels if learns_variance else channels
    model = arguments.model
    if model.model_config_name_or_path is not None:
        config = _load_config(model.model_config_name_or_path)
        _check_config(config, channels, outputs, num_classes)
        config["sample_size"] = height if height == width else (height, width)
    elif model.model_type != "unet":
        config = _small_config(model, channels, outputs, num_classes)
        config["sample_size"] = height if height == width else (height, width)
    else:
        config = unet_config(
            sample_size=(height, width),
            channels=channels,
            learns_variance=learns_variance,
            num_classes=num_classes,
            block_out_channels=model.block_out_channels,
            layers_per_block=model.layers_per_block,
            attention_resolutions=model.attention_resolutions,
            attention_head_dim=model.attention_head_dim,
            dropout=model.dropout,
            resnet_time_scale_shift=model.resnet_time_scale_shift,
            norm_num_groups=model.norm_num_groups,
        )
    unconditional = UNet2DModel if is_stock(config) else ImprovedUNet2DModel
    network = unconditional if num_classes is None else ClassConditionalUNet2DModel
    network = _SMALL_NETWORKS.get(config.get("_class_name"), network)
    if network is OneHotUNet2DModel and arguments.training.train_batch_size < 2:
        raise ValueError(
            "`train_batch_size` is 1: batch norm compares the images of a batch, so at least 2 is accepted."
        )
    torch.manual_seed(arguments.training.seed)
    unet = network.from_config(config)
    if isinstance(unet, UNet2DModel):
        zero_initialize(unet)
        if is_blind_to_brightness(unet) and is_main_process():
            print(
                f"note: `norm_num_groups` is {unet.config.norm_num_groups}, and each channel before the output is a "
                "group of its own: the network cannot say how bright the noise is, and samples may be tinted.",
                file=sys.stderr,
            )
    return unet


_SMALL_NETWORKS = {network.__name__: network for network in (OneHotUNet2DModel, ConvDenoiser)}


def _small_config(model: ModelArguments, channels: int, outputs: int, num_classes: int | None) -> dict[str, object]:
    """The constructor arguments of the network that `model_type` names but its size, and its class as configurations
    say it."""
    config: dict[str, object] = {"in_channels": channels, "out_channels": outputs}
    widths = model.block_out_channels
    if model.model_type == "one_hot_unet":
        config |= {"_class_name": "OneHotUNet2DModel", "num_class_embeds": num_classes and num_classes + 1}
        return config if widths is None else config | {"block_out_channels": tuple(widths)}
    if num_classes is not None:
        raise ValueError("`model_type` is 'conv', which knows no classes: 'unet' or 'one_hot_unet' is accepted.")
    if widths is not None and len(widths) > 1:
        raise ValueError(f"`block_out_channels` is {widths}: with `model_type` 'conv', one number is accepted.")
    config |= {"_class_name": "ConvDenoiser"}
    return config if widths is None else config | {"hidden_channels": widths[0]}


def build_scheduler(arguments: Arguments) -> ImprovedDDPMScheduler | FlowMatchEulerDiscreteScheduler:
    """The scheduler that the model is saved with; `process_of` it is what training adds noise by."""
    if arguments.training.objective == "flow_matching":
        return flow_scheduler({"num_train_timesteps": arguments.process.num_train_timesteps})
    return ImprovedDDPMScheduler(**asdict(arguments.process))


def build_loss(
    arguments: Arguments, process: GaussianDiffusion | FlowMatching
) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The loss that is minimised, of (model_output, x_0, x_t, noise, t): (B,)."""
    if isinstance(process, FlowMatching):
        return process.loss
    training = arguments.training
    weightings = {
        "none": None,
        "min_snr": MinSNR(training.min_snr_gamma),
        "p2": P2(training.p2_gamma, training.p2_k),
    }
    weighting = weightings[training.loss_weighting]
    parameterization = Parameterization(arguments.process.prediction_type, arguments.process.variance_type)
    return TrainingLoss(process, parameterization, training.loss, training.vlb_weight, weighting)


def build_timestep_sampler(arguments: Arguments, process: GaussianDiffusion | FlowMatching) -> TimestepSampler:
    """What chooses the timesteps of a batch."""
    samplers = {"uniform": UniformTimesteps, "loss_second_moment": LossSecondMomentTimesteps}
    if isinstance(process, FlowMatching):
        samplers = {"uniform": UniformTimes, "logit_normal": LogitNormalTimes}
    return samplers[arguments.training.timestep_sampler](process.num_timesteps)


def _load_config(name_or_path: str) -> dict[str, object]:
    for subfolder in ("", "unet"):
        try:
            return dict(UNet2DModel.load_config(name_or_path, subfolder=subfolder or None))
        except (OSError, ValueError):
            continue
    raise ValueError(
        f"`model_config_name_or_path` is '{name_or_path}': a folder, file or Hub repository with a U-Net's "
        "config.json (at its root or in unet/) is accepted, and none could be read there."
    )


def _check_config(config: dict[str, object], channels: int, outputs: int, num_classes: int | None) -> None:
    found = config.get("in_channels"), config.get("out_channels")
    if found[0] != channels:
        raise ValueError(f"`in_channels` of the model's config is {found[0]}: the images have {channels} channels.")
    if found[1] != outputs:
        raise ValueError(
            f"`out_channels` of the model's config is {found[1]}: with this `variance_type` and images of {channels} "
            f"channels, {outputs} is accepted (a learned variance takes as many channels again)."
        )
    if num_classes is not None and config.get("num_class_embeds") != num_classes + 1:
        raise ValueError(
            f"`num_class_embeds` of the model's config is {config.get('num_class_embeds')}: the data set has "
            f"{num_classes} classes, so {num_classes + 1} (one more for 'no class') is accepted."
        )


def names_of_classes(data: ImageData) -> dict[str, str]:
    """The classes of `data` by id, {"0": name, ...}; a ValueError where it has no labels."""
    if data.class_names is None:
        raise ValueError(
            "`label_column` names no column, and the data set has no labels that could be found: a class-conditional "
            f"model needs them (columns: {', '.join(data.columns)})."
        )
    return {str(label): name for label, name in enumerate(data.class_names)}
