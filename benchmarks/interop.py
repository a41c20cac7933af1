"""Where each kind of model opens, and what is lost there: the table in the README.

    python benchmarks/interop.py                      # tiny untrained networks of all kinds, on a linear schedule
    python benchmarks/interop.py --model ddpm-digits  # and how well stock samplers draw from an exported model

A cell says yes where it was run and gave our numbers: bit for bit with our code, to 1e-3 with stock classes, whose
tables are float32.
"""

import argparse
import inspect
import re
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import diffusers
import torch
from deepinv.models import DiffusersDenoiserWrapper
from diffusers import DDPMPipeline, DiffusionPipeline, SchedulerMixin, UNet2DModel
from diffusers.utils import logging
from digits_judge import DigitsJudge
from stock_samplers import SAMPLERS
from tables import write_result

from ddpm_ext import (
    ClassConditionalDDPMPipeline,
    ClassConditionalUNet2DModel,
    ImprovedDDPMPipeline,
    ImprovedDDPMScheduler,
)
from ddpm_ext.diffusion import PREDICTION_TYPES, VARIANCE_TYPES
from ddpm_ext.evaluation.generate import Sampling, generate
from ddpm_ext.models import unet_config
from ddpm_ext.pipelines.loading import load_pipeline
from ddpm_ext.sharing.export import export_pipeline


IMAGES, STEPS, CLASSES = 2, 10, 3
TOLERANCE = 1e-3


# ---------------------------------------------------------------------- models


def tiny(takes_classes: bool, prediction_type: str, variance_type: str) -> ImprovedDDPMPipeline:
    torch.manual_seed(0)
    learns = variance_type.startswith("learned")
    config = unet_config((8, 8), 3, learns, CLASSES if takes_classes else None, (8, 16), 1, ())
    scheduler = ImprovedDDPMScheduler(prediction_type=prediction_type, variance_type=variance_type)
    if takes_classes:
        return ClassConditionalDDPMPipeline(ClassConditionalUNet2DModel(**config).eval(), scheduler)
    return ImprovedDDPMPipeline(UNet2DModel(**config).eval(), scheduler)


def labels_of(unet: UNet2DModel) -> dict[str, torch.Tensor]:
    return {} if unet.config.num_class_embeds is None else {"class_labels": torch.arange(IMAGES) % CLASSES}


def draw(pipeline: ImprovedDDPMPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    labels = labels_of(pipeline.unet)
    generator = torch.Generator().manual_seed(0)
    return pipeline(
        **(labels or {"batch_size": IMAGES}), generator=generator, num_inference_steps=STEPS, output_type="pt"
    ).images


@torch.no_grad()
def draw_plainly(
    unet: UNet2DModel, scheduler: SchedulerMixin, images: int = IMAGES, steps: int = STEPS
) -> torch.Tensor:
    """The loop that diffusers' documentation shows, with any scheduler."""
    generator = torch.Generator().manual_seed(0)
    scheduler.set_timesteps(steps)
    x = torch.randn((images, unet.config.in_channels, 8, 8), generator=generator) * scheduler.init_noise_sigma
    noisy = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in scheduler.timesteps:
        parts = scheduler.scale_model_input(x, t).split(250)
        output = torch.cat([unet(part, t, **labels_of(unet)).sample for part in parts])
        x = scheduler.step(output, t, x, **noisy).prev_sample
    return (x / 2 + 0.5).clamp(0, 1)


# ---------------------------------------------------------------------- cells


def in_self_contained_form(pipeline: ImprovedDDPMPipeline, folder: Path) -> str:
    export_pipeline(pipeline, folder)
    opened = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    if not torch.equal(draw(opened), draw(pipeline)):
        return "other images"
    trained = opened.scheduler.config

    def run(scheduler: SchedulerMixin) -> torch.Tensor:
        opened.scheduler = scheduler
        return draw(opened)

    return f"yes, with {samplers_that_run(run, trained)} stock samplers"


def in_stock_terms(pipeline: ImprovedDDPMPipeline, folder: Path) -> tuple[str, DDPMPipeline | None]:
    try:
        left_out = export_pipeline(pipeline, folder, "diffusers").left_out
    except ValueError:
        return "no", None
    plain = DDPMPipeline.from_pretrained(folder)
    lost = [re.sub(r" \(.*\)", "", part).removeprefix("the ") for part in left_out]
    x_t, t = torch.randn(IMAGES, 3, 8, 8), torch.tensor([10, 900])
    with torch.no_grad():
        outputs = [unet(x_t, t, **labels_of(unet)).sample[:, :3] for unet in (plain.unet, pipeline.unet)]
    same = (outputs[0] - outputs[1]).abs().max() < TOLERANCE
    if "learned variance" not in lost:  # then the images are the same, too
        same &= (draw_plainly(plain.unet, plain.scheduler) - draw(pipeline)).abs().max() < TOLERANCE
    yes = f"yes, without {', '.join(lost)}" if lost else "yes"
    return yes if same else "other numbers", plain


def samplers_that_run(run: Callable[[SchedulerMixin], torch.Tensor], config: dict) -> str:
    """How many of the stock samplers return images, and which do not."""
    names = dict.fromkeys(sampler for sampler, _ in SAMPLERS)
    failed = []
    for sampler in names:
        try:
            ran = bool(run(sampler.from_config(config)).isfinite().all())
        except (ValueError, NotImplementedError, RuntimeError, TypeError):
            ran = False
        failed += [] if ran else [sampler.__name__.removesuffix("Scheduler").removesuffix("Discrete")]
    return f"all {len(names)}" if not failed else f"all but {', '.join(failed)}"


def in_deepinv(pipeline: ImprovedDDPMPipeline, folder: Path) -> str:
    """Whether deepinv's wrapper denoises as our formulas do."""
    denoiser = DiffusersDenoiserWrapper(str(folder))
    process, t = pipeline.scheduler.process, 500
    signal = float(process.table["sqrt_alphas_cumprod"][t])
    noise = float(process.table["sqrt_one_minus_alphas_cumprod"][t])
    noisy, labels = torch.rand(IMAGES, 3, 8, 8), labels_of(pipeline.unet)
    step = int(torch.tensor(t).float() / 999 * 999)  # deepinv turns the step into a float in [0, 1] and back
    with torch.no_grad():
        theirs = denoiser(noisy, noise / signal / 2, **labels)
        x_t = (2 * noisy - 1) * signal
        output = pipeline.unet(x_t, torch.full((IMAGES,), step), **labels).sample[:, :3]
    x_0 = pipeline.scheduler.parameterization.predict_x_0(process, output, x_t, t).clamp(-1, 1)
    if (theirs - (x_0 + 1) / 2).abs().max() > TOLERANCE:
        return "other numbers"
    return "yes, given `class_labels`" if labels else "yes"


# ---------------------------------------------------------------------- tables


def kinds_table() -> None:
    rows: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for takes_classes, prediction, variance in product((False, True), PREDICTION_TYPES, VARIANCE_TYPES):
        pipeline = tiny(takes_classes, prediction, variance)
        samplers, deepinv = "-", "no"
        with tempfile.TemporaryDirectory() as folder:
            carried = in_self_contained_form(pipeline, Path(folder, "ours"))
            stock, plain = in_stock_terms(pipeline, Path(folder, "stock"))
            if plain is not None:
                samplers = samplers_that_run(partial(draw_plainly, plain.unet), plain.scheduler.config)
                deepinv = in_deepinv(pipeline, Path(folder, "stock"))
        key = ("class-conditional" if takes_classes else "unconditional", carried, stock, samplers, deepinv)
        rows.setdefault(key, []).append((f"`{prediction}`", variance.partition("_")[0]))
        print(prediction, variance, *key, sep=" | ", flush=True)
    write_result(
        "interop",
        "By `benchmarks/interop.py`, which runs every kind and compares it with our own numbers, and counts the stock "
        "samplers that run. For the posterior mean (`mean`) there are no stock terms.",
        ["model", "self-contained", "diffusers alone", "stock samplers on that", "deepinv on that"],
        [[_model(key[0], kinds), *key[1:]] for key, kinds in rows.items()],
    )


def _model(takes_classes: str, kinds: list[tuple[str, str]]) -> str:
    """Several kinds in one cell."""
    predictions, variances = (dict.fromkeys(names) for names in zip(*kinds, strict=True))
    variance = "any variance" if len(variances) > 1 else f"{''.join(variances)} variance"
    return f"{takes_classes}; {', '.join(predictions)}; {variance}"


def quality_table(model: str) -> None:
    """Stock samplers on a trained unconditional model: in our pipeline, and on its export to stock classes."""
    judge, pipeline = DigitsJudge(), load_pipeline(model)
    config = pipeline.scheduler.config
    with tempfile.TemporaryDirectory() as folder:
        export_pipeline(pipeline, Path(folder, "stock"), "diffusers")
        plain = DDPMPipeline.from_pretrained(Path(folder, "stock"))
    rows = []
    for name in ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "SASolver", "DDIM", "EulerDiscrete"):
        sampler = getattr(diffusers, f"{name}Scheduler")
        pipeline.scheduler = sampler.from_config(config)
        ours = judge.distance(generate(pipeline, 1000, Sampling(0, 250, 20)))
        digits = draw_plainly(plain.unet, sampler.from_config(plain.scheduler.config), 1000, 20)
        theirs = judge.distance((digits.nan_to_num() * 255).round().to(torch.uint8))
        rows.append([name, f"{ours:.2f}", f"{theirs:.2f}"])
        print(*rows[-1], flush=True)
    write_result(
        "plain_samplers",
        "Fréchet distance of 1,000 digits in 20 steps, by `benchmarks/interop.py --model ddpm-digits` (unconditional, "
        "noise, cosine).",
        ["sampler", "in our pipeline", "on the export to diffusers alone"],
        rows,
    )


def main() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="an unconditional model of digits, for the second table")
    arguments = parser.parse_args()
    if arguments.model:
        quality_table(arguments.model)
    else:
        kinds_table()


if __name__ == "__main__":
    main()
