"""One file out of several: a class of ours with all that it needs of ddpm_ext, taken from the installed sources.

The modules stand one after the other in the order in which they need each other, without their imports from one
another; what they import from elsewhere stands at the top. Nothing is rewritten, so two of them must not give the
same name to different things.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, resolve_name

from ddpm_ext.publishing.carried_code import STEM_PREFIX, CodeFile


LIBRARIES = ("diffusers", "numpy", "PIL", "torch")
"""What a bundled file may import besides the standard library: what everyone has who has diffusers."""

_PACKAGE = "ddpm_ext"
_STAYS_AT_HOME = "ddpm_ext.publishing"
"""A function that imports from it is left out of a bundle: what it overrides is there, as diffusers has it."""


@cache
def bundle(cls: type) -> CodeFile:
    """The file that defines `cls` and needs no ddpm_ext. Its name ends in a hash of its content."""
    version = sys.modules[_PACKAGE].__version__
    parts = list(_in_order(cls.__module__, set()))
    head = (
        f'"""{cls.__name__} in one file, put together from the modules of ddpm_ext {version} (Apache-2.0).\n\n'
        "It needs torch, numpy and diffusers; `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` "
        'reads it.\n"""\n'
    )
    sections = [f"# {'-' * 70} {part.module}\n\n{part.body}\n" for part in parts]
    source = "\n\n".join([head + "\n" + _import_lines(parts), *sections])
    compile(source, cls.__name__, "exec")
    return named_by_content(cls.__module__.rpartition(".")[2], source)


def named_by_content(name: str, source: str) -> CodeFile:
    """`source` under `name` and a hash of it."""
    return CodeFile(f"{STEM_PREFIX}{name}_{hashlib.sha256(source.encode()).hexdigest()[:12]}", source)


@dataclass(frozen=True)
class _Part:
    """One of our modules: its text without imports, the modules of ours it needs, and the names it binds.

    `imports` maps each name that comes from elsewhere to (module, name there), the latter None for `import module`.
    """

    module: str
    body: str
    needs: tuple[str, ...]
    imports: dict[str, tuple[str, str | None]]
    defines: tuple[str, ...]


def _in_order(module: str, seen: set[str]) -> Iterator[_Part]:
    """The parts that `module` needs, each after those that it needs itself, and `module` last."""
    if module in seen:
        return
    seen.add(module)
    part = _part(module)
    for needed in part.needs:
        yield from _in_order(needed, seen)
    yield part


@cache
def _part(module: str) -> _Part:
    source = _source(module)
    lines = source.splitlines()
    needs: dict[str, None] = {}
    imports: dict[str, tuple[str, str | None]] = {}
    tree = ast.parse(source)
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and _stays_at_home(module, node):
            left_out.update(ast.walk(node))
            lines[node.lineno - 1 : node.end_lineno] = [None] * (node.end_lineno - node.lineno + 1)
        if node in left_out or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        ours = _needed(module, node)
        needs |= dict.fromkeys(ours)
        is_nested = node.col_offset > 0
        if is_nested and not ours:
            _check_libraries(module, node)
            continue
        lines[node.lineno - 1 : node.end_lineno] = [None] * (node.end_lineno - node.lineno + 1)
        if is_nested:  # what it imported stands above; the block must not become empty
            lines[node.lineno - 1] = " " * node.col_offset + "pass"
        if not ours:
            imports |= _bound_by_import(module, node)
    body = "\n".join(line for line in lines if line is not None).strip("\n")
    body = re.sub(r"\n{4,}", "\n\n\n", body)  # where the imports stood
    return _Part(module, body, tuple(needs), imports, tuple(_defined(tree)))


def _stays_at_home(module: str, function: ast.FunctionDef) -> bool:
    imports = [node for node in ast.walk(function) if isinstance(node, ast.ImportFrom)]
    found = any(_origin(module, node).startswith(_STAYS_AT_HOME) for node in imports)
    assert not (found and function.decorator_list), f"{module}: {function.name} is decorated and cannot be left out."
    return found


def _source(module: str) -> str:
    spec = find_spec(module)
    return spec.loader.get_source(module)


def _needed(module: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules of ours that an import takes names from; none if it imports from elsewhere."""
    if isinstance(node, ast.Import):
        assert not any(alias.name.split(".")[0] == _PACKAGE for alias in node.names), (
            f"{module} imports a module of {_PACKAGE} as a whole: import names from it, so that it can be bundled."
        )
        return []
    origin = _origin(module, node)
    if origin.split(".")[0] != _PACKAGE:
        return []
    assert all(alias.asname is None for alias in node.names), f"{module} renames what it imports from {origin}."
    return list(dict.fromkeys(_home(origin, alias.name) for alias in node.names))


def _origin(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module
    is_package = find_spec(module).submodule_search_locations is not None
    package = module if is_package else module.rpartition(".")[0]
    return resolve_name("." * node.level + (node.module or ""), package)


def _home(origin: str, name: str) -> str:
    """The module that defines `name`: `origin`, or the one that the package `origin` shows it from."""
    if find_spec(origin).submodule_search_locations is None:
        return origin
    for node in ast.parse(_source(origin)).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return _home(_origin(origin, node), name)
    raise AssertionError(f"{origin} does not say where {name} comes from: import it from its own module.")


def _bound_by_import(module: str, node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str | None]]:
    _check_libraries(module, node)
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: (alias.name, None) for alias in node.names}
    return {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}


def _check_libraries(module: str, node: ast.Import | ast.ImportFrom) -> None:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
    for name in names:
        root = name.split(".")[0]
        assert root in LIBRARIES or root in sys.stdlib_module_names, (
            f"{module} imports {name}: a module that is bundled may import {', '.join(LIBRARIES)} and the standard "
            "library."
        )


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module binds itself."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name)) if target else ()


def _import_lines(parts: list[_Part]) -> str:
    """All imports of `parts` in one block; an AssertionError where a name would mean two things."""
    meaning: dict[str, object] = {}
    for part in parts:
        bound = {**part.imports, **dict.fromkeys(part.defines, part.module)}
        for name, what in bound.items():
            assert meaning.setdefault(name, what) == what, (
                f"`{name}` is {what} in {part.module} and {meaning[name]} elsewhere: rename one of them, as they "
                "are bundled into one file."
            )
    plain, froms = [], {}
    for name, what in meaning.items():
        if isinstance(what, tuple):
            module, there = what
            if there is None:
                plain.append(f"import {module}" + (f" as {name}" if name != module else ""))
            else:
                froms.setdefault(module, []).append(there + (f" as {name}" if name != there else ""))
    lines = sorted(plain) + [_from_line(module, sorted(names)) for module, names in sorted(froms.items())]
    return "\n".join(lines) + "\n"


def _from_line(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    return line if len(line) < 120 else f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"
