"""How far ours and stock diffusers are from the numbers of OpenAI's code, as one table.

    python benchmarks/exactness.py

The numbers are those of the golden set in `tests/golden` (or of the one that DDPM_EXT_GOLDEN names), computed in
float64. Both sides get the same inputs: the same network outputs, the same noise, the same timesteps. Stock is
`DDPMScheduler` and `DDIMScheduler` as users get them, whose tables are float32 whatever they are given. (DDIMScheduler
clips x_0 and keeps the noise of the unclipped one, unless it is told `use_clipped_model_output`.) The table is printed
and kept in `benchmarks/results/exactness.json`; the exit status is 1 if an error of ours is
above its tolerance.
"""

import math
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import diffusers
import torch
from torch import Tensor

from ddpm_ext.diffusion import (
    Gaussian,
    Parameterization,
    canonical_beta_schedule,
    discretized_log_likelihood,
    hybrid_loss,
    kl_divergence,
    vlb_terms_bpd,
)
from ddpm_ext.schedulers import ImprovedDDPMScheduler


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import write_result

from tests import golden_set as golden
from tests.golden_set import PREDICTION_TYPES, error, process_of, schedule_arguments, spec_of, toy_model


SCHEDULES, LOSSES, SAMPLING = (golden.golden(name) for name in ("schedules", "losses", "sampling"))
LOSS_TAGS = [tag for tag in LOSSES.children() if f"{tag}/t" in LOSSES]
SAMPLING_TAGS = [tag for tag in SAMPLING.children() if f"{tag}/x_T" in SAMPLING]
NOISE_SOURCES = (
    "ddpm_ext.schedulers.scheduling_improved_ddpm.randn_tensor",
    "diffusers.schedulers.scheduling_ddpm.randn_tensor",
    "diffusers.schedulers.scheduling_ddim.randn_tensor",
)
FLOAT32 = 1e-4  # the golden set's tolerance for samples in float32, absolute


@dataclass(frozen=True)
class Row:
    """One line of the table. `stock` is None where diffusers does not offer the quantity, NaN where it returns NaN."""

    quantity: str
    ours: float
    stock: float | None
    tolerance: float


def worst(errors: Iterator[float] | list[float]) -> float:
    """The largest, NaN if one is."""
    errors = list(errors)
    return math.nan if any(math.isnan(value) for value in errors) else max(errors)


def absolute(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).abs().max())


def scheduler_of(kind: type, tag: str, **arguments: object):
    """A scheduler of class `kind` for the golden process `tag`, ready to sample."""
    schedule = dict(schedule_arguments(tag))
    schedule["beta_schedule"] = canonical_beta_schedule(schedule["beta_schedule"])
    scheduler = kind(**schedule, **arguments)
    if spec_of(tag) and kind is not diffusers.DDIMScheduler:
        scheduler.set_timesteps(timesteps=process_of(tag).timesteps.flip(0).tolist())
    else:
        scheduler.set_timesteps(len(process_of(tag).timesteps))
    return scheduler


def pair(kind: type, quantity: str, tolerance: float, errors: Callable[[type], Iterator[float]]) -> Row:
    """A row of which both sides are measured by `errors`."""
    return Row(quantity, worst(errors(ImprovedDDPMScheduler)), worst(errors(kind)), tolerance)


# ------------------------------------------------------------------ tables


def table_rows() -> Iterator[Row]:
    stock = diffusers.DDPMScheduler
    for name in ("betas", "alphas_cumprod"):
        ours = [error(process_of(tag).table[name], SCHEDULES[f"{tag}/{name}"]) for tag in SCHEDULES.children()]
        theirs = [
            error(getattr(scheduler_of(stock, tag), name), SCHEDULES[f"{tag}/{name}"]) for tag in SCHEDULES.children()
        ]
        yield Row(f"{name} (relative)", worst(ours), worst(theirs), golden.TABLES)

    def variances(variance_type: str, tags: list[str], name: str) -> tuple[float, float]:
        ours, theirs = [], []
        for tag in tags:
            expected = (SAMPLING if spec_of(tag) else SCHEDULES)[f"{tag}/{name}"][1:]
            column = process_of(tag).table["betas" if name == "betas" else "posterior_variance"]
            scheduler = scheduler_of(stock, tag, variance_type=variance_type)
            found = [scheduler._get_variance(t) for t in process_of(tag).timesteps[1:]]
            ours.append(error(column[1:], expected))
            theirs.append(error(torch.stack(found), expected))
        return worst(ours), worst(theirs)

    whole, respaced = SCHEDULES.children(), [tag for tag in SAMPLING_TAGS if spec_of(tag)]
    for name, variance_type in (("posterior_variance", "fixed_small"), ("betas", "fixed_large")):
        for kind, tags in (("", whole), (", respaced", respaced)):
            quantity = f"variance of `{variance_type}`{kind} (relative)"
            yield Row(quantity, *variances(variance_type, tags, name), golden.TABLES)


# ------------------------------------------------------------------ one step


def step_errors(kind: type, mean: str, variance: str, dtype: torch.dtype) -> Iterator[float]:
    """x_{t-1} from the golden network output, for every row of the golden losses."""
    for tag in LOSS_TAGS:
        p = f"{tag}/f64/p_mean_variance"
        t, x_t, noise = LOSSES[f"{tag}/t"], LOSSES[f"{tag}/f64/x_t"], LOSSES["noise"]
        output = LOSSES["model_output_2c"]
        output = output if variance.startswith("learned") else output[:, : x_t.shape[1]]
        log_variance = LOSSES[f"{p}/{variance}/log_variance"]
        log_variance = log_variance.view(len(t), *log_variance.shape[1:], *[1] * (x_t.ndim - log_variance.ndim))
        is_mean = mean == "prev"  # whose mean the reference does not clip
        arguments = {"prediction_type": PREDICTION_TYPES[mean], "variance_type": variance, "clip_sample": not is_mean}
        scheduler = scheduler_of(kind, tag, **arguments)
        for row in range(len(t)):
            one = slice(row, row + 1)
            expected = LOSSES[f"{p}/{mean}/clip{int(not is_mean)}/mean"][one]
            expected = expected + (int(t[row]) > 0) * (0.5 * log_variance[one]).exp() * noise[one]
            with replayed(noise[one].to(dtype)):
                found = scheduler.step(output[one].to(dtype), int(t[row]), x_t[one].to(dtype)).prev_sample
            yield absolute(found, expected) if dtype == torch.float32 else error(found, expected, floor=1)


class replayed:
    """While it is entered, schedulers draw `noise`."""

    def __init__(self, noise: Tensor):
        self._patches = [patch(source, lambda *_, **__: noise) for source in NOISE_SOURCES]

    def __enter__(self) -> None:
        for one in self._patches:
            one.start()

    def __exit__(self, *_: object) -> None:
        for one in self._patches:
            one.stop()


def step_rows() -> Iterator[Row]:
    stock, float32 = diffusers.DDPMScheduler, torch.float32
    for variance in ("fixed_small", "fixed_large", "learned_range", "learned"):
        quantity = f"one step, `epsilon`, `{variance}`, float32"
        yield pair(stock, quantity, FLOAT32, lambda kind, v=variance: step_errors(kind, "eps", v, float32))
    quantity = "one step, `sample`, `learned_range`, float32"
    yield pair(stock, quantity, FLOAT32, lambda kind: step_errors(kind, "x0", "learned_range", float32))
    ours = worst(step_errors(ImprovedDDPMScheduler, "prev", "learned_range", float32))
    yield Row("one step, `mean`, `learned_range`, float32", ours, None, FLOAT32)
    quantity = "one step, `epsilon`, `learned_range`, float64"
    yield pair(stock, quantity, golden.SAMPLES, lambda kind: step_errors(kind, "eps", "learned_range", torch.float64))


# ------------------------------------------------------------------ trajectories


def trajectory_errors(
    kind: type, dtype: torch.dtype, sampler: str, is_respaced: bool, means: tuple[str, ...], **settings: bool
) -> Iterator[float]:
    """Every stored sample of every golden trajectory of that kind, `sampler` being `anc` or `ddim`."""
    for tag in SAMPLING_TAGS:
        for label in SAMPLING.children(tag, "f64"):
            name, mean, *rest = label.split("_")
            is_wanted = label.startswith(sampler) and mean in means and bool(spec_of(tag)) == is_respaced
            if is_wanted and "rescaled" not in rest:
                yield trajectory_error(kind, dtype, tag, label, **settings)


def trajectory_error(kind: type, dtype: torch.dtype, tag: str, label: str, **settings: bool) -> float:
    name, mean, *rest = label.split("_")
    parameterization = Parameterization(
        PREDICTION_TYPES[mean], "_".join(word for word in rest if word != "noclip") or "fixed_small"
    )
    is_raw_mean = mean == "prev" and name == "anc"
    arguments = {"prediction_type": parameterization.prediction_type}
    arguments["clip_sample"] = "noclip" not in rest and not is_raw_mean
    if kind is not diffusers.DDIMScheduler:
        arguments["variance_type"] = parameterization.variance_type
    scheduler = scheduler_of(kind, tag, **arguments)
    if name != "anc":
        settings["eta"] = float(f"{name[4]}.{name[5:] or 0}")
    x, noise = SAMPLING[f"{tag}/x_T"].to(dtype), SAMPLING[f"{tag}/noise"].to(dtype)
    stored = {step: i for i, step in enumerate(SAMPLING[f"{tag}/snap_steps"].tolist())}
    found = []
    for i, t in enumerate(process_of(tag).timesteps.tolist()[::-1]):
        with replayed(noise[i]):
            x = scheduler.step(toy_model(x, t, parameterization), t, x, **settings).prev_sample
        if i in stored:
            found.append(x)
    expected = SAMPLING[f"{tag}/f64/{label}/samples"]
    return absolute(torch.stack(found), expected) if dtype == torch.float32 else error(torch.stack(found), expected, 1)


def trajectory_rows() -> Iterator[Row]:
    ddpm, ddim, both = diffusers.DDPMScheduler, diffusers.DDIMScheduler, ("eps", "x0")
    for dtype, name, tolerance in (
        (torch.float32, "float32", FLOAT32),
        (torch.float64, "float64", golden.SAMPLES),
    ):
        for is_respaced, chain in ((False, "whole chain"), (True, "respaced")):
            quantity = f"ancestral samples, {chain}, {name}"
            yield pair(
                ddpm,
                quantity,
                tolerance,
                lambda kind, d=dtype, r=is_respaced: trajectory_errors(kind, d, "anc", r, both),
            )
        ours = worst(trajectory_errors(ImprovedDDPMScheduler, dtype, "anc", False, ("prev",)))
        yield Row(f"ancestral samples of a `mean` network, whole chain, {name}", ours, None, tolerance)
        ours = worst(trajectory_errors(ImprovedDDPMScheduler, dtype, "ddim", False, both))
        for comment, settings in (("", {}), (" (`use_clipped_model_output`)", {"use_clipped_model_output": True})):
            stock = worst(trajectory_errors(ddim, dtype, "ddim", False, both, **settings))
            yield Row(f"DDIM samples, whole chain, {name}{comment}", ours, stock, tolerance)


# ------------------------------------------------------------------ losses: diffusers has none of them


def loss_rows() -> Iterator[Row]:
    after, first, gradients = [], [], []
    for tag in LOSS_TAGS:
        process, t = process_of(tag), LOSSES[f"{tag}/t"]
        x_0, noise, output = LOSSES["x_start"], LOSSES["noise"], LOSSES["model_output_2c"]
        x_t = process.add_noise(x_0, noise, t)
        for mean, variance, loss in {path[:3] for path in LOSSES.paths(tag, "f64", "training_losses")}:
            if loss not in ("rescaled_mse", "rescaled_kl") or not variance.startswith("learned"):
                continue
            parameterization = Parameterization(PREDICTION_TYPES[mean], variance)
            trained = output.clone().requires_grad_()
            if loss == "rescaled_mse":
                found = hybrid_loss(process, parameterization, trained, x_0, x_t, noise, t)
            else:
                found = process.num_timesteps * vlb_terms_bpd(process, parameterization, trained, x_0, x_t, t)
            expected = LOSSES[f"{tag}/f64/training_losses/{mean}/{variance}/{loss}/loss"]
            after.append(error(found[t > 0].detach(), expected[t > 0]))
            first.append(error(found[t == 0].detach(), expected[t == 0]))
            path = f"{tag}/f64/grad/{mean}/{variance}/{loss}"
            if path in LOSSES:
                (actual,) = torch.autograd.grad(found.sum(), trained)
                difference = (actual - LOSSES[path])[t > 0].flatten(1).abs().amax(1)
                gradients.append(float((difference / LOSSES[path][t > 0].flatten(1).abs().amax(1)).max()))
    yield Row("hybrid loss and bound, t > 0 (relative)", worst(after), None, golden.LOSSES)
    yield Row("hybrid loss and bound, t = 0 (relative)", worst(first), None, golden.LOSSES_AT_0)
    yield Row("their gradients, t > 0 (relative)", worst(gradients), None, golden.LOSSES)
    mean1, logvar1, mean2, logvar2 = (LOSSES[f"normal_kl/{name}"] for name in ("mean1", "logvar1", "mean2", "logvar2"))
    kl = kl_divergence(Gaussian(mean1, logvar1), Gaussian(mean2, logvar2))
    yield Row("KL divergence (relative)", error(kl, LOSSES["normal_kl/kl"]), None, golden.LOSSES)
    x, means, log_scales = (LOSSES[f"disc_ll/{name}"] for name in ("x", "means", "log_scales"))
    p = Gaussian(means[None, :, None], 2 * log_scales)
    found = discretized_log_likelihood(x[:, None, None], p)
    quantity = "discretized log-likelihood (nats)"
    yield Row(quantity, absolute(found, LOSSES["disc_ll/log_probs_f64"]), None, golden.LOG_LIKELIHOOD)


# ------------------------------------------------------------------ the table


def written(value: float | None) -> str:
    return "not offered" if value is None else "NaN" if math.isnan(value) else f"{value:.1e}" if value else "0"


def main() -> int:
    diffusers.utils.logging.set_verbosity_error()
    rows = [*table_rows(), *step_rows(), *trajectory_rows(), *loss_rows()]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, diffusers {diffusers.__version__}"
    write_result(
        "exactness",
        f"Largest errors over the golden set in `tests/golden`, by `benchmarks/exactness.py` ({versions}).",
        ["quantity", "our largest error", "stock diffusers' largest error", "tolerance"],
        [[row.quantity, written(row.ours), written(row.stock), f"{row.tolerance:.0e}"] for row in rows],
    )
    return 0 if all(row.ours <= row.tolerance for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
