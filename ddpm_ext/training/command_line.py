"""The command line of the training scripts: flags, recipes, `--help`, and errors of one line.

    arguments = parse("unconditional")      # defaults < recipe (`--config`) < flags, wherever they stand

Every flag of diffusers' own `train_unconditional.py` is accepted with its meaning: its command lines work unchanged.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from .argument_parser import DEFAULT_RECIPES, WITHOUT_EFFECT, Kind, TrainingArgumentParser
from .arguments import Arguments
from .model_arguments import ModelArguments
from .processes import is_main_process
from .recipes import read_recipe


# Two ways to say one thing: a flag for one also takes back what a recipe says with the other.
_ALTERNATIVES = (
    ("dataset_name", "train_data_dir"),
    ("model_config_name_or_path", "block_out_channels"),
    ("model_config_name_or_path", "model_type"),
    ("max_train_steps", "num_epochs"),
    ("save_images_steps", "save_images_epochs"),
    ("checkpointing_steps", "checkpointing_epochs"),
)

_SECONDS_TO_BE_ENDED = 60


def parse(kind: Kind, argv: Sequence[str] | None = None) -> Arguments:
    """The arguments of a training script, from `argv` (default: the command line).

    A recipe (`--config`) sets defaults and flags override it. Where nothing says what to train on, it is the script's
    own recipe. What follows from other arguments is filled in: `loss` and `num_inference_steps` are never
    None. ValueError, in one sentence, for a name or a value that is not accepted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = TrainingArgumentParser(kind)
    given = parser.read(argv, argparse.Namespace(**dict.fromkeys(parser.defaults)))
    default = DEFAULT_RECIPES[kind]
    recipe = given.config if any(getattr(given, name) is not None for name in default.unless) else default.name

    values = parser.read([])
    if recipe is not None:
        recipe_argv = read_recipe(recipe, parser.known)
        try:
            parser.read(recipe_argv, values)
        except ValueError as error:
            raise ValueError(f"{recipe}: {error}") from None
    for pair in _ALTERNATIVES:
        for name, other in (pair, pair[::-1]) if parser.defaults.keys() >= set(pair) else ():
            if getattr(given, name) is not None and getattr(given, other) is None:
                setattr(values, other, parser.defaults[other])
    if getattr(given, "model_type", None) not in (None, getattr(values, "model_type", None)):
        for name in vars(ModelArguments()):  # what the recipe says is said of its own network
            setattr(values, name, parser.defaults[name])
    parser.read(argv, values)
    _say_what_has_no_effect(values)
    return _resolve(Arguments(*parser.parse_dict(vars(values), allow_extra_keys=True)))


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; a user's mistake (ValueError) becomes one line on stderr and exit code 2, no traceback.

    Of several processes the main one speaks for all. The others wait for the launcher to end them, as it does when
    one has failed; where it does not, the mistake is theirs alone, such as a data set that one node lacks, and they
    say so.
    """
    try:
        main()
    except ValueError as error:
        if not is_main_process():
            time.sleep(_SECONDS_TO_BE_ENDED)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _resolve(arguments: Arguments) -> Arguments:
    training, logging, process = arguments.training, arguments.logging, arguments.process
    if training.loss is None:
        training = replace(training, loss="hybrid" if process.learns_variance else "simple")
    if logging.num_inference_steps is None:
        logging = replace(logging, num_inference_steps=min(1000, process.num_train_timesteps))
    return replace(arguments, training=training, logging=logging)


def _say_what_has_no_effect(values: argparse.Namespace) -> None:
    for name, reason in WITHOUT_EFFECT.items():
        if getattr(values, name) and is_main_process():
            print(f"note: `--{name}` has no effect: {reason}.", file=sys.stderr)
