"""How to sample, as `sample.py` and `evaluate.py` can be told it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .argument_rules import Count, CountOrZero, Group, NonNegative, Share, Text, flag


if TYPE_CHECKING:
    from ddpm_ext.evaluation.generate import Sampling


@dataclass(frozen=True)
class SamplingArguments(Group):
    _argument_group_name = "How to sample"

    sampler: Text | None = flag(
        None,
        "ddpm (the default), ddim, dpmsolver++, unipc, heun, deis, euler, euler_ancestral or pndm; of flow matching"
        " euler (the default), heun, dpmsolver++ or unipc.",
    )
    num_inference_steps: Text | None = flag(
        None, "Steps (default: 250 for ddpm, 50 for ddim, else 20); for ddpm and ddim also 10,15,25 or ddim50."
    )
    guidance_scale: NonNegative = flag(1.0, "Classifier-free guidance; 1 is none.", metavar="W")
    eta: Share | None = flag(None, "DDIM's share of noise, 0 to 1.", metavar="ETA")
    seed: CountOrZero = flag(0, "Settles every image.")
    batch_size: Count | None = flag(
        None,
        "Images per forward pass and process; changes nothing but memory and speed (default: as many as a GPU's memory"
        " holds; 64 on a CPU).",
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = flag(
        "no", "Precision of the network alone; the sampler stays in float32."
    )

    def by(self, sampler: str) -> "Sampling":
        """These settings for `sampler`, which has steps of its own where none were given."""
        from ddpm_ext.evaluation.generate import Sampling
        from ddpm_ext.schedulers.samplers import default_steps

        steps = self.num_inference_steps or default_steps(sampler)
        return Sampling(
            self.seed,
            self.batch_size,
            int(steps) if steps.isdecimal() else steps,
            self.guidance_scale,
            self.eta,
            self.mixed_precision,
        )
