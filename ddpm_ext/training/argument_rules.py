"""What an argument may be: values by its type, names by a sentence that knows the nearest one.

`train_batch_size: Count` is an `int` to Python and to the parser; the rule inside the annotation also says which ints
are accepted, in words for the error. A `Group` checks its fields when it is made, so a mistake gets the same sentence
from a flag, from a recipe and from Python.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from transformers.hf_argparser import HfArg


@dataclasses.dataclass(frozen=True)
class Rule:
    """`accepted` ends the sentence "... is accepted"; `allows` is asked about values of the types in `kinds` only."""

    accepted: str
    kinds: tuple[type, ...]
    allows: Callable[..., bool]


_NUMBER = (int, float)


def _is_below_folders(path: str) -> bool:
    return bool(path) and next(place for place in Path(path).absolute().parents if place.exists()).is_dir()


Text = Annotated[str, Rule("a text that is not empty", (str,), bool)]
Place = Annotated[str, Rule("a path that is not below a file", (str,), _is_below_folders)]
Folder = Annotated[
    str,
    Rule(
        "a folder, new or existing, that is not below a file,",
        (str,),
        lambda value: _is_below_folders(value) and not Path(value).is_file(),
    ),
]
File = Annotated[
    str,
    Rule(
        "a file, new or existing, in a folder",
        (str,),
        lambda value: _is_below_folders(value) and not Path(value).is_dir(),
    ),
]
Switch = Annotated[bool, Rule("true or false", (bool,), lambda value: True)]
Count = Annotated[int, Rule("a whole number of at least 1", (int,), lambda value: value >= 1)]
CountOrZero = Annotated[int, Rule("a whole number of at least 0", (int,), lambda value: value >= 0)]
Counts = Annotated[
    list[int],
    Rule("a list of whole numbers of at least 1", (list, tuple), lambda values: len(values) > 0 and min(values) >= 1),
]
Texts = Annotated[
    list[str],
    Rule("a list of texts that are not empty", (list, tuple), lambda values: len(values) > 0 and all(values)),
]
Channels = Annotated[int, Rule("1 or 3", (int,), lambda value: value in (1, 3))]
Size = Annotated[
    str,
    Rule(
        "a number of pixels such as 64, or HEIGHTxWIDTH such as 96x160,",
        (str,),
        lambda value: re.fullmatch(r"0*[1-9]\d*(x0*[1-9]\d*)?", value) is not None,
    ),
]
Positive = Annotated[float, Rule("a number above 0", _NUMBER, lambda value: 0 < value < math.inf)]
PositiveOrInf = Annotated[float, Rule("a number above 0, or inf,", _NUMBER, lambda value: value > 0)]
NonNegative = Annotated[float, Rule("a number of at least 0", _NUMBER, lambda value: 0 <= value < math.inf)]
Share = Annotated[float, Rule("a number from 0 to 1", _NUMBER, lambda value: 0 <= value <= 1)]
ShareBelowOne = Annotated[float, Rule("a number from 0 to below 1", _NUMBER, lambda value: 0 <= value < 1)]
Variance = Annotated[float, Rule("a number between 0 and 1 (both excluded)", _NUMBER, lambda value: 0 < value < 1)]
Width = Annotated[float, Rule("a number from 0.005 to 0.28", _NUMBER, lambda value: 0.005 <= value <= 0.28)]
Widths = Annotated[
    list[float],
    Rule(
        "a list of numbers from 0.005 to 0.28 that differ in the first three decimals",
        (list, tuple),
        lambda values: (
            all(0.005 <= value <= 0.28 for value in values)
            and 0 < len(values) == len({f"{value:.3f}" for value in values})
        ),
    ),
]


def flag(default: object, help: str, metavar: str | None = None, alias: str | None = None) -> dataclasses.Field:
    """A field that is a command-line flag; `metavar` stands for its value in `--help`."""
    metadata = {} if metavar is None else {"metavar": metavar}
    return HfArg(default=default, help=help, aliases=alias, metadata=metadata)


class Group:
    """A group of arguments, checked when it is made: ValueError for a value that is not accepted."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            _check(name, getattr(self, name), hint)


def accepted_values(hint: object) -> str:
    """What the type of an argument accepts, in words."""
    options = _strip_optional(hint)
    if get_origin(options) is Literal:
        return "one of " + ", ".join(get_args(options))
    return get_args(options)[1].accepted


def unknown_argument(shown: str, known: Collection[str]) -> str:
    """The sentence for a name that is no argument; `shown` is written as it came, as a flag or as a recipe's key."""
    dashes = "--" if shown.startswith("-") else ""
    near = difflib.get_close_matches(shown.lstrip("-").replace("-", "_"), known, n=1)
    hint = f"did you mean `{dashes}{near[0]}`?" if near else "`--help` lists those that there are."
    return f"`{shown}` is not an argument of this script: {hint}"


def _check(name: str, value: object, hint: object) -> None:
    hint, is_optional = _strip_optional(hint), type(None) in get_args(hint)
    if value is None and is_optional:
        return
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            # torch comes along with it: only where there is a sentence to say.
            from ddpm_ext.diffusion.checks import one_of

            one_of(name, value, get_args(hint))
        return
    rule = get_args(hint)[1]
    is_right_kind = isinstance(value, rule.kinds) and (bool in rule.kinds or not isinstance(value, bool))
    if not is_right_kind or not rule.allows(value):
        raise ValueError(f"`{name}` is {value!r}: {rule.accepted} is accepted.")


def _strip_optional(hint: object) -> object:
    """X of `X | None`, else the hint itself."""
    if type(None) in get_args(hint):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint
