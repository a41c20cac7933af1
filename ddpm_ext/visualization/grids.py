"""Images side by side in one picture: plain, by class, or with words at their rows and columns."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid


_INK = (122, 122, 122)  # a gray that can be read on white and on black
_FONT_SIZE = 13
_TILE = 64


def image_grid(images: Tensor, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """Images, uint8 (N, C, H, W), in one picture; small ones are enlarged without smoothing so that they can be seen.

    `columns` defaults to a square; `scale` to the whole number that makes an image about 64 pixels high.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    scale = scale or _scale(images.shape[-2])
    enlarged = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    grid = make_grid(enlarged, nrow=columns, padding=max(2, scale), pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def class_grid(images: Tensor, labels: Sequence[int], class_names: Sequence[str]) -> Image.Image:
    """Images, uint8 (N, C, H, W), with the names of their classes, on no background.

    Each class that is among `labels` has a column, or a row where there are more than twelve.
    """
    of_class = {label: [image for image, own in zip(images, labels, strict=True) if own == label] for label in labels}
    present = sorted(of_class)
    names = [class_names[label] for label in present]
    if len(present) > 12:
        return labelled_grid([of_class[label] for label in present], names)
    return labelled_grid(list(zip_longest(*(of_class[label] for label in present))), (), names)


def labelled_grid(
    rows: Sequence[Sequence[Tensor | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    corner: str = "",
    rows_per_group: int = 0,
) -> Image.Image:
    """Images of one size, uint8 (C, H, W), with words at their left and above them, on no background (RGBA).

    None leaves a place empty. `corner` stands left of the column labels. After every `rows_per_group` rows the next
    ones keep some distance.
    """
    first = next(image for row in rows for image in row if image is not None)
    scale = _scale(first.shape[-2])
    height, width = scale * first.shape[-2], scale * first.shape[-1]
    gap = max(3, height // 16)
    line = _FONT_SIZE + 6
    pitch = max([width, *(_width(text) for text in column_labels)]) + gap
    left = 2 + max(_width(text) for text in (*row_labels, corner, "")) + 2 * gap
    left = left if row_labels or corner else 0
    top = line if column_labels or corner else 0
    group = [index // rows_per_group * 2 * gap if rows_per_group else 0 for index in range(len(rows))]
    size = left + max(map(len, rows)) * pitch - gap, top + len(rows) * (height + gap) - gap + group[-1]

    picture = Image.new("RGBA", size, (*_INK, 0))  # transparent ink, so that the edges of letters keep its colour
    draw = ImageDraw.Draw(picture)
    draw.text((left - 2 * gap, line / 2 - 2), corner, (*_INK, 255), _font(), anchor="rm")
    for column, text in enumerate(column_labels):
        draw.text((left + column * pitch + (pitch - gap) / 2, line / 2 - 2), text, (*_INK, 255), _font(), anchor="mm")
    for index, row in enumerate(rows):
        y = top + index * (height + gap) + group[index]
        if index < len(row_labels):
            draw.text((left - 2 * gap, y + height / 2), row_labels[index], (*_INK, 255), _font(), anchor="rm")
        for column, image in enumerate(row):
            if image is not None:
                picture.paste(_tile(image, scale), (left + column * pitch + (pitch - gap - width) // 2, y))
    return picture


def to_bytes(x: Tensor) -> Tensor:
    """Images, or noise, in [-1, 1] to uint8 on the CPU; what lies beyond is black or white."""
    return ((x.detach().float().cpu() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def _scale(height: int) -> int:
    return max(1, round(_TILE / height))


def _tile(image: Tensor, scale: int) -> Image.Image:
    enlarged = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return Image.fromarray(enlarged.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()).convert("RGBA")


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The one that comes with matplotlib, so that pictures look the same everywhere."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _FONT_SIZE)


def _width(text: str) -> int:
    return math.ceil(_font().getlength(text))
