"""Uploads of a pipeline's folder to the Hub: the model and its card, never the state of its training.

`upload_folder` does one and returns where it went; `BackgroundUploads` is a run's, whose training neither waits for
the Hub nor stops because of it.
"""

import filecmp
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from .model_card import is_edited, write_model_card


_WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")
_MODEL = ("model_index.json", "unet", "scheduler")
_OF_THE_RUN = ("README.md", "config.yaml", "loss.png", "samples", "run.json", "metrics.jsonl", "evaluation")


def upload_folder(
    folder: Path,
    repo_id: str,
    private: bool = True,
    token: str | None = None,
    licence: str | None = None,
    commit_message: str = "Upload the pipeline",
    create_pr: bool = False,
) -> str:
    """Uploads the pipeline in `folder` with its card, and returns the address of the commit.

    A repository that does not exist is made, private unless `private` is false. Files that the Hub has are not sent
    again, so an upload that broke off goes on where it was. A card that a person has edited, here or there, stays.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    write_model_card(folder, repo_id, licence)
    ignored = ["README.md"] if _card_was_edited_there(repo_id, token) else None
    grids = sorted((folder / "samples").glob("step-*.png"))
    allowed = [f"{name}/*" if (folder / name).is_dir() else name for name in _MODEL]
    allowed += ["README.md", "config.yaml", "loss.png", "run.json", "metrics.jsonl", "evaluation/metrics.json"]
    allowed += [f"samples/{grid.name}" for grid in grids[-1:]]
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        allow_patterns=allowed,
        ignore_patterns=ignored,
        commit_message=commit_message,
        create_pr=create_pr,
    ).commit_url


def _card_was_edited_there(repo_id: str, token: str | None) -> bool:
    try:
        path = hf_hub_download(repo_id, "README.md", token=token, force_download=True)
    except (EntryNotFoundError, RepositoryNotFoundError):
        return False
    return is_edited(Path(path).read_text(encoding="utf-8"))


def why(error: BaseException, token: str | None) -> str:
    """What went wrong in one line, without the token."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {' '.join(lines)[:300]}" if lines else type(error).__name__
    return reason.replace(token, "***") if token else reason


class BackgroundUploads:
    """The uploads of one run's output folder to `repo_id`. `warn` is told, in a sentence, of one that failed."""

    def __init__(
        self, repo_id: str, private: bool, token: str | None, licence: str | None, warn: Callable[[str], None]
    ) -> None:
        self.repo_id, self._private, self._token, self._licence = repo_id, private, token, licence
        self._warn = warn
        self._running: Future[str] | None = None

    def start(self, folder: Path, message: str) -> None:
        """Begins to upload what `folder` holds now. Where the last upload still runs, nothing: a later one follows."""
        if self._running is not None and not self._running.done():
            return
        self._settle()
        staged = folder / ".partial-upload"
        try:
            shutil.rmtree(staged, ignore_errors=True)
            _link(folder, staged, _MODEL + _OF_THE_RUN)
            self._running = HfApi().run_as_future(self._upload, staged, message)
        except OSError as error:
            self._warn(f"`push_to_hub` failed ({why(error, self._token)}); training goes on")

    def finish(self, folder: Path) -> str | None:
        """Waits for the upload that runs, then uploads the end of the run; the commit's address, or None."""
        self._settle()
        self._running = None
        try:
            return self._upload(folder, "End of training")
        except Exception as error:  # whatever the network does, the model is trained and saved
            self._warn(f"`push_to_hub` to {self.repo_id} failed ({why(error, self._token)})")
            return None

    def _upload(self, folder: Path, message: str) -> str:
        return upload_folder(folder, self.repo_id, self._private, self._token, self._licence, message)

    def _settle(self) -> None:
        if self._running is None:
            return
        error = self._running.exception()
        if error is not None:
            self._warn(f"`push_to_hub` to {self.repo_id} failed ({why(error, self._token)}); training goes on")
        self._running = None


def add_run(folder: Path, run_folder: Path) -> None:
    """Gives `folder`, which holds a pipeline, what the card tells of a run, if `run_folder` has the same weights."""
    theirs = run_folder / _WEIGHTS
    if theirs.is_file() and filecmp.cmp(folder / _WEIGHTS, theirs, shallow=False):
        _link(run_folder, folder, _OF_THE_RUN)


def _link(folder: Path, target: Path, names: tuple[str, ...]) -> None:
    """Gives the files a second name, under which they stay as they are when a run replaces them."""
    target.mkdir(exist_ok=True)
    for name in names:
        if (folder / name).is_dir():
            shutil.copytree(folder / name, target / name, copy_function=_link_or_copy)
        elif (folder / name).exists():
            _link_or_copy(folder / name, target / name)


def _link_or_copy(source: Path | str, target: Path | str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
