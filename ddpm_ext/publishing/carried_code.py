"""Folders that carry the code of their classes, for machines where ddpm_ext is not installed.

diffusers loads such a folder with `trust_remote_code=True`: its index names a file in place of a library, and the
file lies beside what it loads. This module is part of every such file, so that a copy can save itself again.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


INDEX = "model_index.json"
STEM_PREFIX = "ddpm_ext_"


@dataclass(frozen=True)
class CodeFile:
    """One module: `source`, and `stem`, the name that no module of other content has.

    diffusers copies the code of all folders into one package, where a second file of the same name would replace the
    globals of a pipeline that is already loaded.
    """

    stem: str
    source: str


def add_code(folder: Path, files: Mapping[str, CodeFile]) -> None:
    """Makes a saved pipeline's folder self-contained: for each component (`_class_name` is the pipeline itself) the
    file that defines its class is written, and the index names it."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    for name, file in files.items():
        place = folder if name == "_class_name" else folder / name
        class_name = index[name] if isinstance(index[name], str) else index[name][1]
        (place / f"{file.stem}.py").write_text(file.source, encoding="utf-8")
        index[name] = [file.stem, class_name]
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def without_code(index: Mapping[str, object]) -> dict[str, object]:
    """The index of a self-contained folder with installed classes in place of those that it carries."""

    def installed(name: str, entry: object) -> object:
        if isinstance(entry, list) and len(entry) == 2 and str(entry[0]).startswith(STEM_PREFIX):
            return entry[1] if name == "_class_name" else ["ddpm_ext", entry[1]]
        return entry

    return {name: installed(name, entry) for name, entry in index.items()}


class CarriesCode:
    """What our pipelines do about self-contained folders.

    Where ddpm_ext is installed, `OurPipeline.from_pretrained` opens them with the installed classes, and nothing that
    the folder holds is run. The copy of the pipeline in such a folder saves its code along with itself, which
    diffusers alone does not do. (The first of the two methods below is private to diffusers.)
    """

    @classmethod
    def _dict_from_json_file(cls, json_file: str, **options: object) -> dict[str, object]:
        content = super()._dict_from_json_file(json_file, **options)  # which, the releases of diffusers differ in
        is_installed = cls.__module__.startswith("ddpm_ext.")
        return without_code(content) if is_installed and Path(json_file).name == INDEX else content

    def save_config(self, save_directory: str, push_to_hub: bool = False) -> None:
        """Writes the index, the last thing that `save_pretrained` writes before it uploads anything."""
        super().save_config(save_directory, push_to_hub)
        index = json.loads((Path(save_directory) / INDEX).read_text(encoding="utf-8"))
        modules = {name: entry[0] for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
        modules["_class_name"] = type(self).__module__
        add_code(
            Path(save_directory),
            {name: _loaded_code(module) for name, module in modules.items() if _is_loaded_code(module)},
        )


def _is_loaded_code(module: object) -> bool:
    """Whether diffusers made the module of this name from a file that a folder carried."""
    return isinstance(module, str) and module.startswith("diffusers_modules.")


def _loaded_code(module: str) -> CodeFile:
    file = Path(str(sys.modules[module].__file__))
    return CodeFile(file.stem, file.read_text(encoding="utf-8"))
