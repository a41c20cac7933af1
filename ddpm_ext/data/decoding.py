"""One image: from encoded bytes to an integer tensor (C, H, W) of a chosen number of channels, depth and size.

The geometry is that of diffusers' training script: the image is resized (bilinear, antialiased) until its shorter
side, relative to the target, fits exactly, and what is left over on the other side is cropped. Alpha is removed, not
blended with a background, as `PIL.Image.convert("RGB")` does. 16-bit gray is read from any format that PIL reads,
16-bit colour from PNG only. Where 8 bits are wanted, 16-bit gray is scaled and rounded (PIL would clip it at 255),
while of 16-bit colour PIL keeps the upper 8 bits.
"""

import io
import re
from typing import NamedTuple, TypedDict

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torchvision.transforms.v2 import functional as F


MAX_8_BIT = 255
MAX_16_BIT = 65535

COMMON_FORMATS = ("PNG", "JPEG", "WEBP")
EXIF_ORIENTATION = 0x0112
GRAY_MODES = ("1", "L", "LA", "La")
SIXTEEN_BIT_GRAY_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # PIL < 11.3 opens a 16-bit gray PNG in mode "I"
LUMA = (19595, 38470, 7471)  # ITU-R 601-2 in units of 2**-16, the weights of PIL's conversion to "L"


class Encoded(TypedDict):
    """An image as `datasets` hands it out undecoded: its bytes, or the path of its file."""

    bytes: bytes | None
    path: str | None


Row = Encoded | PIL.Image.Image | None  # None: the data set has a row but no image in it


class Survey(NamedTuple):
    """What an image's header says."""

    height: int
    width: int
    is_color: bool
    is_16_bit: bool


class Format(NamedTuple):
    """What images are decoded to: 1 or 3 `channels`, integers 0..`max_value`, scaled to cover `resolution` (H, W)."""

    channels: int
    max_value: int
    resolution: tuple[int, int]


def parse_resolution(resolution: int | str | None) -> tuple[int, int] | None:
    """(H, W) of `"64"`, `64` or `"96x160"` (height x width); None stays None (the images' own size)."""
    if resolution is None:
        return None
    text = str(resolution).strip()
    match = re.fullmatch(r"([1-9][0-9]*)(?:x([1-9][0-9]*))?", text)
    if match is None:
        raise ValueError(f'`resolution` is {text!r}; it must be a size like "64" or a height and width like "96x160".')
    return int(match[1]), int(match[2] or match[1])


def survey(row: Row, whole: bool = False) -> Survey:
    """Size and kind of an image, from its header alone; `whole` also decodes it, to learn whether that works."""
    with _open(row) as image:
        width, height = image.size
        if _orientation(image) >= 5:  # stored on its side
            width, height = height, width
        is_color = image.mode not in GRAY_MODES + SIXTEEN_BIT_GRAY_MODES
        is_16_bit = image.mode in SIXTEEN_BIT_GRAY_MODES or _is_cut_to_8_bits(image)
    if whole:
        _pixels(row, MAX_8_BIT)
    return Survey(height, width, is_color, is_16_bit)


def decode(row: Row, form: Format) -> torch.Tensor:
    """The image as integers 0..`form.max_value`, (C, h, w) uint8 or, for 16 bits, int32; covers `form.resolution`."""
    pixels, max_value = _pixels(row, form.max_value)
    pixels = _to_channels(pixels, form.channels)
    if form.max_value != max_value:
        pixels = pixels.to(torch.float64).mul(form.max_value / max_value).round()
    pixels = pixels.to(integer_dtype(form.max_value))
    size = covering_size((pixels.shape[1], pixels.shape[2]), form.resolution)
    if size == tuple(pixels.shape[1:]):
        return pixels
    if form.max_value == MAX_8_BIT:
        return F.resize(pixels, list(size), antialias=True)
    return F.resize(pixels.to(torch.float32), list(size), antialias=True).round().to(pixels.dtype)


def integer_dtype(max_value: int) -> torch.dtype:
    """uint8, or int32 for 16 bits (torch's uint16 knows too few operations)."""
    return torch.uint8 if max_value == MAX_8_BIT else torch.int32


def covering_size(size: tuple[int, int], resolution: tuple[int, int]) -> tuple[int, int]:
    """The smallest (h, w) with the proportions of `size` that covers `resolution`; both are (H, W)."""
    (h, w), (target_h, target_w) = size, resolution
    if target_h * w >= target_w * h:
        return target_h, target_h * w // h
    return target_w * h // w, target_w


def crop_offset(excess: int, uniform: torch.Tensor | None) -> torch.Tensor:
    """First row (or column) of a crop that leaves out `excess` of them: central for None, else one per uniform."""
    if uniform is None:
        return torch.tensor(round(excess / 2))
    return (uniform.to(torch.float64) * (excess + 1)).long()


def _open(row: Row) -> PIL.Image.Image:
    """The image, its pixels still undecoded where it is a file."""
    if isinstance(row, PIL.Image.Image):
        return row
    if row is None or (row["bytes"] is None and row["path"] is None):
        raise ValueError("there is no image in this row")
    file = row["path"] if row["bytes"] is None else io.BytesIO(row["bytes"])
    try:
        return PIL.Image.open(file, formats=COMMON_FORMATS)  # twice as fast as to let PIL try all of its formats
    except PIL.UnidentifiedImageError:
        return PIL.Image.open(file)


def _is_cut_to_8_bits(image: PIL.Image.Image) -> bool:
    """Whether PIL would keep 8 bits of a 16-bit PNG, having no mode for 16-bit colour (or 16-bit gray with alpha)."""
    if image.format != "PNG" or image.mode in SIXTEEN_BIT_GRAY_MODES or not image.tile:
        return False
    return ";16B" in str(image.tile[0][3])  # the raw mode: what is in the file, before PIL converts it


def _orientation(image: PIL.Image.Image) -> int:
    """1 is upright, 5 to 8 on its side. In a PNG only if said before the pixels: else `getexif` would decode them."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(EXIF_ORIENTATION, 1)


def _pixels(row: Row, wanted_max_value: int) -> tuple[torch.Tensor, int]:
    """(1 or 3, h, w) integers, upright and without alpha, and their greatest possible value, which may be another."""
    with _open(row) as image:
        if wanted_max_value == MAX_16_BIT and _is_cut_to_8_bits(image):
            return _pixels_of_16_bit_png(row, _orientation(image) != 1), MAX_16_BIT
        if _orientation(image) != 1:
            image = PIL.ImageOps.exif_transpose(image)
        if image.mode in SIXTEEN_BIT_GRAY_MODES:
            values = np.asarray(image).astype(np.int64)
            if values.min() < 0 or values.max() > MAX_16_BIT:
                raise ValueError(f"its pixels go from {values.min()} to {values.max()}, beyond 16 bits")
            return torch.from_numpy(values)[None], MAX_16_BIT
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers, not 8- or 16-bit integers")
        if image.mode in ("P", "PA", "La", "RGBa"):  # PIL resolves palettes and premultiplied alpha on this way only
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        mode = "L" if image.mode in GRAY_MODES else "RGB"
        values = np.array(image if image.mode == mode else image.convert(mode))
        return torch.from_numpy(values.reshape(*values.shape[:2], -1)).permute(2, 0, 1), MAX_8_BIT


def _pixels_of_16_bit_png(encoded: Encoded, apply_orientation: bool) -> torch.Tensor:
    from torchvision.io import ImageReadMode, decode_png  # here, as torchvision means to remove it some day

    if encoded["bytes"] is None:
        data = torch.from_numpy(np.fromfile(encoded["path"], dtype=np.uint8))
    else:
        data = torch.frombuffer(bytearray(encoded["bytes"]), dtype=torch.uint8)
    pixels = decode_png(data, ImageReadMode.UNCHANGED, apply_exif_orientation=apply_orientation).to(torch.int64)
    return pixels[: 1 if len(pixels) == 2 else 3]


def _to_channels(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return pixels.expand(3, -1, -1)
    luma = torch.tensor(LUMA).view(3, 1, 1)
    return (pixels.to(torch.int64) * luma).sum(0, keepdim=True).add(1 << 15) >> 16
