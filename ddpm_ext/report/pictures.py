"""Pictures inside a page: charts as SVG in the page's own colours, images and GIFs as data."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from ddpm_ext.visualization import as_gif, as_svg
from ddpm_ext.visualization.drawing import BLUE, GOLD, GREEN, PALE_BLUE, RED


_LARGEST_PNG = 300_000
_LARGEST_GIF = 700_000
_LIGHT, _DARK = "#fcfcfc", "#171717"  # the backgrounds of style.css, which a GIF cannot leave out
_COLORS = {BLUE: "blue", PALE_BLUE: "pale-blue", GOLD: "gold", GREEN: "green", RED: "red"}


@dataclass(frozen=True)
class Picture:
    """One picture with its caption and, for those who cannot see it, `alt`.

    It is an `svg`, or an image: `source`, and for a GIF `dark` for dark pages and `still` for those who want no
    motion, all three `data:` addresses. `size`: width and height to show it in, pixels. Small ones stand side by side.
    """

    caption: str
    alt: str
    size: tuple[int, int]
    svg: Markup | None = None
    source: str = ""
    dark: str = ""
    still: str = ""
    is_small: bool = False

    @property
    def is_wide(self) -> bool:
        """Whether a phone would make it too small to read."""
        return self.size[0] > 700


def chart(figure: Figure, caption: str, alt: str) -> Picture:
    """A figure, drawn at a size that can be read on a phone as well."""
    width, height = (8.6, 3.4) if len(figure.axes) > 1 else (4.9, 3.2)
    figure.set_size_inches(width, height)
    svg = re.sub(r' id="[\w.]+_\d+"', "", as_svg(figure))  # the same in every chart of the page
    svg = svg.replace("#000000", "currentColor").replace("<svg ", '<svg aria-hidden="true" ', 1)
    for color, name in _COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    return Picture(caption, alt, (round(96 * width), round(96 * height)), svg=Markup(svg))


def image(picture: Image.Image, caption: str, alt: str, is_small: bool = False) -> Picture:
    """An image, reduced where it is wider than the page."""
    most_pixels = 480 if is_small else 1000
    if picture.width > most_pixels:
        height = round(picture.height * most_pixels / picture.width)
        picture = picture.convert("RGBA").resize((most_pixels, height), Image.Resampling.LANCZOS)
    return Picture(caption, alt, picture.size, source=_as_data(picture), is_small=is_small)


def animation(frames: Sequence[Image.Image], caption: str, alt: str) -> Picture:
    """A GIF for light and one for dark pages, with fewer frames where there would be too much of it."""

    def gif(background: str) -> bytes:
        return as_gif(frames, seconds_per_frame=3.0 / len(frames), background=background)

    while len(light := gif(_LIGHT)) > _LARGEST_GIF and len(frames) > 8:
        frames = [*frames[:-1:2], frames[-1]]
    sources = (_address("image/gif", light), _address("image/gif", gif(_DARK)), _as_data(frames[-1]))
    return Picture(caption, alt, frames[0].size, None, *sources)


def _as_data(picture: Image.Image) -> str:
    """As PNG, or as WebP where that would be large."""
    png = _saved(picture, "PNG", optimize=True)
    if len(png) <= _LARGEST_PNG:
        return _address("image/png", png)
    return _address("image/webp", _saved(picture, "WEBP", quality=88))


def _saved(picture: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
