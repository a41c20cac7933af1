"""OpenAI's command lines: the flags in one, and the defaults where it is silent.

The defaults are those of each library's `script_util.py`. deepinv's DiffUNet is guided-diffusion's network with flags
of its own, which are defaults here.
"""

import dataclasses
import difflib
import shlex
from typing import get_type_hints

from ddpm_ext.diffusion.checks import one_of

from .openai_flags import LIBRARIES, OpenAIFlags, refusal


_OWN_DEFAULTS: dict[str, dict[str, str]] = {
    "improved": {"rescale_timesteps": "True"},
    "guided": {},
    "deepinv": {
        "image_size": "256",
        "num_head_channels": "64",
        "resblock_updown": "True",
        "learn_sigma": "True",
        "dropout": "0.1",
    },
}
_OF_DEEPINV_BY_WIDTH = {
    128: {"num_res_blocks": "1", "attention_resolutions": "16"},
    256: {"num_res_blocks": "2", "attention_resolutions": "32,16,8"},
}

# Flags of one library only, from which a command line is told to be its.
_ONLY_GUIDED = ("num_head_channels", "channel_mult", "resblock_updown", "use_new_attention_order")
_ONLY_IMPROVED = ("sigma_small",)

# How a network was trained, evaluated or kept in memory: nothing that a converted one would have.
_WITHOUT_EFFECT = (
    *("use_kl", "rescale_learned_sigmas", "use_checkpoint", "use_fp16", "fp16_scale_growth", "num_classes"),
    *("data_dir", "schedule_sampler", "lr", "weight_decay", "lr_anneal_steps", "batch_size", "microbatch"),
    *("ema_rate", "log_interval", "save_interval", "resume_checkpoint", "model_path", "num_samples", "use_ddim"),
    *("classifier_path", "classifier_scale", "classifier_depth", "classifier_width", "classifier_pool"),
    *("classifier_attention_resolutions", "classifier_use_scale_shift_norm", "classifier_resblock_updown"),
    "classifier_use_fp16",
)


def read_flags(text: str, library: str | None = None, num_channels: int | None = None) -> OpenAIFlags:
    """The flags in `text`, a command line such as "--image_size 64 --learn_sigma True"; what stands before its first
    flag is skipped.

    `library` None is told from the flags; a ValueError asks for it where they do not say and it matters. deepinv's
    two networks are told apart by `num_channels`, the checkpoint's.
    """
    given = _split(text)
    library = library or _library_of(given)
    one_of("library", library, LIBRARIES)
    defaults = dict(_OWN_DEFAULTS[library])
    if library == "deepinv" and num_channels in _OF_DEEPINV_BY_WIDTH:
        defaults |= {"num_channels": str(num_channels), **_OF_DEEPINV_BY_WIDTH[num_channels]}
    kinds = get_type_hints(OpenAIFlags)
    values = {name: _value(name, value, kinds[name]) for name, value in {**defaults, **given}.items() if name in kinds}
    return OpenAIFlags(library=library, **values)


def _split(text: str) -> dict[str, str]:
    """Each flag in `text` and its value."""
    try:
        words = shlex.split(text.replace("\\\n", " "))
    except ValueError as error:
        raise ValueError(f"`flags` cannot be read: {str(error).lower()}.") from None
    starts = [place for place, word in enumerate(words) if word.startswith("--")]
    words = [part for word in words[starts[0] if starts else 0 :] for part in _halves(word)]
    given = {}
    for place in range(0, len(words), 2):
        name, *value = words[place : place + 2]
        if not name.startswith("--"):
            raise ValueError(f"`flags` holds {name!r} where a flag such as --image_size is expected.")
        if not value or value[0].startswith("--"):
            raise ValueError(
                f"`flags` holds {name} without a value: OpenAI's flags all have one, as --class_cond True."
            )
        given[_known(name[2:])] = value[0]
    return given


def _halves(word: str) -> list[str]:
    """--name=value as two words."""
    return word.split("=", 1) if word.startswith("--") else [word]


def _known(name: str) -> str:
    if name in ("large_size", "small_size"):
        raise ValueError(
            f"`flags` holds --{name}: networks for super-resolution also take a small image, which no pipeline here "
            "gives them."
        )
    known = [field.name for field in dataclasses.fields(OpenAIFlags) if field.name != "library"]
    known += _WITHOUT_EFFECT
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = (
            f"did you mean --{near[0]}?" if near else "those of improved-diffusion and guided-diffusion are accepted."
        )
        raise ValueError(f"`flags` holds --{name}, which is no flag of OpenAI's: {hint}")
    return name


def _library_of(given: dict[str, str]) -> str:
    """The library whose flags these are; either, where that changes nothing."""
    if any(name in given for name in _ONLY_GUIDED):
        return "guided"
    size = given.get("image_size", "64")
    if any(name in given for name in _ONLY_IMPROVED) or size == "32":
        return "improved"
    if size in ("128", "512"):
        return "guided"
    if "rescale_timesteps" not in given and given.get("diffusion_steps", "1000") != "1000":
        raise ValueError(
            "`library` must be given, 'improved' or 'guided': the flags are those of both, and with --diffusion_steps "
            f"{given['diffusion_steps']} it matters that improved-diffusion rescales timesteps and guided-diffusion "
            "does not."
        )
    return "improved"


def _value(name: str, text: str, kind: type) -> object:
    if kind is bool:
        if text.lower() not in ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"):
            raise refusal(name, text, "True or False is accepted")
        return text.lower() in ("yes", "true", "t", "y", "1")
    try:
        return kind(text)
    except ValueError:
        accepted = "a whole number" if kind is int else "a number"
        raise refusal(name, text, f"{accepted} is accepted") from None
