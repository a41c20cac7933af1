"""Feature networks whose weights come from the network: the published FID's Inception, and models of transformers."""

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .features import OFFLINE, weights_digest


_INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
_INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{_INCEPTION_WEIGHTS}"
_DINOV2 = "facebook/dinov2-large"
_SECONDS_TO_ANSWER = 5
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def inception(device: torch.device | str, argument: str = "features") -> Callable[[Tensor], Tensor]:
    """Inception-v3 in TensorFlow's 2015 form, resizing to 299x299 itself: uint8 (B, 3, H, W) to (B, 2048)."""
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3
    except ImportError:
        NoTrainInceptionV3 = None
    if NoTrainInceptionV3 is None or not _has("torch_fidelity"):
        raise ValueError(
            f"`{argument}` is inception, which needs torchmetrics and torch-fidelity: install ddpm-ext[eval]; "
            f"{OFFLINE}."
        )
    if not (Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION_WEIGHTS).is_file():
        _check_reachable(_INCEPTION_URL, argument, "inception")
    try:
        network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"])
    except (OSError, RuntimeError) as error:  # a download that breaks off, or a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`{argument}` is inception, whose weights could not be loaded ({reason}); {OFFLINE}."
        ) from error
    return network.eval().to(device)


def vision_model(
    name: str, device: torch.device | str, argument: str = "features"
) -> tuple[Callable[[Tensor], Tensor], str]:
    """A vision model of transformers, `dinov2` or any folder or repository, and the digest of its weights.

    A function of uint8 (B, 3, H, W) to (B, D): the embedding of a CLIP-like model, else the class token after the last
    layer where there is one, else the mean over places. `dinov2` sees images resized to 224x224 (bicubic) without a
    crop, as for FD-DINOv2; other models see what their own preprocessing makes of the images.
    """
    is_named = name == "dinov2"
    model, processor = _from_pretrained("AutoModel", _DINOV2 if is_named else name, argument, name)
    model = model.eval().to(device=device, dtype=torch.float32)

    def preprocess(images: Tensor) -> Tensor:
        return _for_dinov2(images) if is_named else _processed(processor, images)

    return lambda images: _embedding(model, preprocess(images)), f"{name}-{weights_digest(model)}"


def image_classifier(name: str, device: torch.device | str) -> tuple[Callable[[Tensor], Tensor], str]:
    """An image classifier of transformers: a function of uint8 (B, 3, H, W) to logits (B, K), and its digest."""
    model, processor = _from_pretrained("AutoModelForImageClassification", name, "classifier", name)
    model = model.eval().to(device=device, dtype=torch.float32)
    return lambda images: model(pixel_values=_processed(processor, images)).logits, f"{name}-{weights_digest(model)}"


def _processed(processor: Callable, images: Tensor) -> Tensor:
    return processor(images=list(images), return_tensors="pt")["pixel_values"].to(images.device)


def _accepted(argument: str) -> str:
    named, what = ("'nearest'", "an image classifier") if argument == "classifier" else (_FEATURES, "a vision model")
    return (
        f"{named}, a TorchScript file (FILE.ts), or a folder or Hub repository with {what} of transformers is accepted"
    )


_FEATURES = "'inception', 'dinov2', 'pixels'"


def _from_pretrained(kind: str, repository: str, argument: str, name: str) -> tuple[nn.Module, Callable]:
    """The model and its preprocessing; from the cache if they are there, which needs no network."""
    import transformers

    reason = ""
    for local_only in (True, False):
        if not local_only:
            if Path(repository).exists():
                break
            _check_reachable(f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{repository}", argument, name)
        try:
            model = getattr(transformers, kind).from_pretrained(repository, local_files_only=local_only)
            return model, transformers.AutoImageProcessor.from_pretrained(repository, local_files_only=local_only)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
    raise ValueError(f"`{argument}` is {name}, which could not be loaded ({reason}): {_accepted(argument)}.")


def _embedding(model: nn.Module, pixel_values: Tensor) -> Tensor:
    if hasattr(model, "get_image_features"):
        found = model.get_image_features(pixel_values=pixel_values)
        return found if isinstance(found, Tensor) else found.pooler_output
    hidden = model(pixel_values=pixel_values).last_hidden_state
    if hidden.ndim == 4:  # (B, D, h, w) of a convolutional network
        return hidden.mean((2, 3))
    embeddings = getattr(model, "embeddings", None)  # a pooler is not asked: many are saved without its weights
    return hidden[:, 0] if getattr(embeddings, "cls_token", None) is not None else hidden.mean(1)


def _for_dinov2(images: Tensor) -> Tensor:
    """(B, 3, 224, 224), normalised with ImageNet's mean and deviation."""
    resized = nn.functional.interpolate(images.float() / 255, (224, 224), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(x, device=images.device).view(3, 1, 1) for x in (_IMAGENET_MEAN, _IMAGENET_STD))
    return (resized.clamp(0, 1) - mean) / std


def _has(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _check_reachable(url: str, argument: str, name: str) -> None:
    """ValueError in seconds where the weights' server does not answer, which the libraries take minutes to find."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise ValueError(f"`{argument}` is {name}, and {url} does not exist: {_accepted(argument)}.") from error
    except OSError as error:
        raise ValueError(
            f"`{argument}` is {name}, whose weights are not on this machine, and {url.split('/')[2]} cannot be "
            f"reached: {OFFLINE}."
        ) from error
