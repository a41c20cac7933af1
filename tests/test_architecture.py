"""Imports go one way: scripts -> training, evaluation, sharing, pipelines -> schedulers, models, data,
publishing -> diffusion."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]

# Folders of the repository by the package they are installed as.
FOLDERS = {"ddpm_ext": "ddpm_ext", "ddpm_ext.pipelines": "pipelines", "ddpm_ext.train_scripts": "train_scripts"}

LEVELS = {
    "diffusion": 0,
    "data": 1,
    "models": 1,
    "publishing": 1,
    "randomness": 1,
    "registration": 0,
    "rounding": 0,
    "schedulers": 1,
    "freed_memory": 0,
    "evaluation": 2,
    "pipelines": 2,
    "report": 2,
    "sharing": 2,
    "training": 2,
    "visualization": 2,
    "train_scripts": 3,
}
FACADE = (
    "ddpm_ext"  # ddpm_ext/__init__.py and what only it uses: it shows the public names and may import all but scripts
)


def part_of(module: str) -> str:
    """The part of the package that a dotted name below `ddpm_ext` belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LEVELS else FACADE


def modules() -> Iterator[tuple[str, bool, Path]]:
    """Each module of the package: its dotted name, whether it is an `__init__`, its file."""
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            names = path.relative_to(ROOT / folder).with_suffix("").parts
            is_init = names[-1] == "__init__"
            yield ".".join((package, *(names[:-1] if is_init else names))), is_init, path


def imports(module: str, is_init: bool, path: Path) -> Iterator[str]:
    """Absolute dotted names of all that a module imports, wherever in the file; `from a import b` gives `a.b`."""
    package = module.split(".") if is_init else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def edges() -> set[tuple[str, str, str]]:
    """(importing part, imported part, a sentence that says where)."""
    found = set()
    for module, is_init, path in modules():
        for name in imports(module, is_init, path):
            if name.split(".")[0] == "ddpm_ext" and part_of(name) != part_of(module):
                found.add((part_of(module), part_of(name), f"{path.relative_to(ROOT)} imports {name}"))
    return found


def test_imports_go_one_way():
    top = max(LEVELS.values())
    wrong = []
    for importer, imported, sentence in edges():
        is_facade_import = imported == FACADE and LEVELS[importer] < top
        goes_up = imported != FACADE and LEVELS.get(importer, top - 1) < LEVELS[imported]
        if is_facade_import or goes_up:
            wrong.append(sentence)
    assert sorted(wrong) == []


def test_no_two_parts_import_each_other_even_indirectly():
    found = {edge for edge in edges() if FACADE not in edge[:2]}

    def reached_from(start: str, seen: set[str]) -> set[str]:
        for importer, imported, _ in found:
            if importer == start and imported not in seen:
                seen.add(imported)
                reached_from(imported, seen)
        return seen

    circular = [sentence for importer, imported, sentence in found if importer in reached_from(imported, set())]
    assert sorted(circular) == []


def test_the_mathematics_needs_torch_and_numpy_only():
    allowed = {"torch", "numpy", *sys.stdlib_module_names}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for module, is_init, path in modules()
        if part_of(module) == "diffusion"
        for name in imports(module, is_init, path)
        if name.split(".")[0] not in allowed and part_of(name) != "diffusion"
    ]
    assert wrong == []


def test_nothing_is_imported_by_the_name_of_its_folder():
    """`import pipelines` works in a clone, where Python finds the folder, and nowhere else."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for module, is_init, path in modules()
        for name in imports(module, is_init, path)
        if name.split(".")[0] in ("pipelines", "train_scripts")
    ]
    assert wrong == []


def test_every_folder_with_code_is_packaged():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = set(re.findall(r'^    "(ddpm_ext[\w.]*)",$', text, flags=re.MULTILINE))
    assert {module if is_init else module.rpartition(".")[0] for module, is_init, _ in modules()} <= packages


@pytest.mark.parametrize(
    "line, name",
    [
        ("from .process import GaussianDiffusion", "ddpm_ext.diffusion.process.GaussianDiffusion"),
        ("from ..training import run", "ddpm_ext.training.run"),
        ("from . import losses", "ddpm_ext.diffusion.losses"),
        ("def f():\n    import diffusers.utils", "diffusers.utils"),
    ],
)
def test_this_test_sees_every_form_of_import(line, name, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(line)
    assert list(imports("ddpm_ext.diffusion.module", False, path)) == [name]
