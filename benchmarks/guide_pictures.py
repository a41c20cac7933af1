"""The pictures of the guides on guidance and samplers, and the table of what guidance does, of the digits model.

python benchmarks/guide_pictures.py --model ddpm-digits-class-conditional
python benchmarks/tables.py
"""

import argparse

import torch
from digits_judge import DigitsJudge
from kept import keep_picture
from tables import write_result

from ddpm_ext.evaluation.generate import Sampling, generate
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline
from ddpm_ext.pipelines.loading import load_pipeline
from ddpm_ext.schedulers.samplers import make_sampler
from ddpm_ext.visualization import labelled_grid, opaque_image


SCALES = (0.0, 1.0, 1.5, 2.0, 4.0)
NUM_IMAGES = 500
SAMPLERS = ("ddpm", "ddim", "dpmsolver++", "unipc")
STEPS = (1, 2, 5, 10, 20, 50, 250)


def draw_guidance(pipeline: ClassConditionalDDPMPipeline) -> None:
    """A row for each guidance scale, a column for each digit; the same noise in a column."""
    judge = DigitsJudge()
    pipeline.scheduler = make_sampler("ddim", pipeline.scheduler)
    labels = [i % 10 for i in range(NUM_IMAGES)]
    rows, table = [], []
    for scale in SCALES:
        images = generate(pipeline, NUM_IMAGES, Sampling(0, 250, 50, scale), labels, progress=f"guidance {scale:g}")
        rows.append(list(images[:20]))
        spread = images.float().div(127.5).flatten(1).reshape(-1, 10, 64).std(0).mean().item()
        table.append(
            [
                f"{scale:g}",
                f"{judge.read_as_asked(images, labels):.1%}",
                f"{judge.distance(images):.2f}",
                f"{spread:.2f}",
            ]
        )
    picture = labelled_grid(rows, [f"guidance {scale:g}" for scale in SCALES], [str(i % 10) for i in range(20)])
    keep_picture(opaque_image(picture), "guidance")
    write_result(
        "guidance",
        f"{NUM_IMAGES} digits per row, DDIM in 50 steps, by `benchmarks/guide_pictures.py`. Fréchet distance: to the "
        "test split, on the 64 pixels. Spread: standard deviation of a pixel among the samples of a class, pixels in "
        "[-1, 1].",
        ["guidance", "read as asked", "Fréchet distance", "spread within a class"],
        table,
    )


def draw_samplers(pipeline: ClassConditionalDDPMPipeline) -> None:
    """A row for each sampler, a column for each number of steps; the same digit from the same noise everywhere."""
    trained = pipeline.scheduler
    rows = []
    for sampler in SAMPLERS:
        pipeline.scheduler = make_sampler(sampler, trained)
        row = [generate(pipeline, 2, Sampling(2, 2, steps, 1.5), [3, 8]) for steps in STEPS]
        rows.append([image for pair in row for image in pair])
    labels = [text for steps in STEPS for text in (f"{steps} steps" if steps > 1 else "1 step", "")]
    keep_picture(opaque_image(labelled_grid(rows, SAMPLERS, labels)), "samplers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ddpm-digits-class-conditional")
    pipeline = load_pipeline(parser.parse_args().model)
    pipeline.unet.eval()
    trained = pipeline.scheduler
    with torch.inference_mode():
        draw_guidance(pipeline)
        pipeline.scheduler = trained
        draw_samplers(pipeline)


if __name__ == "__main__":
    main()
