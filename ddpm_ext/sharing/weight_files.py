"""Weights from a file that somebody else wrote: tensors by name, and never a line of code."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


_TELLING = (OSError, RuntimeError, ValueError, SafetensorError)

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def read_weights(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors in `path` by name, on the CPU, and the names of what else lies beside them in the file.

    A .safetensors file, or what `torch.save` wrote: a dictionary of tensors, or a dictionary that holds one such as
    {"model": ..., "step": ...}. ValueError, in one sentence, for a file that is no such thing, is damaged, or wants to
    run code.
    """
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"`checkpoint` is {path}, which {reason}: a file of weights is accepted.")
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"`checkpoint` is {path}: a file that ends in {', '.join(_SUFFIXES)} is accepted.")
    if path.stat().st_size == 0:
        raise ValueError(f"`checkpoint` is {path}, which is empty.")
    content = _read(path)
    weights, others = _weights_in(content, path)
    prefix = "module." if all(name.startswith("module.") for name in weights) else ""  # torch's DataParallel
    weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"`checkpoint` is {path}, whose {name} holds NaN or infinity: its training went wrong.")
    return weights, others


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if zipfile.is_zipfile(path):  # torch does not look at the checksums
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of another protocol than torch's
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle can raise anything
        raise ValueError(f"`checkpoint` is {path}, which {_what_is_wrong(error)}.") from error


def _what_is_wrong(error: Exception) -> str:
    text = " ".join(str(error).split())
    code = re.search(r"GLOBAL:? ([\w.]+)", text)
    if code:
        return f"holds more than tensors and would run code on reading ({code[1].rstrip('.')}), so it was not read"
    if isinstance(error, UnpicklingError):
        return "holds more than tensors, or is damaged, so it was not read"
    reason = re.split(r"\. |, file in archive", text)[0].rstrip(".")
    return "is truncated or damaged" + (f" ({reason})" if isinstance(error, _TELLING) and reason else "")


def _weights_in(content: object, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    if not isinstance(content, Mapping):
        raise ValueError(
            f"`checkpoint` is {path}, which holds a {type(content).__name__}: a dictionary of tensors is accepted."
        )
    if "param_groups" in content:
        raise ValueError(
            f"`checkpoint` is {path}, which is the state of an optimizer: the network's file is accepted."
        )
    if _is_weights(content):
        return dict(content), []
    inner = [name for name, part in content.items() if _is_weights(part)]
    if not inner:
        raise ValueError(f"`checkpoint` is {path}, which holds no weights: a dictionary of tensors is accepted.")
    if len(inner) > 1:
        raise ValueError(
            f"`checkpoint` is {path}, which holds several sets of weights ({', '.join(map(str, inner))}): a file with "
            "one is accepted."
        )
    return dict(content[inner[0]]), [str(name) for name in content if name != inner[0]]


def _is_weights(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )
