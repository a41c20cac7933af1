"""Sentences for values that cannot be used: what was given, what is accepted, which name was probably meant."""

import difflib
from collections.abc import Sequence


def one_of(argument: str, value: str, accepted: Sequence[str], also: Sequence[str] = ()) -> str:
    """`value` if it is one of `accepted`, else a ValueError that names `argument` and the nearest accepted name.

    `also` are aliases that the caller has translated already: they belong in the sentence, not in the check.
    """
    if value in accepted:
        return value
    names = [*accepted, *also]
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"`{argument}` is {value!r}: one of {', '.join(names)} is accepted.{hint}")
