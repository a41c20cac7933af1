"""Makes diffusers find our classes by name, which touches what diffusers keeps private.

diffusers (0.42) offers no way to register pipelines. Two things suffice: the package is known as a library of
components, and its pipelines are attributes of `diffusers`, where `DiffusionPipeline.from_pretrained` looks a name
up. A saved `model_index.json` then reads `"unet": ["ddpm_ext", "ClassName"]`. tests/test_registration.py pins both.
"""

import diffusers
from diffusers.pipelines import pipeline_loading_utils


def register(*pipelines: type[diffusers.DiffusionPipeline]) -> None:
    """Registers the package and `pipelines`; may be called more than once."""
    pipeline_loading_utils.LOADABLE_CLASSES.setdefault("ddpm_ext", {})
    for pipeline in pipelines:
        setattr(diffusers, pipeline.__name__, pipeline)
