"""Where a run keeps its checkpoints: `checkpoints/checkpoint-<step>`, each whole or not there at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError

from diffusers import ModelMixin
from safetensors import SafetensorError

from ddpm_ext.data.training_data import TrainingData

from .arguments import Arguments
from .global_batch import GlobalBatch


_PREFIX = "checkpoint-"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest step first."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """The number of updates that `checkpoint` was written after."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def find_checkpoint(folder: Path, which: str) -> Path:
    """The checkpoint that `resume_from_checkpoint` = `which` names: "latest", a name in `folder`, or a path."""
    if which == "latest":
        found = list_checkpoints(folder)
        if not found:
            raise ValueError(f"`resume_from_checkpoint` is 'latest', but {folder} holds no checkpoint.")
        return found[-1]
    for path in (Path(which), folder / which):
        if (path / "state").is_dir() and path.name.removeprefix(_PREFIX).isdecimal():
            return path
    raise ValueError(
        f"`resume_from_checkpoint` is '{which}', which is no checkpoint: 'latest', or a folder such as "
        f"{folder / (_PREFIX + '500')} is accepted."
    )


def chosen_checkpoint(folder: Path, resume: bool, resume_from_checkpoint: str | None) -> Path | None:
    """The checkpoint that a run goes on from; None where it starts anew."""
    if resume_from_checkpoint is not None:
        return find_checkpoint(folder, resume_from_checkpoint)
    return find_checkpoint(folder, "latest") if resume and list_checkpoints(folder) else None


def newest_pipeline(model: str) -> str:
    """The folder of a run's pipeline: its root or, where it has none yet, its newest checkpoint.

    Any other `model`, such as the name of a repository, is returned as it is.
    """
    checkpoints = list_checkpoints(Path(model) / "checkpoints")
    is_saved = (Path(model) / "model_index.json").is_file() or not checkpoints
    return model if is_saved else str(checkpoints[-1])


WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)
"""What a full or failing disk raises: from Python, from safetensors, from torch.save."""


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` to write into; it takes the name of `target` when all went well.

    A run that is killed meanwhile leaves `.partial-*`, which the next one to write removes and nothing ever reads.
    """
    partial = target.with_name(f".partial-{target.name}")
    for left in target.parent.glob(".partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            _remove(target)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_oldest(folder: Path, keep: int | None) -> None:
    """Removes all but the `keep` newest checkpoints; call it when the newest is whole."""
    for checkpoint in list_checkpoints(folder)[:-keep] if keep else []:
        _remove(checkpoint)


def _remove(checkpoint: Path) -> None:
    """Takes away the name first, so that a run that is killed meanwhile leaves no half of a checkpoint."""
    nameless = checkpoint.with_name(f".partial-removed-{checkpoint.name}")
    os.replace(checkpoint, nameless)
    shutil.rmtree(nameless, ignore_errors=True)


@contextmanager
def read_whole(checkpoint: Path) -> Iterator[None]:
    """What goes wrong in reading `checkpoint` becomes a ValueError that names it."""
    try:
        yield
    except (OSError, EOFError, KeyError, RuntimeError, UnpicklingError, SafetensorError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"`resume_from_checkpoint` is {checkpoint}, which cannot be read ({reason}): an earlier one may be whole."
        ) from error


def run_identity(arguments: Arguments, data: TrainingData, global_batch: GlobalBatch) -> dict[str, object]:
    """What must be the same for a resumed run to be the same run; see `check_same_run`."""
    training = arguments.training
    return {
        "seed": training.seed,
        "global_batch_size": global_batch.size,
        "num_samples": len(data),
        data.noun: f"{'x'.join(map(str, data.shape))}, fingerprint {data.fingerprint}",
        "use_ema": training.use_ema,
        "timestep_sampler": training.timestep_sampler,
        "objective": training.objective,
        **asdict(arguments.process),
    }


def check_same_run(checkpoint: Path, identity: Mapping[str, object], global_batch: GlobalBatch) -> dict[str, object]:
    """What `checkpoint` says of its run; ValueError where that differs from this one in what `identity` names."""
    try:
        saved = {"objective": "ddpm", **json.loads((checkpoint / "state" / "run.json").read_text())}
    except (OSError, ValueError):
        raise ValueError(
            f"`resume_from_checkpoint` is {checkpoint}, which is no checkpoint: its state/run.json cannot be read."
        ) from None
    for name, value in identity.items():
        there = saved.get(name)
        if there != value:
            advice = "a run can only be resumed as it was started"
            if name == "global_batch_size" and isinstance(there, int):
                advice = global_batch.how_to_make(there)
            raise ValueError(
                f"`resume_from_checkpoint` is {checkpoint}, which was trained with {name} = {there}, and this run has "
                f"{value}: {advice}."
            )
    return saved


def check_same_network(checkpoint: Path, unet: ModelMixin) -> None:
    """ValueError where the network in `checkpoint` has another architecture than `unet`."""
    there = json.loads((checkpoint / "unet" / "config.json").read_text())
    here = json.loads(unet.to_json_string())
    for name in here.keys() | there.keys():
        if not name.startswith("_") and there.get(name) != here.get(name):
            raise ValueError(
                f"`resume_from_checkpoint` is {checkpoint}, whose network has {name} = {there.get(name)}, and this "
                f"run's has {here.get(name)}: a checkpoint of another architecture cannot be resumed."
            )
