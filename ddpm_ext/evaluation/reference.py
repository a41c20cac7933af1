"""What generated images are compared with: a split of a data set, un-augmented, its statistics kept from run to run.

A file holds the statistics of one (data set, split, size and channels, feature network, number of images), and its
name is the digest of these, so that nothing else is ever read in its place.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from huggingface_hub import cached_assets_path
from torch import Tensor

from ddpm_ext.data.images import ImageData
from ddpm_ext.randomness import generator_for

from .features import Extractor
from .statistics import Moments, extract


_FORMAT = 1  # a greater one whenever the same arguments would give other numbers


@dataclass(frozen=True)
class Reference:
    """Real images by their features: the `moments` of all, and for some the `features`, float32 (M, D), and `labels`.

    `indices`, int64 (N,), are the images' places in the data set, the M first. `labels` are int64 (M,), or None.
    `protocol` says which images they are.
    """

    moments: Moments
    features: Tensor
    indices: Tensor
    labels: Tensor | None
    protocol: Mapping[str, str | int]


def default_cache() -> Path:
    """The folder for statistics in the cache of huggingface_hub, which `HF_HOME` moves."""
    return cached_assets_path("ddpm_ext", "evaluation", "references")


def load_reference(
    data: ImageData,
    name: str,
    split: str,
    extractor: Extractor,
    num_images: int | None = None,
    keep_features: int = 0,
    cache: Path | None = None,
    accelerator: Accelerator | None = None,
    progress: str | None = None,
) -> Reference:
    """The reference that `data`, the `split` of the data set `name`, is; the same on every process.

    `num_images`: how many images, chosen at random but always the same ones (default: all). `keep_features`: of how
    many of these the features are kept, for metrics that compare images with one another. `cache`: the folder that
    statistics are kept in, None for none. ValueError where a file in it is damaged, or where there are fewer than two
    images.
    """
    if len(data) < 2:
        raise ValueError(f"the reference, the {split} split of {name}, has {len(data)} images: at least 2 are needed.")
    chosen = choose(len(data), num_images)
    keep_features = min(keep_features, len(chosen))
    size = "x".join(map(str, data.shape[1:]))
    protocol = {"data_set": name, "split": split, "resolution": size, "reference_images": len(chosen)}
    identity = {
        **protocol,
        "format": _FORMAT,
        "data": data.fingerprint,
        "total": len(data),
        "channels": data.shape[0],
        "features": extractor.fingerprint,
        "kept": keep_features,
    }
    labels = None if data.labels is None else data.labels[chosen[:keep_features]]
    file = None if cache is None else cache / f"{_digest(identity)}.npz"
    found = _read_once(file, accelerator)
    if found is None:
        read = chosen if keep_features else chosen.sort().values  # in their order, which a stream is fastest in
        extracted = extract(extractor, data, accelerator, read, 1, keep_features, progress)
        found = extracted.sums.moments(), extracted.features
        if file is not None and (accelerator is None or accelerator.is_main_process):
            _write(file, *found, identity)
    return Reference(*found, chosen, labels, protocol)


def choose(total: int, count: int | None) -> Tensor:
    """`count` of `total` images (all, if there are fewer, or for None) in random order, always the same, int64."""
    order = torch.randperm(total, generator=generator_for(0, "reference", 0))
    return order if count is None else order[:count]


def _digest(identity: Mapping[str, str | int]) -> str:
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()


def _read_once(file: Path | None, accelerator: Accelerator | None) -> tuple[Moments, Tensor] | None:
    """What is in the file, read by the main process for all, as others may be on machines that lack it."""
    if file is None:
        return None
    if accelerator is None or accelerator.num_processes == 1:
        return _read(file)
    shared = [_read(file) if accelerator.is_main_process else None]
    broadcast_object_list(shared)
    return shared[0]


def _read(file: Path) -> tuple[Moments, Tensor] | None:
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            count, mean, covariance, features = (arrays[key] for key in ("count", "mean", "covariance", "features"))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`reference_cache` holds a damaged file, {file} ({' '.join(str(error).split()).rstrip('.')}): delete it, "
            "and it is made anew."
        ) from error
    return Moments(int(count), torch.from_numpy(mean), torch.from_numpy(covariance)), torch.from_numpy(features)


def _write(file: Path, moments: Moments, features: Tensor, identity: Mapping[str, str | int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.npz")
    np.savez(
        partial,
        count=moments.count,
        mean=moments.mean.numpy(),
        covariance=moments.covariance.numpy(),
        features=features.numpy(),
        identity=json.dumps(identity),
    )
    os.replace(partial, file)
