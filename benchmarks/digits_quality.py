"""How good are the two digits models: read by a classifier, and as a distribution.

    python benchmarks/digits_quality.py --unconditional ddpm-digits --class_conditional ddpm-digits-class-conditional

1,000 digits each, seed 0, classes 0 to 9 in turn.
"""

import argparse

from digits_judge import DigitsJudge
from tables import write_result

from ddpm_ext.evaluation.generate import Sampling, generate
from ddpm_ext.pipelines.loading import load_pipeline
from ddpm_ext.schedulers.samplers import make_sampler


NUM_IMAGES = 1000


def sample(folder: str, sampler: str, sampling: Sampling):
    """The images, and the labels they were asked for (None where the model knows no classes)."""
    pipeline = load_pipeline(folder)
    pipeline.scheduler = make_sampler(sampler, pipeline.scheduler)
    labels = [i % 10 for i in range(NUM_IMAGES)] if hasattr(pipeline, "label_ids") else None
    return generate(pipeline, NUM_IMAGES, sampling, labels, progress=sampler), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--unconditional", default="ddpm-digits")
    parser.add_argument("--class_conditional", default="ddpm-digits-class-conditional")
    arguments = parser.parse_args()
    judge = DigitsJudge()
    rows = [
        ["train split, 1,437 real digits", "-", f"{judge.distance(judge.train):.2f}"],
        ["test split, 360 real digits", f"{judge.read_as_asked(judge.test, judge.test_labels):.1%}", "-"],
    ]
    command = "`train_{}.py`"
    for kind, folder, sampler, steps, guidance in (
        ("unconditional", arguments.unconditional, "ddpm", 250, 1.0),
        ("class_conditional", arguments.class_conditional, "ddpm", 250, 1.0),
        ("class_conditional", arguments.class_conditional, "ddim", 50, 1.5),
    ):
        images, labels = sample(folder, sampler, Sampling(0, 250, steps, guidance))
        read = "-" if labels is None else f"{judge.read_as_asked(images, labels):.1%}"
        name = f"{command.format(kind)}, {sampler.upper()} {steps} steps, guidance {guidance:g}"
        rows.append([name, read, f"{judge.distance(images):.2f}"])
    write_result(
        "digits_quality",
        f"{NUM_IMAGES:,} digits per row, by `benchmarks/digits_quality.py`, of models trained by the commands above. "
        "Read "
        "as asked: by an RBF support vector classifier fitted on the train split. Fréchet distance: to the test "
        "split, on the 64 pixels in [-1, 1]; that of the train split is the floor.",
        ["images", "read as asked", "Fréchet distance"],
        rows,
    )


if __name__ == "__main__":
    main()
