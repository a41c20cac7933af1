"""The parser behind the scripts: which arguments each has, its errors, and what `--help` looks like.

argparse and HfArgumentParser are bent where they do not fit: a mistake is a ValueError of one sentence, not usage and
exit, and `--help` shows one spelling of each flag.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Literal, NamedTuple, get_type_hints

from transformers.hf_argparser import HfArgumentParser

from .argument_rules import Group, Switch, accepted_values, unknown_argument
from .arguments import (
    ClassConditionalTrainingArguments,
    DataArguments,
    ProcessArguments,
    TrainingArguments,
)
from .logging_arguments import ClassConditionalLoggingArguments, LoggingArguments
from .model_arguments import ModelArguments
from .point_arguments import PointDataArguments, PointLoggingArguments, PointModelArguments, PointTrainingArguments


Kind = Literal["unconditional", "class_conditional", "points"]

GROUPS: dict[str, tuple[type[Group], ...]] = {
    "unconditional": (DataArguments, ModelArguments, ProcessArguments, TrainingArguments, LoggingArguments),
    "class_conditional": (
        DataArguments,
        ModelArguments,
        ProcessArguments,
        ClassConditionalTrainingArguments,
        ClassConditionalLoggingArguments,
    ),
    "points": (
        PointDataArguments,
        PointModelArguments,
        ProcessArguments,
        PointTrainingArguments,
        PointLoggingArguments,
    ),
}


class DefaultRecipe(NamedTuple):
    """The recipe of a script: `what` it trains on, and the arguments whose mention leaves it aside."""

    name: str
    what: str
    unless: tuple[str, ...]


_ABOUT_IMAGES = ("config", "dataset_name", "train_data_dir", "model_config_name_or_path")
DEFAULT_RECIPES = {
    "unconditional": DefaultRecipe("digits", "small real digits, minutes on a CPU", _ABOUT_IMAGES),
    "class_conditional": DefaultRecipe(
        "digits_class_conditional", "small real digits, minutes on a CPU", _ABOUT_IMAGES
    ),
    "points": DefaultRecipe("points", "points of the plane, a minute on a CPU", ("config",)),
}

WITHOUT_EFFECT = {
    "local_rank": "`accelerate launch` tells every process its place",
    "enable_xformers_memory_efficient_attention": "torch's own attention is as lean and always on",
}


class ScriptArgumentParser(HfArgumentParser):
    """HfArgumentParser that takes no abbreviations and raises ValueError, in one sentence, in place of exiting.

    `defaults`: each argument's default; `known`: each accepted name, aliases included, and the argument it means.
    """

    def __init__(self, groups: Sequence[type[Group]], description: str, usage: str | None = None) -> None:
        super().__init__(
            usage=usage,
            description=description,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
        )
        for group in groups:
            self._add_dataclass_arguments(group)
        self.dataclass_types = list(groups)
        flags = [field for group in groups for field in fields(group)]
        self.defaults = {field.name: field.default for field in flags}
        self.known = {name: field.name for field in flags for name in (field.name, *_aliases(field.metadata))}
        self.elsewhere: dict[str, str] = {}  # arguments of other scripts, and whose they are

    def read(self, argv: Sequence[str], values: argparse.Namespace | None = None) -> argparse.Namespace:
        """`values` (default: the defaults) overridden by the flags in `argv`."""
        try:
            values, unknown = self.parse_known_args(argv, values)
        except argparse.ArgumentError as error:
            raise ValueError(self._sentence(error)) from None
        if unknown:
            self._reject(unknown)
        return values

    def error(self, message: str) -> None:
        raise ValueError(message)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Choices are checked by the groups, with a better sentence."""

    def _sentence(self, error: argparse.ArgumentError) -> str:
        name = (error.argument_name or "").split("/")[0].lstrip("-")
        hints = {k: v for group in self.dataclass_types for k, v in get_type_hints(group, include_extras=True).items()}
        says_it_already = hints.get(name) in (None, Switch)
        accepted = "" if says_it_already else f" ({accepted_values(hints[name]).rstrip(',')} is accepted)"
        return f"`{name}`: {error.message.rstrip('.')}{accepted}."

    def _reject(self, unknown: Sequence[str]) -> None:
        flags = [text.split("=")[0] for text in unknown if text.startswith("-")]
        if not flags:
            raise ValueError(f"{unknown[0]!r} belongs to no argument: values follow their flag, as in `--seed 1`.")
        name = flags[0].lstrip("-").replace("-", "_")
        if name in self.elsewhere:
            raise ValueError(f"`{flags[0]}` is an argument of {self.elsewhere[name]} only, not of this script.")
        known = [flag.lstrip("-") for action in self._actions for flag in action.option_strings]
        raise ValueError(unknown_argument(flags[0], known))


class TrainingArgumentParser(ScriptArgumentParser):
    """The parser of a training script: its groups, recipes, and what diffusers' command lines may hold besides."""

    def __init__(self, kind: Kind) -> None:
        recipe = DEFAULT_RECIPES[kind]
        unless = " or ".join(f"--{name}" for name in recipe.unless)
        super().__init__(
            GROUPS[kind],
            usage="%(prog)s [--config RECIPE] [--argument value ...]",
            description=f"Train a diffusion model ({kind.replace('_', '-')}). Without {unless}, the recipe"
            f" {recipe.name!r} ({recipe.what}) replaces the defaults below. Runtime choices such as GPUs and processes"
            " belong to `accelerate launch`.",
        )
        self.add_argument(
            "--config",
            metavar="RECIPE",
            help="YAML file of arguments (keys are the flags without dashes), or the name of a recipe that comes with"
            " the package; flags override it. The config.yaml in an output folder is one.",
        )
        ignored = self.add_argument_group("Accepted for diffusers' command lines, without effect")
        ignored.add_argument("--local_rank", "--local-rank", metavar="N", help="Known from the launcher.")
        ignored.add_argument(
            "--enable_xformers_memory_efficient_attention", action="store_true", help="torch's attention is as lean."
        )
        self.elsewhere = _arguments_elsewhere(kind)


def _arguments_elsewhere(kind: Kind) -> dict[str, str]:
    """The arguments that only other kinds of training have, and these kinds in words."""
    names = {other: {field.name for group in groups for field in fields(group)} for other, groups in GROUPS.items()}
    return {
        name: " and ".join(f"{other.replace('_', '-')} training" for other in names if name in names[other])
        for name in set().union(*names.values()) - names[kind]
    }


def _aliases(metadata: Mapping[str, str]) -> list[str]:
    return [alias.lstrip("-") for alias in [metadata.get("aliases")] if alias]


class HelpFormatter(argparse.HelpFormatter):
    """One spelling per flag, then its aliases, what its value looks like, and the default if there is one to tell."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def add_argument(self, action: argparse.Action) -> None:
        if not action.option_strings[0].startswith("--no_"):  # named in the help of the switch that it turns off
            super().add_argument(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        spellings = [flag for flag in action.option_strings if "-" not in flag.lstrip("-")]
        return " ".join([", ".join(spellings), _value(action)]).rstrip()

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.default is False or action.default == argparse.SUPPRESS:
            return action.help
        default = f"true; --no_{action.dest} turns it off" if action.default is True else action.default
        return f"{action.help} (default: {default})"


def _value(action: argparse.Action) -> str:
    """What stands for the value of a flag in `--help`."""
    if action.nargs == 0:
        return ""
    if action.nargs == "?":
        return "[true|false]"
    by_choices = "{" + ",".join(action.choices) + "}" if action.choices else None
    name = action.metavar or by_choices or {int: "N", float: "X"}.get(action.type, "TEXT")
    return f"{name} [{name} ...]" if action.nargs == "+" else name
