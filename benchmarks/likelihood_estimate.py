"""What the estimate of bits/dim costs and how far it is off, on the digits' test split.

    python benchmarks/likelihood_estimate.py --model ddpm-digits-class-conditional

Compares `estimate_bits_per_dim` at several numbers of network evaluations per image with `exact_bits_per_dim`, which
needs one for each of the T steps. Prints a table and writes it to benchmarks/results/likelihood_estimate.json.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from ddpm_ext.data.images import load_images, to_unit_range
from ddpm_ext.diffusion import estimate_bits_per_dim, exact_bits_per_dim
from ddpm_ext.pipelines.loading import load_pipeline


RESULTS = Path(__file__).parent / "results" / "likelihood_estimate.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ddpm-digits-class-conditional")
    parser.add_argument("--repetitions", type=int, default=4, help="of each estimate, with other random numbers")
    parser.add_argument("--num_exact", type=int, default=1, help="exact passes, each with other noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", default=str(RESULTS))
    arguments = parser.parse_args()

    test = load_images("digits", split="test", show_progress=False)
    x_0 = to_unit_range(test.integers(torch.arange(len(test))), test.max_value)
    pipeline = load_pipeline(arguments.model)
    process, parameterization = pipeline.scheduler.process, pipeline.scheduler.parameterization
    unet = pipeline.unet.eval()
    labels = (test.labels,) if hasattr(pipeline, "label_ids") else ()

    def predict(x_t: Tensor, timestep: Tensor) -> Tensor:
        return unet(x_t, timestep, *labels).sample

    generator = torch.Generator().manual_seed(arguments.seed)
    rows = []
    for num_evaluations in (process.num_timesteps // 50, process.num_timesteps // 20):
        for _ in range(arguments.repetitions):
            started = time.perf_counter()
            found = estimate_bits_per_dim(process, parameterization, predict, x_0, generator, num_evaluations)
            rows.append(
                {
                    "method": "estimate",
                    "evaluations_per_image": found.num_evaluations,
                    "bits_per_dim": found.mean,
                    "standard_error": found.standard_error,
                    "seconds": time.perf_counter() - started,
                }
            )
    for _ in range(arguments.num_exact):
        started = time.perf_counter()
        exact = exact_bits_per_dim(process, parameterization, predict, x_0, generator)
        rows.append(
            {
                "method": "exact",
                "evaluations_per_image": process.num_timesteps,
                "bits_per_dim": float(exact.total.mean()),
                "prior_bits_per_dim": float(exact.prior.mean()),
                "decoder_bits_per_dim": float(exact.terms[:, 0].mean()),
                "seconds": time.perf_counter() - started,
            }
        )

    print("| method | evaluations per image | bits/dim | standard error | seconds |\n|---|---|---|---|---|")
    for row in rows:
        error = f"{row['standard_error']:.4f}" if "standard_error" in row else "-"
        print(
            f"| {row['method']} | {row['evaluations_per_image']} | {row['bits_per_dim']:.4f} | {error} "
            f"| {row['seconds']:.1f} |"
        )
    Path(arguments.write).parent.mkdir(parents=True, exist_ok=True)
    content = {"model": arguments.model, "images": len(x_0), "rows": rows}
    Path(arguments.write).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
