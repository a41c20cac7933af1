"""Makes diffusers find our classes by name, which touches what diffusers keeps private.

diffusers (0.42) offers no way to register pipelines. Two things suffice: the package is known as a library of
components, and its pipelines are attributes of `diffusers`, where `DiffusionPipeline.from_pretrained` looks a name
up. A saved `model_index.json` then reads `"unet": ["ddpm_ext", "ClassName"]`. tests/test_registration.py pins both.

Importing diffusers and torch takes seconds, so it is not done for the sake of registering: whoever can ask diffusers
for a pipeline has imported the module that defines DiffusionPipeline, and ours are registered right after that.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


_DEFINES_DIFFUSION_PIPELINE = "diffusers.pipelines.pipeline_utils"


def register_with_diffusers() -> None:
    """Sees to it that `ddpm_ext.pipelines`, which registers itself, is imported as soon as it can be asked for."""
    if _DEFINES_DIFFUSION_PIPELINE in sys.modules:
        import_module("ddpm_ext.pipelines")
    else:
        sys.meta_path.insert(0, _AfterDiffusers())


def register(*pipelines: "type[DiffusionPipeline]") -> None:
    """Registers the package and `pipelines`; may be called more than once."""
    import diffusers
    from diffusers.pipelines import pipeline_loading_utils

    pipeline_loading_utils.LOADABLE_CLASSES.setdefault("ddpm_ext", {})
    for pipeline in pipelines:
        setattr(diffusers, pipeline.__name__, pipeline)


class _AfterDiffusers(MetaPathFinder):
    """Finds nothing, but adds to the execution of one module of diffusers the import of our pipelines."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _DEFINES_DIFFUSION_PIPELINE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                import_module("ddpm_ext.pipelines")

            spec.loader.exec_module = execute_and_register
        return spec
