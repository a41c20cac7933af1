"""A checkpoint that does not fit its flags: the first key that says so, and the flags that would explain it."""

from collections.abc import Mapping
from dataclasses import replace

from .openai_flags import DEFAULT_CHANNEL_MULT, OpenAIFlags


Shapes = Mapping[str, tuple[int, ...]]

OF_A_NETWORK = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.", "output_blocks.", "out.")


def check_keys(found: Shapes, expected: Shapes, flags: OpenAIFlags) -> list[str]:
    """The keys in `found` that the network has no use for; ValueError where one belongs to a network and not to this
    one, and where one in `expected` is missing or has another shape."""
    of_networks = [key for key in found if key.startswith(OF_A_NETWORK)]
    for key in sorted({**expected, **dict.fromkeys(of_networks)}, key=_place):
        mismatch = _mismatch(key, found.get(key), expected.get(key))
        if mismatch is not None:
            fitting = fitting_flags(found, flags)
            hint = f"{' '.join(fitting)} would fit its keys" if fitting else "it is another kind of network"
            raise ValueError(f"`flags` do not fit the checkpoint, in which {mismatch}: {hint}.")
    return [key for key in found if key not in expected]


def _place(key: str) -> tuple[int, ...]:
    """Where in the network, in the order of the data, the layer of `key` stands."""
    part, *rest = key.split(".")
    return OF_A_NETWORK.index(f"{part}."), *(int(number) for number in rest[:2] if number.isdecimal())


def _mismatch(key: str, found: tuple[int, ...] | None, expected: tuple[int, ...] | None) -> str | None:
    if found == expected:
        return None
    if found is None:
        return f"{key} is missing"
    if expected is None:
        return f"{key} is one more than these flags ask for"
    return f"{key} has shape {_shown(found)} and not {_shown(expected)}"


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "of a number"


def fitting_flags(shapes: Shapes, flags: OpenAIFlags) -> list[str]:
    """The flags, as they are written, by which the keys of a checkpoint differ from `flags`; empty where the keys tell
    nothing."""
    try:
        told = _told_by_keys(shapes)
    except (KeyError, IndexError, ZeroDivisionError):
        return []
    candidates = [([], flags)]
    for size in DEFAULT_CHANNEL_MULT[flags.library]:
        try:
            candidates.append(([f"--image_size {size}"], replace(flags, image_size=size)))
        except ValueError:  # that size needs other flags to be a network at all
            continue
    return min(([*changed, *_differences(told, other)] for changed, other in candidates), key=len)


def _told_by_keys(shapes: Shapes) -> dict[str, object]:
    """What can be read off the shapes: all but sizes of images and numbers of heads."""
    blocks = len({key.split(".")[1] for key in shapes if key.startswith("output_blocks.")})
    upsamplers = [
        kind
        for block in range(blocks)
        for place in (1, 2)
        for kind in ("in_layers.0", "conv")
        if f"output_blocks.{block}.{place}.{kind}.weight" in shapes
    ]
    levels = len(upsamplers) + 1
    per_level, rest = divmod(blocks, levels)
    if rest:
        raise KeyError("levels differ in their number of blocks")
    first = [f"output_blocks.{per_level * (levels - 1 - level)}" for level in range(levels)]
    widths = [shapes[f"{block}.0.out_layers.3.weight"][0] for block in first]
    channels = shapes["time_embed.0.weight"][1]
    return {
        "num_channels": channels,
        "widths": tuple(widths),
        "channel_mult": ",".join(f"{width / channels:g}" for width in widths),
        "num_res_blocks": per_level - 1,
        "attends": tuple(f"{block}.1.qkv.weight" in shapes for block in first),
        "resblock_updown": "in_layers.0" in upsamplers if upsamplers else None,
        "use_scale_shift_norm": shapes[f"{first[0]}.0.emb_layers.1.weight"][0] == 2 * widths[0],
        "class_cond": "label_emb.weight" in shapes,
        "learn_sigma": shapes["out.2.weight"][0] == 2 * shapes["input_blocks.0.0.weight"][1],
    }


def _differences(told: Mapping[str, object], flags: OpenAIFlags) -> list[str]:
    names = ("num_channels", "num_res_blocks", "resblock_updown", "use_scale_shift_norm", "class_cond", "learn_sigma")
    written = [f"--{name} {told[name]}" for name in names if told[name] not in (None, getattr(flags, name))]
    if tuple(multiplier * told["num_channels"] for multiplier in flags.multipliers) != told["widths"]:
        written.append(f"--channel_mult {told['channel_mult']}")
    if told["attends"] != flags.attends:
        sizes = [str(flags.image_size // 2**level) for level, attends in enumerate(told["attends"]) if attends]
        written.append(f"--attention_resolutions {','.join(sizes) or 1}")
    return written
