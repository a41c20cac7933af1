"""The command line of the training scripts: flags, recipes, `--help`, and errors of one line.

    arguments = parse("unconditional")      # defaults < recipe (`--config`) < flags, wherever they stand

Every flag of diffusers' own `train_unconditional.py` is accepted with its meaning: its command lines work unchanged.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from .argument_parser import DEFAULT_RECIPES, WITHOUT_EFFECT, Kind, TrainingArgumentParser
from .arguments import Arguments
from .model_arguments import ModelArguments
from .objectives import OF_DDPM_ALONE, means_nothing
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
    own recipe. What follows from other arguments is filled in: `num_inference_steps`, and the `loss` of a
    DDPM, are never None. ValueError, in one sentence, for a name or a value that is not accepted.
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
            if values.objective == "flow_matching":
                _check_of_flow_matching(parser.read(recipe_argv, argparse.Namespace(**dict.fromkeys(parser.defaults))))
        except ValueError as error:
            raise ValueError(f"{recipe}: {error}") from None
    for pair in _ALTERNATIVES:
        for name, other in (pair, pair[::-1]) if parser.defaults.keys() >= set(pair) else ():
            if getattr(given, name) is not None and getattr(given, other) is None:
                setattr(values, other, parser.defaults[other])
    if getattr(given, "model_type", None) not in (None, getattr(values, "model_type", None)):
        for name in vars(ModelArguments()):  # what the recipe says is said of its own network
            setattr(values, name, parser.defaults[name])
    if (given.objective or values.objective) == "flow_matching":
        _check_of_flow_matching(given)
        _leave_out_what_is_of_ddpm(values, given, parser.defaults, recipe)
    parser.read(argv, values)
    _say_what_has_no_effect(values)
    return _resolve(Arguments(*parser.parse_dict(vars(values), allow_extra_keys=True)))


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; a user's mistake (ValueError, or a file that may not be read or written) becomes one line
    on stderr and exit code 2, no traceback.

    Of several processes the main one speaks for all. The others wait for the launcher to end them, as it does when
    one has failed; where it does not, the mistake is theirs alone, such as a data set that one node lacks, and they
    say so.
    """
    try:
        main()
    except (ValueError, PermissionError) as error:
        if not is_main_process():
            time.sleep(_SECONDS_TO_BE_ENDED)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _resolve(arguments: Arguments) -> Arguments:
    training, logging, process = arguments.training, arguments.logging, arguments.process
    is_ddpm = training.objective == "ddpm"
    if training.loss is None and is_ddpm:
        training = replace(training, loss="hybrid" if process.learns_variance else "simple")
    if logging.num_inference_steps is None:
        logging = replace(logging, num_inference_steps=min(1000 if is_ddpm else 50, process.num_train_timesteps))
    return replace(arguments, training=training, logging=logging)


def _check_of_flow_matching(given: argparse.Namespace) -> None:
    """ValueError where one of the arguments that were `given`, not None, is of DDPM alone."""
    for name in OF_DDPM_ALONE:
        if getattr(given, name) is not None:
            raise ValueError(means_nothing(name, getattr(given, name)))


def _leave_out_what_is_of_ddpm(
    values: argparse.Namespace, given: argparse.Namespace, defaults: Mapping[str, object], recipe: str | None
) -> None:
    """Takes back what a `recipe` for DDPM says of it: a flag has asked for flow matching. A note says so."""
    left_out = [name for name in OF_DDPM_ALONE if getattr(values, name) != defaults[name]]
    if values.timestep_sampler == "loss_second_moment":
        left_out.append("timestep_sampler")
    if values.eval_steps is not None and values.eval_fid is None and given.eval_fid is None:
        left_out.append("eval_steps")
    if values.keep_best == "bits_per_dim":
        left_out.append("keep_best")
    for name in left_out:
        setattr(values, name, defaults[name])
    if left_out and is_main_process():
        print(f"note: flow matching leaves out of the recipe {recipe}: {', '.join(left_out)}.", file=sys.stderr)


def _say_what_has_no_effect(values: argparse.Namespace) -> None:
    for name, reason in WITHOUT_EFFECT.items():
        if getattr(values, name) and is_main_process():
            print(f"note: `--{name}` has no effect: {reason}.", file=sys.stderr)
