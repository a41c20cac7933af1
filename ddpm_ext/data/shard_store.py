"""Images of parquet files of any size in bounded memory: row groups are read ahead of use and dropped after it."""

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import NamedTuple

import pyarrow as pa
import torch

from ddpm_ext.data.decoding import MAX_8_BIT, MAX_16_BIT, Format, Row, decode, integer_dtype, survey
from ddpm_ext.data.shards import Shards
from ddpm_ext.data.stores import Draw, Loaded, bad_image, cropped, in_order, why_bad
from ddpm_ext.randomness import BlockOrder


logger = logging.getLogger(__name__)

BLOCKS_AT_A_TIME = 4
LEAST_DRAWS_AHEAD = 4
IN_COLOR = "it is in colour"

Encoded = tuple[list[Row], list[list[float]] | None]  # images and where to crop each, None for the centre


class Decoded(NamedTuple):
    """Integer images (B, C, H, W), black where one could not be decoded, and those places with the reasons."""

    images: torch.Tensor
    failures: list[tuple[int, str]]


class ShardStore:
    """Images that `num_workers` processes decode when this one has read their row groups, of which it keeps those that
    the next draws need.

    `only_gray`: an image in colour is an error, not converted. `skip_bad_images`: for an image that cannot be decoded
    stands the next one of its row group that can.
    """

    def __init__(
        self,
        shards: Shards,
        form: Format,
        window: int,
        center_crop: bool,
        only_gray: bool,
        skip_bad_images: bool,
        num_workers: int,
    ) -> None:
        self.shards = shards
        self.form = form
        self.window = window
        self.center_crop = center_crop
        self.skip_bad_images = skip_bad_images
        self.num_workers = num_workers
        self._decode = _Decoder(form, only_gray)
        self._skipped: set[int] = set()

    def __len__(self) -> int:
        return len(self.shards)

    def order(self, seed: int, global_batch_size: int) -> BlockOrder:
        """The order in which few row groups need to be kept."""
        return BlockOrder(self.shards.sizes, self.window, global_batch_size, seed)

    def fingerprint(self) -> str:
        """Differs where the images, the labels or their order do."""
        return f"{self.shards.fingerprint()}, streaming in windows of {self.window}"

    def warn_of_memory(self, limit_bytes: int) -> None:
        """Logs a warning if two windows of encoded images take more than `limit_bytes`."""
        sizes = [block.image_bytes for block in self.shards.blocks]
        window_bytes = max(sum(sizes) // self.order(0, 1).num_windows, max(sizes))
        if 2 * window_bytes > limit_bytes:
            logger.warning(
                "`shuffle_window` is %d: with row groups of up to %.2f GiB, streaming keeps about %.2f GiB of encoded"
                " images in memory; a smaller window, or files of smaller row groups, take less.",
                self.window,
                max(sizes) / 2**30,
                2 * window_bytes / 2**30,
            )

    def read(self, plan: Iterable[Draw], ahead: int = 0) -> Iterator[Loaded]:
        sent: deque[tuple[Draw, torch.Tensor | None]] = deque()

        def items() -> Iterator[Encoded]:
            for draw, images, labels in self._fetch(plan, max(ahead, LEAST_DRAWS_AHEAD)):
                sent.append((draw, labels))
                yield images, self._crops(draw)

        for images, failures in in_order(self._decode, items(), self.num_workers):
            draw, labels = sent.popleft()
            for place, reason in failures:
                images[place], label = self._substitute(draw, place, reason)
                if labels is not None:
                    labels[place] = label
            yield Loaded(draw.indices, images, labels)

    def _crops(self, draw: Draw) -> list[list[float]] | None:
        return None if draw.crop is None or self.center_crop else draw.crop.tolist()

    def _fetch(self, plan: Iterable[Draw], ahead: int) -> Iterator[tuple[Draw, list[Row], torch.Tensor | None]]:
        """The undecoded images and the labels of each draw, while the row groups of the `ahead` next are read."""
        plan, shards = iter(plan), self.shards
        waiting: deque[tuple[Draw, list[tuple[int, int]]]] = deque()
        uses: Counter[int] = Counter()  # of each block by the draws that wait
        blocks: dict[int, Future[pa.Table]] = {}
        pool, stopped = ThreadPoolExecutor(BLOCKS_AT_A_TIME), Event()
        try:
            while True:
                for draw in islice(plan, ahead + 1 - len(waiting)):
                    located = shards.locate(draw.indices.cpu())
                    waiting.append((draw, located))
                    for number in dict(located):
                        uses[number] += 1
                        blocks[number] = blocks.get(number) or pool.submit(shards.read, number, stopped)
                if not waiting:
                    return
                draw, located = waiting.popleft()
                found = [(blocks[number].result(), row) for number, row in located]
                labels = [shards.label(*place) for place in found] if shards.label_column else None
                yield draw, [shards.image(*place) for place in found], None if labels is None else torch.tensor(labels)
                for number in dict(located):
                    uses[number] -= 1
                    if not uses[number]:
                        del uses[number], blocks[number]
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _substitute(self, draw: Draw, place: int, reason: str) -> tuple[torch.Tensor, int | None]:
        """The image (C, H, W) and the label that stand for an image that cannot be decoded."""
        index = int(draw.indices[place])
        described = self.shards.describe(index)
        if reason == IN_COLOR:
            raise ValueError(f"{described} is in colour and the first images are not: pass `image_channels` 1 or 3.")
        if not self.skip_bad_images:
            raise bad_image(described, reason)
        ((number, row),) = self.shards.locate(torch.tensor([index]))
        table, crops = self.shards.read(number), self._crops(draw)
        for other in [*range(row + 1, len(table)), *range(row)]:
            images, failures = self._decode(([self.shards.image(table, other)], crops and [crops[place]]))
            if not failures:
                if index not in self._skipped:
                    logger.warning("%s cannot be decoded (%s); the next image stands in for it", described, reason)
                    self._skipped.add(index)
                return images[0], self.shards.label(table, other) if self.shards.label_column else None
        raise bad_image(described, reason)


class _Decoder:
    """What the workers do."""

    def __init__(self, form: Format, only_gray: bool) -> None:
        self.form = form
        self.only_gray = only_gray

    def __call__(self, encoded: Encoded) -> Decoded:
        contents, crops = encoded
        shape = (len(contents), self.form.channels, *self.form.resolution)
        images = torch.zeros(shape, dtype=integer_dtype(self.form.max_value))
        failures: list[tuple[int, str]] = []
        for place, content in enumerate(contents):
            try:
                if self.only_gray and survey(content).is_color:
                    failures.append((place, IN_COLOR))
                    continue
                image = decode(content, self.form)
                images[place] = cropped(image, self.form.resolution, crops and crops[place])
            except Exception as error:  # PIL's decoders raise many kinds
                failures.append((place, why_bad(error)))
        return Decoded(images, failures)


def format_of_stream(
    shards: Shards, resolution: tuple[int, int] | None, image_channels: int | None, preserve_input_precision: bool
) -> Format:
    """What images are decoded to; without `image_channels`, the first row group is read to see if it has colour."""
    if resolution is None:
        raise ValueError("`resolution` must be given with `streaming`, which does not look at all images first.")
    if image_channels is None:
        table = shards.read(0)
        image_channels = 3 if any(_is_color(shards.image(table, row)) for row in range(len(table))) else 1
    return Format(image_channels, MAX_16_BIT if preserve_input_precision else MAX_8_BIT, resolution)


def _is_color(row: Row) -> bool:
    try:
        return survey(row).is_color
    except Exception:  # PIL's decoders raise many kinds; it is said when the image is decoded
        return False
