"""What the flags of improved-diffusion and guided-diffusion say of a network and of the noise it was trained with."""

import math
from dataclasses import dataclass

from ddpm_ext.diffusion.checks import one_of


LIBRARIES = ("improved", "guided", "deepinv")

DEFAULT_CHANNEL_MULT: dict[str, dict[int, tuple[float, ...]]] = {
    "improved": {32: (1, 2, 2, 2), 64: (1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)},
    "guided": {
        64: (1, 2, 3, 4),
        128: (1, 1, 2, 3, 4),
        256: (1, 1, 2, 2, 4, 4),
        512: (0.5, 1, 1, 2, 2, 4, 4),
    },
    "deepinv": {256: (1, 1, 2, 2, 4, 4)},
}

# Far beyond any network; a slip of the finger would otherwise fill the memory before anything is compared.
_MOST = {
    "image_size": 8192,
    "num_channels": 8192,
    "num_res_blocks": 64,
    "num_heads": 8192,
    "diffusion_steps": 1_000_000,
}


@dataclass(frozen=True)
class OpenAIFlags:
    """The flags that matter, by OpenAI's names and with the defaults that both libraries share.

    `channel_mult` empty means that of `library` for `image_size`.
    """

    library: str = "guided"
    image_size: int = 64
    num_channels: int = 128
    num_res_blocks: int = 2
    channel_mult: str = ""
    attention_resolutions: str = "16,8"
    num_heads: int = 4
    num_heads_upsample: int = -1
    num_head_channels: int = -1
    use_new_attention_order: bool = False
    resblock_updown: bool = False
    use_scale_shift_norm: bool = True
    dropout: float = 0.0
    class_cond: bool = False
    learn_sigma: bool = False
    sigma_small: bool = False
    predict_xstart: bool = False
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    rescale_timesteps: bool = False
    timestep_respacing: str = ""
    clip_denoised: bool = True

    def __post_init__(self) -> None:
        one_of("library", self.library, LIBRARIES)
        one_of("noise_schedule", self.noise_schedule, ("linear", "cosine"))
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise refusal(name, getattr(self, name), f"a whole number from 1 to {most} is accepted")
        known = DEFAULT_CHANNEL_MULT[self.library]
        if not self.channel_mult and self.image_size not in known:
            sizes = ", ".join(map(str, known))
            raise refusal(
                "image_size",
                self.image_size,
                f"{self.library} has a --channel_mult for {sizes} only, so one must be given",
            )
        factor = 2 ** (len(self.multipliers) - 1)
        if self.image_size % factor:
            raise refusal(
                "image_size",
                self.image_size,
                f"a network of {len(self.multipliers)} levels needs a multiple of {factor}",
            )
        for width in self.widths:
            if width % 32 or not 1 <= width <= _MOST["num_channels"]:
                raise refusal(
                    "num_channels" if not self.channel_mult else "channel_mult",
                    self.channel_mult or self.num_channels,
                    f"a level has {width} channels, and multiples of 32 up to {_MOST['num_channels']} are accepted",
                )
        for level, width in enumerate(self.widths):
            if self.attends[level] or level == len(self.widths) - 1:  # the middle always has attention
                self._check_heads(width)

    def _check_heads(self, width: int) -> None:
        name = "num_heads" if self.num_head_channels == -1 else "num_head_channels"
        value = getattr(self, name)
        if value < 1 or width % value:
            raise refusal(
                name, value, f"a level with attention has {width} channels, and a divisor of that is accepted"
            )
        if name == "num_heads" and self.num_heads_upsample not in (-1, self.num_heads):
            raise refusal(
                "num_heads_upsample",
                self.num_heads_upsample,
                f"other heads on the way up than on the way down (--num_heads {self.num_heads}) cannot be expressed",
            )

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Each level's width in `num_channels`."""
        if not self.channel_mult:
            return DEFAULT_CHANNEL_MULT[self.library][self.image_size]
        return _numbers("channel_mult", self.channel_mult, float)

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of each level."""
        return tuple(int(multiplier * self.num_channels) for multiplier in self.multipliers)

    @property
    def attends(self) -> tuple[bool, ...]:
        """Whether each level has attention."""
        factors = {
            self.image_size // size for size in _numbers("attention_resolutions", self.attention_resolutions, int)
        }
        return tuple(2**level in factors for level in range(len(self.multipliers)))

    def head_dim(self, width: int) -> int:
        """The channels of one head of an attention over `width` channels."""
        return width // self.num_heads if self.num_head_channels == -1 else self.num_head_channels


def _numbers(name: str, text: str, kind: type[int] | type[float]) -> tuple[float, ...]:
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = (0,)
    if not all(0 < number < math.inf for number in numbers):
        raise refusal(name, text, "numbers above 0 with commas between them are accepted, such as 16,8")
    return numbers


def refusal(name: str, value: object, reason: str) -> ValueError:
    """The error for a flag with a value that cannot be used."""
    return ValueError(f"`flags` says --{name} {value}: {reason}.")
