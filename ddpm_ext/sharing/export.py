"""Writes a model in a form that opens elsewhere: with ddpm_ext, with diffusers and our code, with diffusers alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from diffusers import DiffusionPipeline

from ddpm_ext.publishing.carried_code import CodeFile, add_code

from ..diffusion.checks import one_of
from .bundle import bundle
from .loading_lines import package_lines, plain_lines, self_contained_lines
from .new_folder import new_folder
from .plain_diffusers import to_plain_diffusers


Format = Literal["self_contained", "diffusers", "package"]


@dataclass(frozen=True)
class Export:
    """What was written: `left_out` are the parts of the model that the format has no words for, `lines` the Python
    that opens the folder and draws from it."""

    left_out: tuple[str, ...]
    lines: str


def export_pipeline(
    pipeline: DiffusionPipeline,
    output_dir: str | Path,
    format: Format = "self_contained",
    class_label: int | str | None = None,
) -> Export:
    """Writes `pipeline` into `output_dir`, a folder that is new or empty, whole or not at all.

    - `self_contained`: our pipeline with the code of its classes. Needs diffusers and `trust_remote_code=True`.
    - `diffusers`: stock classes, as far as they can say the model; `class_label` as in `to_plain_diffusers`.
    - `package`: our pipeline by the names of its classes. Needs ddpm_ext.

    ValueError, in one sentence, where `format` cannot say this model.
    """
    one_of("format", format, get_args(Format))
    where = str(output_dir)
    if class_label is not None and format != "diffusers":
        raise ValueError(f"`class_label` is {class_label!r}: only `format` 'diffusers' has a use for it.")
    if format == "diffusers":
        plain = to_plain_diffusers(pipeline, class_label)
        with new_folder(Path(output_dir)) as folder:
            plain.pipeline.save_pretrained(str(folder))
            forget_where_it_was(folder)
        return Export(plain.left_out, plain_lines(plain.pipeline.unet, where))
    code = _code_of(pipeline) if format == "self_contained" else {}
    with new_folder(Path(output_dir)) as folder:
        pipeline.save_pretrained(str(folder))
        add_code(folder, code)
        forget_where_it_was(folder)
    lines = self_contained_lines if format == "self_contained" else package_lines
    return Export((), lines(pipeline, where))


def forget_where_it_was(folder: Path) -> None:
    """Takes out of a saved pipeline's configurations the path on this machine that it was once read from."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _code_of(pipeline: DiffusionPipeline) -> dict[str, CodeFile]:
    """The code of the pipeline and of those of its parts that are ours."""
    classes = {"_class_name": type(pipeline)}
    for name, part in pipeline.components.items():
        classes[name] = type(getattr(part, "_orig_mod", part))  # inside a compiled network is the one that is saved
    if not _is_ours(type(pipeline)):
        raise ValueError(
            f"`format` is 'self_contained', but the pipeline is a {type(pipeline).__name__}: one of ddpm_ext is "
            "accepted."
        )
    return {name: bundle(cls) for name, cls in classes.items() if _is_ours(cls)}


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "ddpm_ext"
