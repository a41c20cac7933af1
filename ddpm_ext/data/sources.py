"""Where images come from: scikit-learn's digits, a folder of images, parquet files, or any data set of the Hub.

Each source is opened as undecoded rows plus labels, so that counting, splitting and choosing columns cost no decoding.
"""

import difflib
import glob
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import torch

from ddpm_ext.data.decoding import Row


if TYPE_CHECKING:
    import datasets

DIGITS = "digits"
PREFERRED_IMAGE_COLUMNS = ("image", "img")
PREFERRED_LABEL_COLUMN = "label"
FINGERPRINT_IMAGES = 16


@dataclass(frozen=True)
class ImageSource:
    """Undecoded images, `rows[indices][column]`, and labels, int64 (N,) or None. `columns`: all of the data set's."""

    name: str
    rows: "datasets.Dataset | DigitRows"
    column: str
    columns: list[str]
    labels: torch.Tensor | None
    class_names: list[str] | None

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: list[int]) -> list[Row]:
        return self.rows[indices][self.column]

    def fingerprint(self, kept: torch.Tensor) -> str:
        """Eight hexadecimal digits of the rows `kept`, LongTensor (N,): all labels and, undecoded, a few images.

        Undecoded, as another version of a decoder would give other pixels.
        """
        digest = hashlib.blake2b(digest_size=4)
        if self.labels is not None:
            digest.update(self.labels[kept].numpy().tobytes())
        places = torch.linspace(0, len(kept) - 1, min(len(kept), FINGERPRINT_IMAGES)).round().long()
        for row in self.read(kept[places].tolist()):
            digest.update(_encoded(row))
        return digest.hexdigest()

    def describe(self, index: int) -> str:
        """What a user would look for to find image `index`: its file, or its row."""
        row = self.read([index])[0]
        if not isinstance(row, dict) or not row["path"]:
            return f"row {index} of {self.name}"
        return row["path"] if row["bytes"] is None else f"row {index} of {self.name} ({row['path']})"


def _encoded(row: Row) -> bytes:
    """What an image is stored as."""
    if isinstance(row, PIL.Image.Image):
        return row.tobytes()
    if row is None:
        return b""
    if row["bytes"] is not None:
        return row["bytes"]
    return Path(row["path"]).read_bytes() if row["path"] else b""


class DigitRows:
    """scikit-learn's digits behind the indexing of a `datasets.Dataset`."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.images = [PIL.Image.fromarray(image) for image in pixels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: list[int]) -> dict[str, list[Row]]:
        return {"image": [self.images[index] for index in indices]}


def open_source(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_data_dir: str | None = None,
    split: str = "train",
    image_column: str | None = None,
    label_column: str | None = None,
    cache_dir: str | None = None,
    show_progress: bool = True,
) -> ImageSource:
    """Opens one split of a data set; arguments and errors are those of `ddpm_ext.data.images.load_images`."""
    if dataset_name is None and train_data_dir is None:
        raise ValueError(
            "neither `dataset_name` nor `train_data_dir` is given; the data set 'digits' needs no download."
        )
    if dataset_name == DIGITS:
        return _open_digits(split)
    with _progress_bars_of_datasets(show_progress):
        if dataset_name is not None:
            rows = _load_named(dataset_name, dataset_config_name, split, cache_dir)
            name = f"`dataset_name` {dataset_name!r}"
        else:
            rows = _load_files("train_data_dir", train_data_dir, split, cache_dir)
            name = f"`train_data_dir` {train_data_dir!r}"
        if len(rows) == 0:
            raise ValueError(f"{name} has no images in its split {split!r}.")
        image_column = _find_image_column(name, rows, image_column)
        labels, class_names = _read_labels(name, rows, label_column)
        return ImageSource(
            name, _undecoded(rows, image_column), image_column, list(rows.column_names), labels, class_names
        )


def _open_digits(split: str) -> ImageSource:
    """The 1,797 real 8x8 digits of scikit-learn (0..16, stored as 0..255) in a fixed stratified 80/20 split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise ValueError(f"`split` is {split!r}; the splits of {DIGITS!r} are 'train' and 'test'.")
    digits = load_digits()
    train, test = train_test_split(range(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    chosen = np.array(train if split == "train" else test)
    pixels = np.round(digits.images[chosen] * 255 / 16).astype(np.uint8)
    labels = torch.from_numpy(digits.target[chosen]).long()
    names = [str(digit) for digit in range(10)]
    return ImageSource(DIGITS, DigitRows(pixels), "image", ["image", "label"], labels, names)


def _load_named(name: str, config_name: str | None, split: str, cache_dir: str | None) -> "datasets.Dataset":
    """A data set of the Hub or a folder, which `datasets` tells apart, or parquet files."""
    if os.path.isfile(name) or glob.has_magic(name):
        return _load_files("dataset_name", name, split, cache_dir)
    hint = "pass a data set of the Hub, a folder, a parquet file, or 'digits', which needs no download"
    if difflib.get_close_matches(name, [DIGITS]):
        hint = f"perhaps {DIGITS!r} is meant"
    return _load("dataset_name", name, split, hint, path=name, config_name=config_name, cache_dir=cache_dir)


def _load_files(argument: str, path: str, split: str, cache_dir: str | None) -> "datasets.Dataset":
    """A folder of images or of parquet files, one parquet file, or a glob of parquet files."""
    hint = "pass a folder of images or of parquet files, a parquet file, or a glob of parquet files"
    if os.path.isdir(path):
        return _load(
            argument, path, split, hint, path=_builder_for(argument, path), data_dir=path, cache_dir=cache_dir
        )
    files = sorted(glob.glob(path, recursive=True))
    if not files:
        raise ValueError(f"`{argument}` is {path!r}, which does not exist; {hint}.")
    if not all(file.endswith(".parquet") for file in files):
        raise ValueError(f"`{argument}` is {path!r}, which is not a parquet file; {hint}.")
    return _load(argument, path, split, hint, path="parquet", data_files=files, cache_dir=cache_dir)


def _builder_for(argument: str, folder: str) -> str:
    """How `datasets` is to read a folder, "parquet" or "imagefolder", by the first file that is either."""
    image_extensions = PIL.Image.registered_extensions()
    for _, _, files in os.walk(folder, followlinks=True):
        for file in files:
            extension = os.path.splitext(file)[1].lower()
            if extension == ".parquet":
                return "parquet"
            if extension in image_extensions:
                return "imagefolder"
    raise ValueError(f"`{argument}` is {folder!r}, a folder with no image and no parquet file in it.")


def _load(
    argument: str,
    name: str,
    split: str,
    hint: str,
    path: str,
    config_name: str | None = None,
    data_dir: str | None = None,
    data_files: list[str] | None = None,
    cache_dir: str | None = None,
) -> "datasets.Dataset":
    """`datasets.load_dataset`, its many errors made one sentence."""
    import datasets

    try:
        return datasets.load_dataset(
            path, config_name, split=split, data_dir=data_dir, data_files=data_files, cache_dir=cache_dir
        )
    except Exception as error:  # network, access, formats: whatever it is, it keeps this argument from being loaded
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        unknown_split = re.match(r"Unknown split .* Should be one of (\[.*\])", reason)
        if unknown_split:
            raise ValueError(f"`split` is {split!r}; the splits of {name!r} are {unknown_split[1]}.") from error
        raise ValueError(f"`{argument}` {name!r} could not be loaded ({reason}); {hint}.") from error


@contextmanager
def _progress_bars_of_datasets(shown: bool) -> Iterator[None]:
    import datasets

    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _find_image_column(name: str, rows: "datasets.Dataset", image_column: str | None) -> str:
    images = [column for column in rows.column_names if _holds_images(rows.features[column])]
    if image_column is not None:
        if image_column in images:
            return image_column
        problem = "holds no images" if image_column in rows.column_names else "does not exist"
        raise ValueError(f"`image_column` {image_column!r} {problem} in {name}; {_list_columns(rows, images)}.")
    for preferred in PREFERRED_IMAGE_COLUMNS:
        if preferred in images:
            return preferred
    if len(images) == 1:
        return images[0]
    problem = "several image columns: choose one with `image_column`" if images else "no image column"
    raise ValueError(f"{name} has {problem}; {_list_columns(rows, images)}.")


def _list_columns(rows: "datasets.Dataset", images: list[str]) -> str:
    return f"its columns are {rows.column_names}, of which {images or 'none'} can be read as images"


def _holds_images(feature: object) -> bool:
    """An image feature, or what it looks like in a file that does not say so: encoded bytes, alone or with a path."""
    import datasets

    if isinstance(feature, datasets.Value):
        return feature.dtype in ("binary", "large_binary")
    is_image = isinstance(feature, datasets.Image)
    return is_image or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


def _undecoded(rows: "datasets.Dataset", column: str) -> "datasets.Dataset":
    import datasets

    return rows.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _read_labels(
    name: str, rows: "datasets.Dataset", label_column: str | None
) -> tuple[torch.Tensor | None, list[str] | None]:
    """Labels 0..K-1 and the K names. Without `label_column`, of the column `label` or the only column of classes."""
    import datasets

    if label_column is None:
        classes = [c for c in rows.column_names if isinstance(rows.features[c], datasets.ClassLabel)]
        found = PREFERRED_LABEL_COLUMN if PREFERRED_LABEL_COLUMN in rows.column_names else None
        found = found or (classes[0] if len(classes) == 1 else None)
        try:
            return _labels_in(name, rows, found) if found else (None, None)
        except ValueError:  # nobody asked for these labels: a data set for unconditional training may lack some
            return None, None
    if label_column not in rows.column_names:
        problem = f"does not exist in {name}; its columns are {rows.column_names}"
        raise ValueError(f"`label_column` {label_column!r} {problem}.")
    return _labels_in(name, rows, label_column)


def _labels_in(name: str, rows: "datasets.Dataset", column: str) -> tuple[torch.Tensor, list[str]]:
    import datasets

    feature = rows.features[column]
    values = rows.with_format(None).select_columns([column])[:][column]
    if any(value is None for value in values):
        raise ValueError(f"`label_column` {column!r} of {name} has rows without a label.")
    if all(isinstance(value, str) for value in values):
        names = sorted(set(values))
        place = {label: index for index, label in enumerate(names)}
        return torch.tensor([place[value] for value in values]), names
    if not all(isinstance(value, int) for value in values):
        raise ValueError(f"`label_column` {column!r} of {name} is {feature}; labels must be class numbers or names.")
    if min(values) < 0:
        raise ValueError(f"`label_column` {column!r} of {name} has rows without a label (class {min(values)}).")
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    return torch.tensor(values, dtype=torch.int64), list(names or map(str, range(max(values) + 1)))
