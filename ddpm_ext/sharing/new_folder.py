"""A folder that comes into being whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def new_folder(target: Path, argument: str = "output_dir") -> Iterator[Path]:
    """A temporary folder to write into, which takes the name of `target` when all went well.

    ValueError, naming `argument`, where `target` is neither new nor an empty folder, or where it cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"`{argument}` is {target}, which exists: a folder, new or empty, is accepted.")
    ancestor = next(folder for folder in target.absolute().parents if folder.exists())
    partial = ancestor / f".partial-{os.getpid()}-{target.name}"
    try:
        partial.mkdir()
        yield partial
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rmdir()
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"`{argument}` is {target}, which cannot be written ({reason}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
