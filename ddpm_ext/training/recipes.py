"""Recipes: flat YAML files whose keys are the flags without their dashes.

A recipe is read as if its lines stood on the command line, by the same parser: `2e-3` is a number here too, although
YAML takes it for text, and `no` stays a word.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import yaml

from .argument_rules import unknown_argument
from .arguments import Arguments
from .objectives import OF_DDPM_ALONE


# About one start of a run, not about what was trained, and a secret: none of them belongs in a recipe made from a run.
_NOT_IN_A_RECIPE = ("hub_token", "overwrite_output_dir", "resume", "resume_from_checkpoint")


def flatten(arguments: Arguments) -> dict[str, bool | int | float | str | list[int] | None]:
    """Every argument that means something, by its flag's name, but neither the Hub token nor how this start of the run
    came about."""
    groups = asdict(arguments).values()
    left_out = (*_NOT_IN_A_RECIPE, *(OF_DDPM_ALONE if arguments.training.objective != "ddpm" else ()))
    return {name: value for group in groups for name, value in group.items() if name not in left_out}


def to_yaml(arguments: Arguments) -> str:
    """The recipe that gives the same arguments again: `--config` reads it."""
    flat = flatten(arguments)
    parts = []
    for group in (arguments.data, arguments.model, arguments.process, arguments.training, arguments.logging):
        values = {name: _as_written(flat[name]) for name in vars(group) if name in flat}
        title = group._argument_group_name.split(" (")[0]
        parts.append(f"# {title}\n{yaml.safe_dump(values, sort_keys=False)}")
    return "\n".join(parts)


def _as_written(value: object) -> object:
    return str(value) if value == math.inf else value  # YAML's own spelling, .inf, is no number on a command line


def read_recipe(name: str, known: Mapping[str, str]) -> list[str]:
    """The recipe as a command line.

    `name` is a file, or the bare name of a recipe that comes with the package. `known` maps the keys that a recipe may
    have, aliases included, to the arguments they mean. A key whose value is `null` leaves its argument at the default.
    """
    argv, lines = [], {}
    for key, value in _entries(name):
        line = key.start_mark.line + 1
        if key.value not in known:
            raise ValueError(f"{name}, line {line}: {unknown_argument(key.value, known)}")
        argument = known[key.value]
        if argument in lines:
            raise ValueError(f"{name}, line {line}: `{argument}` has a value already, in line {lines[argument]}.")
        lines[argument] = line
        argv += _as_flag(name, argument, value)
    return argv


def _entries(name: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """The keys and values of the file, with their lines, as they are written."""
    try:
        root = yaml.compose(_read(name), yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`config` {name!r} is not a YAML file: {' '.join(str(error).split())}") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode) or not all(isinstance(key, yaml.ScalarNode) for key, _ in root.value):
        raise ValueError(f"`config` {name!r} is not a recipe: lines such as `learning_rate: 1e-4` are accepted.")
    return root.value


def _read(name: str) -> str:
    if Path(name).is_file():
        return Path(name).read_text(encoding="utf-8")
    folder = resources.files("ddpm_ext.train_scripts").joinpath("recipes")
    shipped = {Path(file.name).stem: file for file in folder.iterdir() if file.name.endswith(".yaml")}
    if name in shipped:
        return shipped[name].read_text(encoding="utf-8")
    names = ", ".join(sorted(shipped))
    raise ValueError(f"`config` is {name!r}, which is not a file: a YAML file or one of {names} is accepted.")


def _as_flag(name: str, argument: str, value: yaml.Node) -> list[str]:
    if value.tag == "tag:yaml.org,2002:null":
        return []
    if isinstance(value, yaml.ScalarNode):
        return [f"--{argument}={value.value}"]
    if isinstance(value, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in value.value):
        return [f"--{argument}", *(item.value for item in value.value)]
    line = value.start_mark.line + 1
    raise ValueError(f"{name}, line {line}: `{argument}` holds further keys: a value or a list of values is accepted.")
