"""What the pictures have in common: axes, colours, and the way from a figure or from frames to a file's content."""

import io
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image, ImageColor


BLUE, PALE_BLUE, GOLD, GREEN, RED = "#1f4e8c", "#9db7d5", "#c9a227", "#3a7d44", "#b3423a"


def new_axes(count: int = 1, width: float = 7, height: float = 4) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes side by side, `width` x `height` inches in all."""
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, list(figure.subplots(1, count, squeeze=False)[0])


def make_logarithmic(axes: Axes) -> None:
    """Gives what is drawn a logarithmic y axis, with plain numbers where it spans less than two powers of ten."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 100 and low > 1e-3 and high < 1e4:
        axes.yaxis.set_major_locator(
            MaxNLocator(6, steps=[1, 2, 5, 10]) if high / low < 10 else LogLocator(subs=(1, 2, 5))
        )
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())


def as_image(figure: Figure, dpi: int = 120) -> Image.Image:
    """The figure as pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer)


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element with text as text, on no background, to stand in a page of HTML."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)  # which names two addresses
    return text[text.index("<svg") :]


def opaque_image(picture: Image.Image, background: str = "white") -> Image.Image:
    """The picture in RGB, with `background` where it is transparent."""
    ground = Image.new("RGBA", picture.size, background)
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def as_gif(
    frames: Sequence[Image.Image],
    seconds_per_frame: float = 0.1,
    hold_seconds: float = 2.0,
    background: str = "white",
) -> bytes:
    """The frames as an endless GIF that rests for `hold_seconds` on the last; what is transparent is `background`.

    One palette serves all frames: 64 grays where nothing has a colour, since noise hardly compresses.
    """
    if not frames:
        raise ValueError("`frames` is empty: at least one is accepted.")
    opaque = [opaque_image(frame, background) for frame in frames]
    drawn = _gray(opaque, ImageColor.getrgb(background)[0]) or _in_one_palette(opaque)
    milliseconds = [round(1000 * seconds_per_frame)] * (len(drawn) - 1) + [round(1000 * hold_seconds)]
    buffer = io.BytesIO()
    drawn[0].save(buffer, "GIF", save_all=True, append_images=drawn[1:], duration=milliseconds, loop=0)
    return buffer.getvalue()


def _gray(frames: list[Image.Image], background: int) -> list[Image.Image] | None:
    """The frames in 64 grays and that of the background, or None where one has a colour."""
    for frame in frames:
        red, green, blue = frame.split()
        if red.tobytes() != green.tobytes() or green.tobytes() != blue.tobytes():
            return None
    levels = [round(value / 255 * 63) * 255 // 63 for value in range(256)]
    levels[background] = background
    return [frame.convert("L").point(levels) for frame in frames]


def _in_one_palette(frames: list[Image.Image]) -> list[Image.Image]:
    """The frames in 256 colours, those of the first, the middle and the last together."""
    width, height = frames[0].size
    seen = Image.new("RGB", (width, 3 * height))
    for place, frame in enumerate((frames[0], frames[len(frames) // 2], frames[-1])):
        seen.paste(frame, (0, place * height))
    palette = seen.quantize(256)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
