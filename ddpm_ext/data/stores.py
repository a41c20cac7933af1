"""Images behind indices: integers in memory, or decoded by worker processes when read. Both give the same images."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

import PIL
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ddpm_ext.data.decoding import Format, Survey, crop_offset, decode, integer_dtype, survey
from ddpm_ext.data.sources import ImageSource
from ddpm_ext.randomness import DataOrder


logger = logging.getLogger(__name__)

CHUNK = 128  # images that a process decodes at a time when all are wanted
NAMED_BAD_IMAGES = 5
BAR_DELAY_SECONDS = 0.5

Item = TypeVar("Item")
Result = TypeVar("Result")
Places = tuple[list[int], list[list[float]] | None]  # a Draw in plain numbers, cheaper to hand to a process


class Draw(NamedTuple):
    """What one batch consists of.

    `indices`: LongTensor (B,). `crop`: float64 (B, 2) in [0, 1), where each image's crop lies from top to bottom and
    from left to right, if there is anything to crop; None crops the centre.
    """

    indices: torch.Tensor
    crop: torch.Tensor | None = None


class Loaded(NamedTuple):
    """Indices (B,) and integer images (B, C, H, W) of a draw; labels (B,) where only reading the images tells them."""

    indices: torch.Tensor
    images: torch.Tensor
    labels: torch.Tensor | None = None


class Store(Protocol):
    def __len__(self) -> int: ...

    def order(self, seed: int, global_batch_size: int) -> DataOrder:
        """The order of training that this store is made for."""
        ...

    def read(self, plan: Iterable[Draw], ahead: int = 0) -> Iterator[Loaded]:
        """One for each draw, in the plan's order; a store that reads ahead does so for `ahead` draws."""
        ...


class MemoryStore:
    """All images, decoded: integers (N, C, h, w), h >= H and w >= W, out of which `resolution` (H, W) is cropped."""

    def __init__(self, images: torch.Tensor, resolution: tuple[int, int]) -> None:
        self.images = images
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self.images)

    def order(self, seed: int, global_batch_size: int) -> DataOrder:
        return DataOrder(len(self), seed)

    def read(self, plan: Iterable[Draw], ahead: int = 0) -> Iterator[Loaded]:
        for indices, crop in plan:
            indices = indices.cpu()
            yield Loaded(indices, self._crop(self.images.index_select(0, indices), crop))

    def _crop(self, images: torch.Tensor, crop: torch.Tensor | None) -> torch.Tensor:
        if images.shape[2:] == self.resolution:
            return images
        places = []  # rows (B, H), columns (B, W)
        for side, (have, want) in enumerate(zip(images.shape[2:], self.resolution, strict=True)):
            start = crop_offset(have - want, None if crop is None else crop[:, side].cpu())
            places.append(start.view(-1, 1) + torch.arange(want))
        rows, columns = places
        image, channel = torch.arange(len(images)).view(-1, 1, 1, 1), torch.arange(images.shape[1]).view(-1, 1, 1)
        return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class DiskStore:
    """Images that `num_workers` processes decode when they are read; `kept` (N,) are their rows in the source."""

    def __init__(
        self, source: ImageSource, kept: torch.Tensor, form: Format, center_crop: bool, num_workers: int
    ) -> None:
        self.source = source
        self.kept = kept
        self.form = form
        self.center_crop = center_crop
        self.num_workers = num_workers

    def __len__(self) -> int:
        return len(self.kept)

    def order(self, seed: int, global_batch_size: int) -> DataOrder:
        return DataOrder(len(self), seed)

    def read(self, plan: Iterable[Draw], ahead: int = 0) -> Iterator[Loaded]:
        for indices, images in self._decode(self._places(plan), self.form.resolution):
            yield Loaded(torch.tensor(indices), images)

    def decode_all(self, size: tuple[int, int], show_progress: bool) -> MemoryStore:
        """Decodes every image once and keeps it, cropped at the centre to `size` (h, w)."""
        shape = (len(self), self.form.channels, *size)
        decoded = torch.empty(shape, dtype=integer_dtype(self.form.max_value))
        places = ((list(chunk), None) for chunk in _chunks(len(self)))
        with progress_bar("decoding images", len(self), show_progress) as bar:
            for indices, images in self._decode(places, size):
                decoded[indices[0] : indices[-1] + 1] = images
                bar.update(len(indices))
        return MemoryStore(decoded, self.form.resolution)

    def _places(self, plan: Iterable[Draw]) -> Iterator[Places]:
        for indices, crop in plan:
            yield indices.tolist(), None if crop is None or self.center_crop else crop.tolist()

    def _decode(self, places: Iterable[Places], size: tuple[int, int]) -> Iterator[tuple[list[int], torch.Tensor]]:
        for indices, images in in_order(_Decoder(self.source, self.kept, self.form, size), places, self.num_workers):
            if isinstance(images, ValueError):
                raise images
            yield indices, images


def survey_all(
    source: ImageSource, skip_bad_images: bool, num_workers: int, show_progress: bool
) -> tuple[torch.Tensor, list[Survey]]:
    """Rows of the images that can be read, LongTensor (N,), and what their headers say.

    Without `skip_bad_images` the first that cannot be read is an error; with it, each is decoded in whole to find out.
    """
    surveys: list[Survey | ValueError] = []
    seen: dict[Survey | ValueError, Survey | ValueError] = {}  # there are few kinds, and may be many images
    with progress_bar(
        "checking images" if skip_bad_images else "reading image headers", len(source), show_progress
    ) as bar:
        for chunk in in_order(_Surveyor(source, skip_bad_images), _chunks(len(source)), num_workers):
            surveys += [seen.setdefault(result, result) for result in chunk]
            bar.update(len(chunk))
            if not skip_bad_images:
                for result in chunk:
                    if isinstance(result, ValueError):
                        raise result
    kept = [row for row, result in enumerate(surveys) if isinstance(result, Survey)]
    if not kept:
        raise ValueError(f"{source.name} has no image that can be decoded: {surveys[0]}")
    if len(kept) < len(surveys) and show_progress:
        skipped = [source.describe(row) for row in range(len(surveys)) if isinstance(surveys[row], ValueError)]
        named = ", ".join(skipped[:NAMED_BAD_IMAGES]) + (", ..." if len(skipped) > NAMED_BAD_IMAGES else "")
        logger.warning("%d of %d images cannot be decoded and are left out: %s", len(skipped), len(surveys), named)
    return torch.tensor(kept), [result for result in surveys if isinstance(result, Survey)]


class _Surveyor:
    """range of rows -> for each, what its header says, or what is wrong with it."""

    def __init__(self, source: ImageSource, whole: bool) -> None:
        self.source = source
        self.whole = whole

    def __call__(self, rows: range) -> list[Survey | ValueError]:
        results: list[Survey | ValueError] = []
        for row, content in zip(rows, self.source.read(list(rows)), strict=True):
            try:
                results.append(survey(content, self.whole))
            except Exception as error:  # PIL's decoders raise many kinds
                results.append(bad_image(self.source.describe(row), why_bad(error)))
        return results


class _Decoder:
    """Places -> the same indices, and their images (B, C, *size), or what is wrong with one of them."""

    def __init__(self, source: ImageSource, kept: torch.Tensor, form: Format, size: tuple[int, int]) -> None:
        self.source = source
        self.kept = kept
        self.form = form
        self.size = size

    def __call__(self, places: Places) -> tuple[list[int], torch.Tensor | ValueError]:
        indices, crop = places
        rows = self.kept[indices].tolist()
        images = []
        for place, (row, content) in enumerate(zip(rows, self.source.read(rows), strict=True)):
            try:
                image = decode(content, self.form)
            except Exception as error:  # PIL's decoders raise many kinds
                return indices, bad_image(self.source.describe(row), why_bad(error))
            images.append(cropped(image, self.size, None if crop is None else crop[place]))
        return indices, torch.stack(images)


def cropped(image: torch.Tensor, size: tuple[int, int], crop: list[float] | None) -> torch.Tensor:
    """The part of (C, h, w) that is `size` (H, W) large; `crop` is that of a `Draw`."""
    if image.shape[1:] == size:
        return image
    uniforms = (None, None) if crop is None else torch.tensor(crop, dtype=torch.float64)
    top, left = (
        int(crop_offset(have - want, uniform))
        for have, want, uniform in zip(image.shape[1:], size, uniforms, strict=True)
    )
    return image[:, top : top + size[0], left : left + size[1]]


def why_bad(error: Exception) -> str:
    """What a decoder complains of, as a part of a sentence."""
    if isinstance(error, PIL.UnidentifiedImageError):  # its own message holds a memory address
        return "not a kind of image that PIL knows"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def bad_image(described: str, reason: str) -> ValueError:
    """The sentence for an image that cannot be decoded."""
    return ValueError(f"{described} cannot be decoded ({reason}); mend it, remove it, or pass `skip_bad_images`.")


class _Work(Dataset):
    """A function as a `Dataset`, whose "indices" are the function's arguments."""

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self.function = function

    def __getitem__(self, item: Item) -> Result:
        return self.function(item)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """`map`, by worker processes: items, which may be endless, go out in order and results come back in order."""
    if num_workers == 0:
        return map(function, items)
    return iter(
        DataLoader(
            _Work(function),
            sampler=items,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # else starting the workers would draw from torch's global random numbers
        )
    )


def _unchanged(result: Result) -> Result:
    return result


def _chunks(count: int) -> Iterator[range]:
    return (range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def progress_bar(description: str, total: int, shown: bool) -> tqdm:
    return tqdm(desc=description, total=total, unit=" images", disable=not shown, delay=BAR_DELAY_SECONDS, leave=False)
