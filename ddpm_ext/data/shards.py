"""Parquet files, local or behind a URL, read a row group ("block") at a time; opening them reads their footers only.

A footer says how many rows and bytes each row group has and which numbers its labels range over. So the data set is
counted, its images found and its classes known before anything of it is downloaded or decoded.
"""

import hashlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import BinaryIO, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fsspec.implementations.local import LocalFileSystem

from ddpm_ext.data.decoding import Row
from ddpm_ext.data.locations import DIGITS, Location
from ddpm_ext.data.sources import find_image_column, find_label_column


logger = logging.getLogger(__name__)

FOOTERS_AT_A_TIME = 16
SECONDS_TO_WAIT = (1, 5, 20, 60)  # before asking a place that is not this machine again


class Block(NamedTuple):
    """A row group: how many rows and bytes of images it holds, and which of which file it is."""

    rows: int
    stored_bytes: int
    image_bytes: int
    file: str
    group: int
    labels: tuple[int, int] | None  # least and greatest; None: not known, or some are missing


class Shards:
    """The rows of some parquet files in the order of the files. Made by `open_shards`.

    `sizes`: rows of each block, LongTensor. `class_names` is None where there are no labels, and so is `label_column`.
    """

    def __init__(
        self,
        name: str,
        filesystem: fsspec.AbstractFileSystem,
        blocks: list[Block],
        columns: list[str],
        image_column: str,
        label_column: str | None,
        class_names: list[str] | None,
    ) -> None:
        self.name = name
        self.filesystem = filesystem
        self.blocks = blocks
        self.columns = columns
        self.image_column = image_column
        self.label_column = label_column
        self.class_names = class_names
        self.sizes = torch.tensor([block.rows for block in blocks])
        self._ends = self.sizes.cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, indices: torch.Tensor) -> list[tuple[int, int]]:
        """(block, row in the block) of each index."""
        numbers = torch.searchsorted(self._ends, indices, right=True)
        rows = indices - self._ends[numbers] + self.sizes[numbers]
        return list(zip(numbers.tolist(), rows.tolist(), strict=True))

    def read(self, number: int, stopped: Event | None = None) -> pa.Table:
        """Images, undecoded, and labels of a block; ValueError where it cannot be read.

        A place that is not this machine is asked again for a minute or two, unless `stopped` meanwhile.
        """
        block = self.blocks[number]
        columns = [self.image_column] + ([self.label_column] if self.label_column else [])
        waits = () if isinstance(self.filesystem, LocalFileSystem) else SECONDS_TO_WAIT
        for wait in (*waits, None):
            try:
                with _opened(self.filesystem, block.file) as file:
                    return pq.ParquetFile(file, pre_buffer=True).read_row_group(block.group, columns)
            except Exception as error:  # each file system has kinds of its own
                sentence = f"row group {block.group} of {block.file} cannot be read ({_reason(error)})"
                if wait is None or (stopped or Event()).is_set():
                    raise ValueError(f"{sentence}; `--resume` goes on from the last checkpoint.") from error
                logger.warning("%s; trying again in %d s", sentence, wait)
                (stopped or Event()).wait(wait)

    def image(self, table: pa.Table, row: int) -> Row:
        """An image of a block that was read."""
        content = table.column(self.image_column)[row].as_py()
        return {"bytes": content, "path": None} if isinstance(content, bytes) else content

    def label(self, table: pa.Table, row: int) -> int:
        """A label of a block that was read."""
        label = table.column(self.label_column)[row].as_py()
        if label is None or not 0 <= label < len(self.class_names):
            raise ValueError(
                f"`label_column` {self.label_column!r} of {self.name} has rows without a label ({label})."
            )
        return label

    def describe(self, index: int) -> str:
        """What a user would look for to find an image."""
        number, row = self.locate(torch.tensor([index]))[0]
        block = self.blocks[number]
        before = sum(other.rows for other in self.blocks if other.file == block.file and other.group < block.group)
        return f"row {before + row} of {block.file}"

    def fingerprint(self) -> str:
        """Eight hexadecimal digits of the numbers of rows and bytes of all blocks."""
        numbers = [(block.rows, block.stored_bytes, block.image_bytes, block.labels) for block in self.blocks]
        return hashlib.blake2b(repr(numbers).encode(), digest_size=4).hexdigest()


def open_shards(where: Location, split: str, image_column: str | None, label_column: str | None) -> Shards:
    """Reads the footers; arguments and errors are those of `ddpm_ext.data.images.load_images`."""
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    if where.is_digits:
        raise ValueError(f"`streaming` reads parquet files, and {DIGITS!r} are in memory: leave it out.")
    builder, files = where.find_files(split)
    if not isinstance(builder, Parquet) or not files:
        raise ValueError(
            f"`streaming` reads parquet files, and {where.name} has none in its split {split!r}: leave it out, or "
            "name those that the Hub makes of many data sets, "
            "'hf://datasets/USER/NAME@refs/convert/parquet/CONFIG/SPLIT/*.parquet'."
        )
    filesystem = fsspec.core.url_to_fs(files[0])[0]
    paths = [fsspec.core.url_to_fs(file)[1] for file in files]
    schema = _footer(where.name, filesystem, paths[0]).schema.to_arrow_schema()
    features = builder.info.features or datasets.Features.from_arrow_schema(schema)
    images = find_image_column(where.name, features, image_column)
    labels = find_label_column(where.name, features, label_column)

    def blocks_of(path: str) -> list[Block]:
        return list(_blocks(path, _footer(where.name, filesystem, path), images, labels))

    with ThreadPoolExecutor(FOOTERS_AT_A_TIME) as pool:
        blocks = [block for blocks in pool.map(blocks_of, paths) for block in blocks]
    if not blocks:
        raise ValueError(f"{where.name} has no images in its split {split!r}.")
    names = _class_names(features[labels], blocks) if labels else None
    if names is None and label_column is not None:
        raise ValueError(
            f"`label_column` {label_column!r} of {where.name} is {features[labels]}, perhaps with rows that have "
            "none: with `streaming`, class numbers of at least 0 are accepted, one in every row."
        )
    return Shards(where.name, filesystem, blocks, list(features), images, labels if names else None, names)


@contextmanager
def _opened(filesystem: fsspec.AbstractFileSystem, path: str) -> Iterator[BinaryIO]:
    """A file to read at any place; of one that is not local no more is fetched than pyarrow asks for."""
    local = isinstance(filesystem, LocalFileSystem)
    with pa.memory_map(path) if local else filesystem.open(path, cache_type="none") as file:
        yield file


def _footer(name: str, filesystem: fsspec.AbstractFileSystem, path: str) -> pq.FileMetaData:
    try:
        with _opened(filesystem, path) as file:
            return pq.read_metadata(file)
    except Exception as error:  # each file system has kinds of its own
        raise ValueError(f"{path} of {name} cannot be read as a parquet file ({_reason(error)}).") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _blocks(path: str, footer: pq.FileMetaData, image_column: str, label_column: str | None) -> Iterator[Block]:
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        if group.num_rows == 0:
            continue
        columns = [group.column(place) for place in range(group.num_columns)]
        images = [column for column in columns if column.path_in_schema.split(".")[0] == image_column]
        labels = [column for column in columns if column.path_in_schema == label_column]
        if not images or (label_column and not labels):
            raise ValueError(f"{path} lacks the column {image_column if labels else label_column or image_column!r}.")
        yield Block(
            group.num_rows,
            sum(column.total_compressed_size for column in images),
            sum(column.total_uncompressed_size for column in images),
            path,
            number,
            _range(labels[0].statistics) if labels else None,
        )


def _range(statistics: pq.Statistics | None) -> tuple[int, int] | None:
    if statistics is None or not statistics.has_min_max or not isinstance(statistics.min, int):
        return None
    return -1 if statistics.null_count else statistics.min, statistics.max


def _class_names(feature: object, blocks: list[Block]) -> list[str] | None:
    """The names of the classes 0..K-1; None where labels are missing, or no numbers."""
    import datasets

    known = [block.labels for block in blocks if block.labels is not None]
    if any(least < 0 for least, _ in known):
        return None
    if isinstance(feature, datasets.ClassLabel):
        return feature.names
    if len(known) < len(blocks):
        return None
    return [str(label) for label in range(1 + max(greatest for _, greatest in known))]
