"""Which arguments mean something with which `objective`, and the sentence for one that does not."""

from dataclasses import fields
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .arguments import Arguments


OF_DDPM_ALONE = (
    *("beta_schedule", "beta_start", "beta_end", "prediction_type", "variance_type", "clip_sample"),
    *("rescale_betas_zero_snr", "loss", "vlb_weight", "loss_weighting", "min_snr_gamma", "p2_gamma", "p2_k"),
    "eval_images",
)
"""Arguments that mean nothing with `objective` flow_matching."""

_TIMESTEP_SAMPLERS = {"ddpm": ("uniform", "loss_second_moment"), "flow_matching": ("uniform", "logit_normal")}


def check_objective(arguments: "Arguments") -> None:
    """ValueError where an argument has been given that means nothing with the `objective`."""
    objective, sampler = arguments.training.objective, arguments.training.timestep_sampler
    if sampler not in _TIMESTEP_SAMPLERS[objective]:
        accepted = " or ".join(_TIMESTEP_SAMPLERS[objective])
        raise ValueError(
            f"`timestep_sampler` is {sampler!r} but `objective` is {objective!r}: {accepted} is accepted."
        )
    if objective == "ddpm":
        return
    for group in (arguments.process, arguments.training, arguments.logging):
        for field in fields(group):
            value = getattr(group, field.name)
            if field.name in OF_DDPM_ALONE and value != field.default:
                raise ValueError(means_nothing(field.name, value))
    logging = arguments.logging
    if logging.eval_steps is not None and logging.eval_fid is None:
        raise ValueError(
            f"`eval_steps` is {logging.eval_steps} but `objective` is 'flow_matching', which has no bits/dim to "
            "measure: `eval_fid` is needed too."
        )
    if logging.keep_best == "bits_per_dim":
        raise ValueError(
            "`keep_best` is 'bits_per_dim' but `objective` is 'flow_matching', which has none: 'fid' is accepted."
        )


def means_nothing(name: str, value: object) -> str:
    """The sentence for an argument of `OF_DDPM_ALONE` that was given with flow matching."""
    return (
        f"`{name}` is {value!r} but `objective` is 'flow_matching', where it means nothing: leave it out, or train "
        "with `objective` 'ddpm'."
    )
