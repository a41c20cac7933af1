"""What images are compared by: networks, or the pixels themselves, behind one function of 8-bit images.

    inception    Inception-v3 of the published FID, 2048 features        weights from GitHub, by torch-fidelity
    dinov2       DINOv2 ViT-L/14 of FD-DINOv2 (Stein et al. 2023), 1024  weights from the Hub, by transformers
    FILE.ts      any TorchScript file: float32 (B, C, H, W) in [-1, 1], of the images' own size, to (B, D)
    FOLDER|REPO  any vision model of transformers, with the preprocessing that is saved beside it
    pixels       in [-1, 1], averaged down to 32x32 where there are more

Networks run in evaluation mode, in float32 without TF32, and with deterministic kernels.
"""

import difflib
import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ddpm_ext.data.decoding import MAX_8_BIT
from ddpm_ext.data.images import to_unit_range


OFFLINE = "'pixels', a TorchScript file (FILE.ts) or a folder with a vision model of transformers needs no network"
_NAMED = ("inception", "dinov2", "pixels")
_MOST_PIXELS = 32


class Extractor:
    """Features of images: `extractor(images)` takes uint8 (B, C, H, W) and returns float32 (B, D) on the CPU.

    Attributes:
        name: what the user calls it.
        fingerprint: differs where the features would.
    """

    def __init__(
        self,
        name: str,
        fingerprint: str,
        network: Callable[[Tensor], Tensor],
        device: torch.device | str = "cpu",
        channels: int | None = None,
        argument: str = "features",
    ) -> None:
        """`network` maps uint8 images on `device`, of `channels` channels, to (B, ...); None: it is tried out which.

        `argument` is what errors call it.
        """
        self.name, self.fingerprint, self._argument = name, fingerprint, argument
        self._network, self._device = network, torch.device(device)
        self._channels = dict.fromkeys((1, 3), channels) if channels is not None else {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        own = images.shape[1]
        if own not in self._channels:
            self._channels[own] = self._accepted_channels(images)
        with _exact_float32(self._device):
            features = self._network(self._with_channels(images, self._channels[own]).to(self._device))
        features = features.flatten(1).float().cpu()
        if not features.isfinite().all():
            raise ValueError(f"`{self._argument}` is {self.name}, which gives NaN or infinity for some of the images.")
        return features

    @property
    def label(self) -> str:
        """The name for readers: of a file or a folder, without the way to it."""
        return Path(self.name).name if Path(self.name).exists() else self.name

    def dimension(self, images: Tensor) -> int:
        """D, found by trying one of the images that it is meant for, uint8 (B, C, H, W)."""
        return self(images[:1]).shape[1]

    def _accepted_channels(self, images: Tensor) -> int:
        """The images' own number of channels if the network takes it, else 3 for grey images."""
        own = images.shape[1]
        reason = ""
        for channels in (own, 3) if own == 1 else (own,):
            try:
                one = self._with_channels(images[:1], channels)
                found = self._network(one.to(self._device))
            except (RuntimeError, ValueError) as error:
                reason = reason or str(error).strip().splitlines()[-1].strip().rstrip(".")
                continue
            if isinstance(found, Tensor) and found.ndim > 1 and found.is_floating_point():
                return channels
            reason = "it does not return one row of floating-point numbers per image"
        shape = "x".join(map(str, images.shape[1:]))
        raise ValueError(f"`{self._argument}` is {self.name}, which does not take images of {shape}: {reason}.")

    def _with_channels(self, images: Tensor, channels: int) -> Tensor:
        """The images, grey ones repeated where the network takes colour."""
        if images.shape[1] == channels:
            return images
        if images.shape[1] == 1:
            return images.expand(-1, channels, -1, -1)
        raise ValueError(
            f"`{self._argument}` is {self.name}, which takes images of {channels} channels, and these have "
            f"{images.shape[1]}."
        )


def load_extractor(name: str, device: torch.device | str = "cpu", argument: str = "features") -> Extractor:
    """The extractor called `name`; ValueError, in one sentence, where there is none or its weights cannot be had.

    `argument` is what errors call it.
    """
    if name == "pixels":
        return Extractor("pixels", "pixels", _pixels, "cpu", None, argument)
    if is_torchscript(name):
        network, fingerprint = load_torchscript(name, device, argument)
        return Extractor(
            name, fingerprint, lambda images: network(to_unit_range(images, MAX_8_BIT)), device, None, argument
        )
    near = difflib.get_close_matches(name, _NAMED, n=1)
    if near and name not in _NAMED and not Path(name).exists():
        raise ValueError(f"`{argument}` is {name}, which does not exist: perhaps {near[0]!r} is meant.")
    from .feature_networks import inception, vision_model

    if name == "inception":
        return Extractor(name, "inception-v3-compat", inception(device, argument), device, 3, argument)
    network, fingerprint = vision_model(name, device, argument)
    return Extractor(name, fingerprint, network, device, 3, argument)


def load_classifier(name: str, device: torch.device | str = "cpu") -> Extractor:
    """A classifier, as an extractor of logits (B, K): a TorchScript file with a method `logits(x)`, or else with a
    `forward(x)`, that returns them, or an image classifier of transformers."""
    if is_torchscript(name):
        network, fingerprint = load_torchscript(name, device, "classifier")
        logits = network.logits if hasattr(network, "logits") else network

        def classify(images: Tensor) -> Tensor:
            return logits(to_unit_range(images, MAX_8_BIT))

        return Extractor(name, fingerprint, classify, device, argument="classifier")
    from .feature_networks import image_classifier

    network, fingerprint = image_classifier(name, device)
    return Extractor(name, fingerprint, network, device, channels=3, argument="classifier")


def is_torchscript(name: str) -> bool:
    """Whether `name` is that of a TorchScript file."""
    return Path(name).suffix in (".ts", ".pt", ".pth", ".torchscript", ".jit")


def load_torchscript(file: str, device: torch.device | str, argument: str) -> tuple[nn.Module, str]:
    """The network in a TorchScript `file`, in evaluation mode, and the file's digest; ValueError names `argument`."""
    if not Path(file).is_file():
        raise ValueError(f"`{argument}` is {file}, which does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, that torch.export is the future
            network = torch.jit.load(file, map_location=device)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(f"`{argument}` is {file}, which is no TorchScript file: {reason}.") from error
    return network.eval(), hashlib.blake2b(Path(file).read_bytes(), digest_size=8).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """Sixteen hexadecimal digits that differ where a network's weights or their names do."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _pixels(images: Tensor) -> Tensor:
    height, width = (min(size, _MOST_PIXELS) for size in images.shape[2:])
    return nn.functional.adaptive_avg_pool2d(to_unit_range(images, MAX_8_BIT), (height, width))


@contextmanager
def _exact_float32(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32, and the same kernels in every run."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
