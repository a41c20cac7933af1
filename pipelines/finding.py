"""Finds the folder of a model: on this machine, on the Hub, or in the cache of what the Hub once sent."""

from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download, model_info
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)


INDEX = DiffusionPipeline.config_name


def find_index(model: str) -> Path:
    """The model_index.json of folder or repository `model`; ValueError, in one sentence, where there is none."""
    folder = Path(model)
    if folder.exists():
        if not (folder / INDEX).is_file():
            raise ValueError(f"`model` is {model}, which holds no pipeline: a folder with a {INDEX} is accepted.")
        return folder / INDEX
    try:
        return Path(hf_hub_download(model, INDEX, local_files_only=not _hub_knows(model)))
    except (OSError, HFValidationError) as error:
        has_no_index = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        without = f"which is a repository without a pipeline: one with a {INDEX} is accepted"
        raise ValueError(f"`model` is {model}, {without if has_no_index else _why_not(error)}.") from error


def find_folder(model: str, pipeline_class: type[DiffusionPipeline]) -> Path:
    """The folder with all that `pipeline_class` needs of `model`, downloaded where it is a repository."""
    if Path(model).exists():
        return Path(model)
    try:
        return Path(pipeline_class.download(model))
    except (OSError, ValueError) as error:
        raise ValueError(f"`model` is {model}, {_why_not(error)}.") from error


def _hub_knows(model: str) -> bool:
    """False where the Hub cannot be asked; OSError or HFValidationError where it says no.

    This question gives up at once, while a download without a network tries for half a minute.
    """
    try:
        model_info(model)
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception:  # without a network it is that of requests, httpx or httpx2, as the version of the client goes
        return False
    return True


def _why_not(error: Exception) -> str:
    """The end of a sentence about a repository that could not be read."""
    if isinstance(error, HFValidationError):
        return "which is no folder here, nor a name that a repository could have (such as me/ddpm-digits)"
    if isinstance(error, GatedRepoError):
        return "which is gated: ask for access on its page, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "which is no folder here and no repository on the Hub (a private one needs a login: `hf auth login`)"
    if isinstance(error, LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE keeps the Hub from being asked" if is_offline_mode() else "the Hub cannot be reached"
        return f"which is no folder here and not in the cache, and {why}"
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"which the Hub did not send (status {error.response.status_code})"
    return f"which could not be fetched ({' '.join(str(error).split()).rstrip('.')})"
