"""Where images come from: a folder of images, parquet files, or any data set of the Hub, as `datasets` opens them."""

import difflib
import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import PIL.Image


if TYPE_CHECKING:
    import datasets

DIGITS = "digits"


@dataclass(frozen=True)
class Location:
    """A data set that `argument` names; `path`, `data_dir` and `data_files` are what `datasets` is told for it."""

    argument: str
    given: str
    hint: str
    path: str
    config_name: str | None = None
    data_dir: str | None = None
    data_files: list[str] | str | None = None
    cache_dir: str | None = None

    @property
    def name(self) -> str:
        return f"`{self.argument}` {self.given!r}"

    @property
    def is_digits(self) -> bool:
        """scikit-learn's, which `datasets` has nothing to do with."""
        return self.path == DIGITS

    def load(self, split: str, show_progress: bool) -> "datasets.Dataset":
        """One split, downloaded and prepared; a ValueError of one sentence where that fails."""
        import datasets

        with self._one_sentence(split), progress_bars_of_datasets(show_progress):
            return datasets.load_dataset(split=split, **self._told)

    def find_files(self, split: str) -> tuple["datasets.DatasetBuilder", list[str]]:
        """How `datasets` would prepare a split, and the paths and URLs of its files, none of them downloaded."""
        import datasets

        with self._one_sentence(split), progress_bars_of_datasets(False):
            builder = datasets.load_dataset_builder(**self._told)
        files = {str(name): list(paths) for name, paths in (builder.config.data_files or {}).items()}
        if files and split not in files:
            raise ValueError(f"`split` is {split!r}; the splits of {self.given!r} are {sorted(files)}.")
        return builder, files.get(split, [])

    @property
    def _told(self) -> dict[str, object]:
        """The names are those of `datasets.load_dataset`."""
        return {
            "path": self.path,
            "name": self.config_name,
            "data_dir": self.data_dir,
            "data_files": self.data_files,
            "cache_dir": self.cache_dir,
        }

    @contextmanager
    def _one_sentence(self, split: str) -> Iterator[None]:
        """Makes one sentence of the many errors of `datasets`."""
        import datasets.exceptions

        try:
            yield
        except Exception as error:  # network, access, formats: whatever it is, it keeps this from being loaded
            cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
            reason = " ".join(str(cause or error).split()).rstrip(".") or type(error).__name__
            unknown_split = re.match(r"Unknown split .* Should be one of (\[.*\])", reason)
            if unknown_split:
                splits = unknown_split[1]
                raise ValueError(f"`split` is {split!r}; the splits of {self.given!r} are {splits}.") from error
            raise ValueError(f"{self.name} could not be loaded ({reason}); {self.hint}.") from error


def find_data(
    dataset_name: str | None, dataset_config_name: str | None, train_data_dir: str | None, cache_dir: str | None
) -> Location:
    """What these arguments of `ddpm_ext.data.images.load_images` name."""
    if dataset_name is None and train_data_dir is None:
        raise ValueError(
            "neither `dataset_name` nor `train_data_dir` is given; the data set 'digits' needs no download."
        )
    if dataset_name is None:
        return _files("train_data_dir", train_data_dir, cache_dir)
    if os.path.isfile(dataset_name) or "://" in dataset_name or glob.has_magic(dataset_name):
        return _files("dataset_name", dataset_name, cache_dir)
    hint = "pass a data set of the Hub, a folder, a parquet file, or 'digits', which needs no download"
    if difflib.get_close_matches(dataset_name, [DIGITS]):
        hint = f"perhaps {DIGITS!r} is meant"
    return Location(
        "dataset_name", dataset_name, hint, path=dataset_name, config_name=dataset_config_name, cache_dir=cache_dir
    )


def _files(argument: str, path: str, cache_dir: str | None) -> Location:
    """A folder of images or of parquet files, one parquet file, or a glob of parquet files, perhaps as a URL."""
    hint = "pass a folder of images or of parquet files, a parquet file, or a glob of parquet files"
    if os.path.isdir(path):
        builder = _builder_for(argument, path)
        return Location(argument, path, hint, path=builder, data_dir=path, cache_dir=cache_dir)
    files = path if "://" in path else sorted(glob.glob(path, recursive=True))
    if not files:
        raise ValueError(f"`{argument}` is {path!r}, which does not exist; {hint}.")
    if not all(file.endswith(".parquet") for file in ([path] if isinstance(files, str) else files)):
        raise ValueError(f"`{argument}` is {path!r}, which is not a parquet file; {hint}.")
    return Location(argument, path, hint, path="parquet", data_files=files, cache_dir=cache_dir)


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


@contextmanager
def progress_bars_of_datasets(shown: bool) -> Iterator[None]:
    """Hides them unless they are to be shown."""
    import datasets

    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
