"""What the estimate of bits/dim costs and how far it is off, on the digits' test split.

    python benchmarks/likelihood_estimate.py --model ddpm-digits-class-conditional

Compares `estimate_bits_per_dim` with `exact_bits_per_dim`, which sees each image once in every step of the chain.
"""

import argparse
import time

import torch
from tables import write_result
from torch import Tensor

from ddpm_ext.data.images import load_images, to_unit_range
from ddpm_ext.diffusion import estimate_bits_per_dim, exact_bits_per_dim
from ddpm_ext.pipelines.loading import load_pipeline


REPETITIONS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ddpm-digits-class-conditional")
    arguments = parser.parse_args()

    test = load_images("digits", split="test", show_progress=False)
    x_0 = to_unit_range(test.integers(torch.arange(len(test))), test.max_value)
    pipeline = load_pipeline(arguments.model)
    process, parameterization = pipeline.scheduler.process, pipeline.scheduler.parameterization
    unet = pipeline.unet.eval()
    labels = (test.labels,) if hasattr(pipeline, "label_ids") else ()

    def predict(x_t: Tensor, timestep: Tensor) -> Tensor:
        return unet(x_t, timestep, *labels).sample

    generator = torch.Generator().manual_seed(0)
    rows = []
    for num_evaluations in (process.num_timesteps // 50, process.num_timesteps // 20):
        for _ in range(REPETITIONS):
            started = time.perf_counter()
            found = estimate_bits_per_dim(process, parameterization, predict, x_0, generator, num_evaluations)
            seconds = time.perf_counter() - started
            error = f"{found.standard_error:.4f}"
            rows.append(["estimate", f"{found.num_evaluations}", f"{found.mean:.4f}", error, f"{seconds:.0f}"])
            print(*rows[-1], flush=True)
    started = time.perf_counter()
    exact = exact_bits_per_dim(process, parameterization, predict, x_0, generator)
    seconds = time.perf_counter() - started
    rows.append(["exact", f"{process.num_timesteps:,}", f"{exact.total.mean():.4f}", "-", f"{seconds:.0f}"])
    write_result(
        "likelihood_estimate",
        f"The {len(x_0)} digits of the test split, by `benchmarks/likelihood_estimate.py`; the decoder alone is "
        f"{exact.terms[:, 0].mean():.3f} bits/dim. Repeated estimates differ in their random numbers only. The exact "
        "value has noise of its own, in every step.",
        ["method", "evaluations per image", "bits/dim", "standard error", "seconds"],
        rows,
    )


if __name__ == "__main__":
    main()
