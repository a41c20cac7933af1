"""Every sampler on the class-conditional digits model, with few steps.

    python benchmarks/stock_samplers.py --model ddpm-digits-class-conditional

1,000 digits without guidance for the Fréchet distance, 500 with guidance 1.5, seed 0, classes 0 to 9 in turn.
"""

import argparse

import diffusers
from diffusers.utils import logging
from digits_judge import DigitsJudge
from tables import write_result

from ddpm_ext.evaluation.generate import Sampling, generate
from ddpm_ext.pipelines.loading import load_pipeline


SAMPLERS = [
    (diffusers.DPMSolverMultistepScheduler, 10),
    (diffusers.UniPCMultistepScheduler, 10),
    (diffusers.DPMSolverMultistepScheduler, 20),
    (diffusers.UniPCMultistepScheduler, 20),
    (diffusers.DPMSolverSinglestepScheduler, 20),
    (diffusers.DEISMultistepScheduler, 20),
    (diffusers.SASolverScheduler, 20),
    (diffusers.DDIMScheduler, 20),
    (diffusers.PNDMScheduler, 20),
    (diffusers.LMSDiscreteScheduler, 20),
    (diffusers.EulerDiscreteScheduler, 20),
    (diffusers.EulerAncestralDiscreteScheduler, 20),
    (diffusers.HeunDiscreteScheduler, 20),
    (diffusers.KDPM2DiscreteScheduler, 20),
]


def main() -> None:
    logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ddpm-digits-class-conditional")
    arguments = parser.parse_args()
    judge = DigitsJudge()
    pipeline = load_pipeline(arguments.model)
    config = pipeline.scheduler.config
    labels = [i % 10 for i in range(1000)]
    rows = []
    for scheduler, steps in SAMPLERS:
        pipeline.scheduler = scheduler.from_config(config)
        plain = generate(pipeline, 1000, Sampling(0, 250, steps), labels)
        guided = generate(pipeline, 500, Sampling(0, 250, steps, 1.5), labels[:500])
        rows.append(
            [
                scheduler.__name__.removesuffix("Scheduler"),
                str(steps),
                f"{judge.distance(plain):.2f}",
                f"{judge.read_as_asked(plain, labels):.1%}",
                f"{judge.read_as_asked(guided, labels[:500]):.1%}",
            ]
        )
        print(*rows[-1], flush=True)
    write_result(
        "stock_samplers",
        "The class-conditional digits model (cosine, T = 1000, learned variance) by `benchmarks/stock_samplers.py`. "
        "Heun and KDPM2 evaluate the network twice a step.",
        ["sampler", "steps", "Fréchet distance", "read as asked", "read as asked, guidance 1.5"],
        rows,
    )


if __name__ == "__main__":
    main()
