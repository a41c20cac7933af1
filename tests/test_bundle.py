import ast
import importlib
import sys

import pytest

import ddpm_ext
from ddpm_ext.sharing import bundle as module
from ddpm_ext.sharing.bundle import LIBRARIES, bundle


CLASSES = [getattr(ddpm_ext, name) for name in ddpm_ext.__all__ if name not in ("ModelMixin", "SchedulerMixin")]


def definitions(source: str) -> dict[str, str]:
    """The functions and classes at the top of a module, by name, as they are written, but for what uploads."""
    found = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in found:
        node.body = [part for part in node.body if "ddpm_ext.publishing" not in ast.unparse(part)]
    return {node.name: ast.unparse(node) for node in found}


def part(monkeypatch: pytest.MonkeyPatch, source: str) -> module._Part:
    """A module of ours as if it stood in ddpm_ext/models/ and read `source`."""
    real = module._source
    monkeypatch.setattr(module, "_source", lambda name: source if name == "ddpm_ext.models.new" else real(name))
    found = importlib.util.find_spec
    here = "ddpm_ext.models.unet_configs"  # anything that is a module and no package
    monkeypatch.setattr(module, "find_spec", lambda name: found(here if name == "ddpm_ext.models.new" else name))
    module._part.cache_clear()
    return module._part("ddpm_ext.models.new")


@pytest.mark.parametrize("cls", CLASSES)
def test_a_bundle_imports_nothing_of_ours_and_only_what_everyone_has(cls):
    nodes = list(ast.walk(ast.parse(bundle(cls).source)))
    roots = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    roots |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
    assert roots <= {*LIBRARIES, *sys.stdlib_module_names}


def test_what_uploads_is_left_out_for_that_of_diffusers():
    bundled = bundle(ddpm_ext.ClassConditionalDDPMPipeline).source
    assert "push_to_hub" not in bundled.replace("push_to_hub: bool", "").replace("save_directory, push_to_hub", "")
    assert "push_to_hub" in vars(ddpm_ext.ImprovedDDPMPipeline)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_bundle_holds_our_definitions_as_they_are_written(cls):
    bundled = definitions(bundle(cls).source)
    assert cls.__name__ in bundled
    ours = [name for name in sys.modules if name.startswith("ddpm_ext.") and hasattr(sys.modules[name], "__file__")]
    written: dict[str, set[str]] = {}
    for name in ours:
        if (loader := sys.modules[name].__spec__.loader) is not None:
            for definition, text in definitions(loader.get_source(name)).items():
                written.setdefault(definition, set()).add(text)
    assert all(text in written[name] for name, text in bundled.items())


def test_the_name_of_a_bundle_is_that_of_its_content(monkeypatch):
    stems = {bundle(cls).stem for cls in CLASSES}
    assert len(stems) == len(CLASSES)
    assert all(stem.startswith("ddpm_ext_") and stem.isidentifier() for stem in stems)
    before = bundle(CLASSES[0])
    bundle.cache_clear()
    assert bundle(CLASSES[0]) == before
    monkeypatch.setattr(ddpm_ext, "__version__", "99.0")
    bundle.cache_clear()
    assert bundle(CLASSES[0]).stem != before.stem
    bundle.cache_clear()


def test_imports_inside_functions_are_resolved_too(monkeypatch):
    function = "def f():\n    from ..diffusion import make_betas\n    import math as m\n    return make_betas, m"
    found = part(monkeypatch, f"import math\n\n\n{function}\n")
    assert found.needs == ("ddpm_ext.diffusion.noise_schedules",)
    assert found.imports == {"math": ("math", None)}
    assert found.body == "def f():\n    pass\n    import math as m\n    return make_betas, m"


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("import ddpm_ext.models", "as a whole"),
        ("from ddpm_ext.models import unet_config as u", "renames"),
        ("from ddpm_ext import models", "does not say where models comes from"),
        ("import pandas", "may import diffusers, numpy, PIL, torch"),
        ("def f():\n    from transformers import pipeline", "may import"),
    ],
)
def test_what_cannot_be_bundled_is_said(monkeypatch, source, sentence):
    with pytest.raises(AssertionError, match=sentence):
        part(monkeypatch, source)


def test_one_name_for_two_things_is_refused():
    first = module._Part("a", "", (), {"x": ("torch", None)}, ("f", "g"))
    with pytest.raises(AssertionError, match="`g` is b in b and a elsewhere"):
        module._import_lines([first, module._Part("b", "", (), {}, ("g",))])
    with pytest.raises(AssertionError, match="`x` is"):
        module._import_lines([first, module._Part("b", "", (), {"x": ("numpy", None)}, ())])
    module._import_lines([first, module._Part("b", "", (), {"x": ("torch", None)}, ("h",))])
