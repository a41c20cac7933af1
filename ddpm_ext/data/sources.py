"""Images as undecoded rows plus labels, so that counting, splitting and choosing columns cost no decoding."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import torch

from ddpm_ext.data.decoding import Row
from ddpm_ext.data.locations import DIGITS, Location, progress_bars_of_datasets


if TYPE_CHECKING:
    import datasets

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
    where: Location, split: str, image_column: str | None, label_column: str | None, show_progress: bool
) -> ImageSource:
    """Opens one split of a data set; arguments and errors are those of `ddpm_ext.data.images.load_images`."""
    if where.is_digits:
        return _open_digits(split)
    rows, name = where.load(split, show_progress), where.name
    if len(rows) == 0:
        raise ValueError(f"{name} has no images in its split {split!r}.")
    with progress_bars_of_datasets(show_progress):
        image_column = find_image_column(name, rows.features, image_column)
        labels, class_names = _read_labels(name, rows, label_column)
        undecoded = _undecoded(rows, image_column)
    return ImageSource(name, undecoded, image_column, list(rows.column_names), labels, class_names)


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


def find_image_column(name: str, features: Mapping[str, object], image_column: str | None) -> str:
    """The column of `features` (what is in each column) that holds the images; None finds it."""
    images = [column for column in features if _holds_images(features[column])]
    columns = f"its columns are {list(features)}, of which {images or 'none'} can be read as images"
    if image_column is not None:
        if image_column in images:
            return image_column
        problem = "holds no images" if image_column in features else "does not exist"
        raise ValueError(f"`image_column` {image_column!r} {problem} in {name}; {columns}.")
    for preferred in PREFERRED_IMAGE_COLUMNS:
        if preferred in images:
            return preferred
    if len(images) == 1:
        return images[0]
    problem = "several image columns: choose one with `image_column`" if images else "no image column"
    raise ValueError(f"{name} has {problem}; {columns}.")


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
    found = find_label_column(name, rows.features, label_column)
    try:
        return _labels_in(name, rows, found) if found else (None, None)
    except ValueError:
        if label_column is not None:
            raise
        return None, None  # nobody asked for these labels: a data set for unconditional training may lack some


def find_label_column(name: str, features: Mapping[str, object], label_column: str | None) -> str | None:
    """The column of the labels: without `label_column`, `label` or the only column of classes, or None."""
    import datasets

    if label_column is not None:
        if label_column not in features:
            problem = f"does not exist in {name}; its columns are {list(features)}"
            raise ValueError(f"`label_column` {label_column!r} {problem}.")
        return label_column
    classes = [column for column in features if isinstance(features[column], datasets.ClassLabel)]
    found = PREFERRED_LABEL_COLUMN if PREFERRED_LABEL_COLUMN in features else None
    return found or (classes[0] if len(classes) == 1 else None)


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
