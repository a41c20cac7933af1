"""Images for training and for metrics: integers in memory or on disk, batches in [-1, 1] on a device.

    data = load_images("digits")
    for batch in data.batches(plan, device):      # plan: an iterable of Draw(indices, crop)
        batch["images"], batch["labels"]          # (B, C, H, W) float32 in [-1, 1], (B,) int64 or None

A data set that fits in memory is decoded once; a larger one, or one that is cropped at random out of images of
different proportions, is decoded by worker processes as it is read. Which of the two makes no difference to the
batches: nothing here draws a random number. With `streaming`, parquet files are read where they are, in an order of
their own (`ImageData.order`).
"""

from collections.abc import Iterable, Iterator
from typing import TypedDict

import torch

from ddpm_ext.data.decoding import (
    MAX_8_BIT,
    MAX_16_BIT,
    Format,
    Survey,
    covering_size,
    integer_dtype,
    parse_resolution,
)
from ddpm_ext.data.locations import find_data
from ddpm_ext.data.sources import ImageSource, open_source
from ddpm_ext.data.stores import CHUNK, DiskStore, Draw, MemoryStore, Store, survey_all
from ddpm_ext.randomness import DataOrder, Draws


__all__ = ["Batch", "Draw", "ImageData", "load_images", "to_unit_range"]


class Batch(TypedDict):
    images: torch.Tensor
    labels: torch.Tensor | None


def to_unit_range(images: torch.Tensor, max_value: int) -> torch.Tensor:
    """Integers 0..max_value to float32 -1..1. Every pixel that a model is trained or measured on goes through here."""
    # As a number, not a tensor, CUDA would multiply by its rounded inverse: another last bit than on a CPU.
    half = torch.full((), max_value / 2, device=images.device)
    return images.to(torch.float32).div_(half).sub_(1)


class ImageData:
    """N images of one size with, perhaps, labels. Made by `load_images`.

    Attributes:
        shape: (C, H, W).
        max_value: 255 or 65535.
        labels: int64 (N,), 0..K-1, or None; also None with `streaming`, where only batches have them.
        class_names: the K names, or None where there are no labels.
        columns: the names of all columns of the data set that this was read from.
        fingerprint: differs where the images or labels do (a few images, undecoded, and all labels are looked at).
        random_flip: whether `augment` mirrors half of the images.
    """

    noun = "images"
    random_flip = False

    def __init__(
        self,
        store: Store,
        shape: tuple[int, int, int],
        max_value: int,
        labels: torch.Tensor | None,
        class_names: list[str] | None,
        columns: list[str],
        fingerprint: str = "",
    ) -> None:
        self.shape = shape
        self.max_value = max_value
        self.labels = labels
        self.class_names = class_names
        self.columns = columns
        self.fingerprint = fingerprint
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    @property
    def is_in_memory(self) -> bool:
        return isinstance(self._store, MemoryStore)

    def order(self, seed: int, global_batch_size: int) -> DataOrder:
        """The order of training: a full shuffle per epoch or, with `streaming`, one in which neighbours in the files
        stay within a window."""
        return self._store.order(seed, global_batch_size)

    def batches(self, plan: Iterable[Draw], device: torch.device | str = "cpu", ahead: int = 0) -> Iterator[Batch]:
        """One batch on `device` per draw of the plan, in its order.

        Images are float32 (B, C, H, W) in [-1, 1], labels int64 (B,) or None. Workers are ahead of the reader: up to
        two draws per worker are taken from the plan before their batches are asked for, and with `streaming` as many
        more as `ahead` says, for which the files are read.
        """
        device = torch.device(device)
        for indices, images, labels in self._store.read(plan, ahead):
            if self.labels is not None:
                labels = self.labels[indices]
            labels = None if labels is None else _to_device(labels, device)
            yield {"images": to_unit_range(_to_device(images, device), self.max_value), "labels": labels}

    def augment(self, batch: Batch, random: Draws) -> Batch:
        """The batch, with half of its images mirrored where `random_flip` is set."""
        if self.random_flip:
            flipped = random.uniform("flip").view(-1, 1, 1, 1) < 0.5
            batch["images"] = torch.where(flipped, batch["images"].flip(-1), batch["images"])
        return batch

    def integer_batches(self, plan: Iterable[Draw]) -> Iterator[torch.Tensor]:
        """The images 0..`max_value` of each draw: (B, C, H, W), uint8, or int32 for 16 bits."""
        return (loaded.images for loaded in self._store.read(plan))

    def integers(self, indices: torch.Tensor) -> torch.Tensor:
        """The chosen images 0..`max_value`, cropped at the centre: (B, C, H, W), uint8, or int32 for 16 bits."""
        return torch.cat(list(self.integer_batches(Draw(chunk) for chunk in indices.split(CHUNK))))


def load_images(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_data_dir: str | None = None,
    split: str = "train",
    resolution: int | str | None = None,
    center_crop: bool = False,
    image_channels: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    cache_dir: str | None = None,
    preserve_input_precision: bool = False,
    skip_bad_images: bool = False,
    num_workers: int = 0,
    memory_limit_bytes: int = 4 * 2**30,
    show_progress: bool = True,
    streaming: bool = False,
    shuffle_window: int = 4096,
) -> ImageData:
    """Opens one split of a data set of images.

    Args:
        dataset_name: `"digits"` (scikit-learn's, no download), a data set of the Hub, or a local copy of one.
        dataset_config_name: which configuration of a data set of the Hub.
        train_data_dir: a folder of images (sub-folders are classes), or parquet: a folder, a glob or a file, the
            latter two also as URLs. Ignored where `dataset_name` is given.
        split: which split; `"train[:1000]"` and the like are understood, except for the digits and with
            `streaming`.
        resolution: `"64"`, or height and width as in `"96x160"`. Images are resized to cover it and what is over is
            cropped. None keeps the images' own size, which must then be the same for all.
        center_crop: crop the centre, not where `Draw.crop` says.
        image_channels: 1 (gray) or 3 (RGB). None: 3 if any image has colour, else 1.
        image_column, label_column: None finds them. Labels are class numbers, or names, which are sorted.
        preserve_input_precision: keep 16 bits where any image has them, rather than scale all to 8 bits.
        skip_bad_images: leave out images that cannot be decoded, and log how many and which. Every image is decoded
            once more to find out.
        num_workers: processes that decode; 0 decodes in this one. Batches do not depend on it.
        memory_limit_bytes: the most that the decoded images may take, in each process; a larger data set is decoded as
            it is read. With `streaming`, a warning is logged where more than that has to be kept.
        show_progress: show progress bars and log what was skipped; switch off on all but one process.
        streaming: read parquet files where they are, a row group at a time, with nothing downloaded, converted or
            decoded before. `resolution` is needed. Without `image_channels`, the first row group tells whether there
            is colour. An image that `skip_bad_images` leaves out is replaced by the next of its row group.
        shuffle_window: with `streaming`, about how many images are shuffled among each other (`BlockOrder`); two
            windows of encoded images are kept in memory, shared by the processes.

    Raises:
        ValueError: one sentence: a data set, split or column that does not exist or holds no images, an image that
            cannot be decoded (named), images of different sizes without `resolution`, a malformed argument.
    """
    target = parse_resolution(resolution)
    if image_channels not in (None, 1, 3):
        raise ValueError(f"`image_channels` is {image_channels!r}; it must be 1 (gray) or 3 (RGB), or be left out.")
    if shuffle_window < 1:
        raise ValueError(f"`shuffle_window` is {shuffle_window}: a whole number of at least 1 is accepted.")
    where = find_data(dataset_name, dataset_config_name, train_data_dir, cache_dir)
    if streaming:
        from ddpm_ext.data.shard_store import ShardStore, format_of_stream  # here, for pyarrow takes time to import
        from ddpm_ext.data.shards import open_shards

        shards = open_shards(where, split, image_column, label_column)
        form = format_of_stream(shards, target, image_channels, preserve_input_precision)
        only_gray = image_channels is None and form.channels == 1
        stream = ShardStore(shards, form, shuffle_window, center_crop, only_gray, skip_bad_images, num_workers)
        if show_progress:
            stream.warn_of_memory(memory_limit_bytes)
        shape, fingerprint = (form.channels, *form.resolution), stream.fingerprint()
        return ImageData(stream, shape, form.max_value, None, shards.class_names, shards.columns, fingerprint)
    source = open_source(where, split, image_column, label_column, show_progress)
    kept, surveys = survey_all(source, skip_bad_images, num_workers, show_progress)
    target = target or _only_size(source, kept, surveys)
    form = Format(
        channels=image_channels or (3 if any(s.is_color for s in surveys) else 1),
        max_value=MAX_16_BIT if preserve_input_precision and any(s.is_16_bit for s in surveys) else MAX_8_BIT,
        resolution=target,
    )
    store: Store = DiskStore(source, kept, form, center_crop, num_workers)
    sizes = {covering_size((s.height, s.width), target) for s in surveys}
    height, width = target if center_crop else max(sizes)
    size_bytes = len(kept) * form.channels * height * width * integer_dtype(form.max_value).itemsize
    if (center_crop or len(sizes) == 1) and size_bytes <= memory_limit_bytes:
        store = store.decode_all((height, width), show_progress)
    labels = None if source.labels is None else source.labels[kept]
    shape, fingerprint = (form.channels, *target), source.fingerprint(kept)
    return ImageData(store, shape, form.max_value, labels, source.class_names, source.columns, fingerprint)


def _only_size(source: ImageSource, kept: torch.Tensor, surveys: list[Survey]) -> tuple[int, int]:
    """The (H, W) that all images have."""
    first = surveys[0]
    for row, other in zip(kept.tolist(), surveys, strict=True):
        if (other.height, other.width) != (first.height, first.width):
            raise ValueError(
                "`resolution` must be given because the images differ in size (height x width): "
                f"{source.describe(int(kept[0]))} is {first.height}x{first.width}, "
                f"{source.describe(row)} is {other.height}x{other.width}."
            )
    return first.height, first.width


def _to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)  # the host does not wait for the copy
    return tensor.to(device)
