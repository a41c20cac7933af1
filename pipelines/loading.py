"""Opens a pipeline of ours, or a stock one as ours, from a folder or the Hub: `model` of every script.

Whatever is wrong with it becomes one sentence. No code that a folder holds is run: a self-contained one opens with the
installed classes, and a pickle that is more than weights is refused. A network of one's own opens once its module has
been imported.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from pickle import UnpicklingError

import diffusers
from diffusers import DDPMPipeline, ModelMixin, SchedulerMixin
from packaging.version import InvalidVersion, Version
from safetensors import SafetensorError, safe_open

from ddpm_ext.publishing.carried_code import without_code

from .finding import find_folder, find_index
from .pipeline_class_conditional_ddpm import ClassConditionalDDPMPipeline
from .pipeline_improved_ddpm import ImprovedDDPMPipeline


_OURS = {cls.__name__: cls for cls in (ImprovedDDPMPipeline, ClassConditionalDDPMPipeline)}

_LIBRARIES = ("ddpm_ext", "diffusers")

# What opening a folder that is not in order raises, in diffusers and in the constructors of what it holds.
_ERRORS = (OSError, ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError)


def load_pipeline(model: str) -> ImprovedDDPMPipeline:
    """The pipeline in folder or repository `model`; ValueError, in one sentence, where there is none that we can
    run."""
    index = _read_index(find_index(model), model)
    name = index["_class_name"]
    if name not in (*_OURS, "DDPMPipeline"):
        is_of_ours = any(isinstance(entry, list) and entry[:1] == ["ddpm_ext"] for entry in index.values())
        from_newer = is_of_ours and not hasattr(sys.modules["ddpm_ext"], name)
        hint = f", which {_version_of('ddpm_ext')} does not have" if from_newer else ""
        raise ValueError(
            f"`model` is {model}, a {name}{hint}: image pipelines of ddpm_ext and DDPMPipeline are accepted."
        )
    pipeline_class = _OURS.get(name, DDPMPipeline)
    folder = find_folder(model, pipeline_class)
    expected = [part for part in signature(pipeline_class.__init__).parameters if part in index]
    parts = {part: _component(part, index[part], folder, model) for part in expected if _is_component(index[part])}
    try:
        pipeline = pipeline_class.from_pretrained(folder, **parts)
    except _ERRORS as error:
        raise ValueError(_sentence(model, error)) from error
    if isinstance(pipeline, DDPMPipeline):
        return ImprovedDDPMPipeline(pipeline.unet, pipeline.scheduler)
    return pipeline


def _read_index(path: Path, model: str) -> dict[str, object]:
    index = without_code(_read_json(path, path.name, model))
    if isinstance(index.get("_class_name"), list):
        raise ValueError(f"`model` is {model}, which needs code that it brings along: that is never run here.")
    if not isinstance(index.get("_class_name"), str):
        raise ValueError(f"`model` is {model}, whose {path.name} names no pipeline.")
    return index


def _read_json(path: Path, shown: str, model: str) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"`model` is {model}, whose {shown} is missing or no JSON object.")
    return content


def _is_component(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(text, str) for text in entry)


# ---------------------------------------------------------------------- the parts of a pipeline


def _component(name: str, entry: list[str], folder: Path, model: str) -> ModelMixin | SchedulerMixin:
    """The network or scheduler `name`, checked: diffusers leaves weights that it does not find at random, and ignores
    what it does not know."""
    library, class_name = entry
    module = import_module(library) if library in _LIBRARIES else sys.modules.get(library)
    if module is None:
        raise ValueError(
            f"`model` is {model}, whose {name} is a {class_name} of {library}: classes of ddpm_ext and diffusers are "
            f"accepted, and in Python those of modules that have been imported (`import {library}`)."
        )
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type) or not issubclass(cls, ModelMixin | SchedulerMixin):
        where = _version_of(library) if library in _LIBRARIES else library
        raise ValueError(f"`model` is {model}, whose {name} is a {class_name}, which {where} does not have.")
    # The first models of diffusers, such as google/ddpm-cifar10-32, have all files in one folder.
    is_flat = not (folder / name).is_dir() and (folder / cls.config_name).is_file()
    path, shown = (folder, "") if is_flat else (folder / name, f"{name}/")
    config = _read_json(path / cls.config_name, shown + cls.config_name, model)
    newer = _newer(config)
    _check_known(cls, config, newer, f"`model` is {model}, whose {name}")
    try:
        return cls.from_pretrained(path) if issubclass(cls, SchedulerMixin) else _network(cls, path)
    except _BadWeights as error:
        raise ValueError(f"`model` is {model}, whose {shown}{error}.") from error
    except _ERRORS as error:
        raise ValueError(_sentence(model, error, newer)) from error


def _check_known(cls: type, config: Mapping[str, object], newer: str, subject: str) -> None:
    """ValueError where `config` asks for something that this installation would ignore."""
    # What is off or not given changes nothing. Of stock classes, old configs hold keys that have gone since.
    given = {key for key, value in config.items() if key[0] != "_" and value not in (None, False)}
    unknown = given - signature(cls.__init__).parameters.keys()
    if unknown and issubclass(cls, SchedulerMixin):  # `from_config` carries over what only the other class knows
        names = (name for name in dir(diffusers) if name.endswith("Scheduler"))
        unknown -= {key for name in names for key in signature(getattr(diffusers, name).__init__).parameters}
    package = cls.__init__.__module__.partition(".")[0]
    if unknown and (newer or package == "ddpm_ext"):
        raise ValueError(
            f"{subject} is configured with `{min(unknown)}`, which {_version_of(package)} does not know"
            f"{newer or ': a newer one may'}."
        )


class _BadWeights(Exception):
    """A weight file and what is wrong with it, as the end of a sentence."""


def _network(cls: type[ModelMixin], path: Path) -> ModelMixin:
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
    if not files:
        raise _BadWeights("diffusion_pytorch_model.safetensors is missing")
    is_safetensors = files[0].suffix == ".safetensors"
    try:
        network, info = cls.from_pretrained(path, use_safetensors=is_safetensors, output_loading_info=True)
    except OSError as error:
        raise _BadWeights(_why_unreadable(files, error)) from error
    for key, what in (("missing_keys", "lacks"), ("unexpected_keys", "has")):
        if info[key]:
            more = f" and {len(info[key]) - 1} more" if len(info[key]) > 1 else ""
            raise _BadWeights(
                f"{files[0].name} {what} {sorted(info[key])[0]}{more}, unlike the network in config.json"
            )
    return network


def _why_unreadable(files: list[Path], error: OSError) -> str:
    refusal = next((str(cause) for cause in _chain(error) if isinstance(cause, UnpicklingError)), None)
    if refusal is not None:
        wanted = re.search(r"GLOBAL (\S+)", refusal)
        what = f"wants to run code ({wanted[1]})" if wanted else "is damaged, or holds more than weights"
        return f"{files[0].name} is a pickle that {what}: weights alone are accepted"
    broken = [file.name for file in files if file.suffix == ".safetensors" and not _opens(file)]
    return f"{(broken or [files[0].name])[0]} is truncated or corrupted: copy or download it again"


def _opens(file: Path) -> bool:
    try:
        with safe_open(file, "pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# ---------------------------------------------------------------------- words


def _sentence(model: str, error: Exception, newer: str = "") -> str:
    first = re.split(r"(?<=\.)\s", " ".join(str(error).split()))[0].rstrip(".")
    return f"`model` is {model}, which could not be loaded: {first or type(error).__name__}{newer}."


def _newer(config: Mapping[str, object]) -> str:
    """What to say of a config that a newer diffusers saved; nothing of others."""
    try:
        saved_by = Version(str(config.get("_diffusers_version")))
    except InvalidVersion:
        return ""
    if saved_by <= Version(diffusers.__version__):
        return ""
    return f": it was saved by diffusers {saved_by}, so that an upgrade from {diffusers.__version__} may help"


def _version_of(package: str) -> str:
    return f"{package} {sys.modules[package].__version__}"
