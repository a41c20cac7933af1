"""Do the metrics order real images as they should: train against test, and against train that is made worse and worse.

    python benchmarks/metrics_order.py --data cifar10 --features cifar10.ts

`--data` is a folder of parquet files (or a data set of the Hub) with the splits train and test, `--features` what
`evaluate.py` takes. Exits with 1 where an order is wrong.
"""

import argparse
import sys
from collections.abc import Callable
from itertools import pairwise

import torch
from tables import write_result
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ddpm_ext.data.images import ImageData, load_images
from ddpm_ext.evaluation.features import load_extractor
from ddpm_ext.evaluation.records import Measurement
from ddpm_ext.evaluation.reference import choose, load_reference
from ddpm_ext.evaluation.suite import measure_images


METRICS = ("fid", "kid", "precision_recall")
NOISES = (2, 4, 8, 16, 32)
BLURS = (0.4, 0.6, 0.8, 1.2)
FEWER_CLASSES = (9, 7, 5, 2)
SLACK = 0.02  # of shares: their errors are of 0.005


def noisy(images: Tensor, deviation: float) -> Tensor:
    """With Gaussian noise of `deviation` of 255."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * deviation
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def blurred(images: Tensor, deviation: float) -> Tensor:
    """By a Gaussian of `deviation` pixels."""
    return F.gaussian_blur(images, [9, 9], [deviation, deviation])


def others(data: ImageData, count: int, classes: int | None = None) -> Tensor:
    """`count` images (if there are so many) that the reference does not have, of the first `classes` classes alone."""
    rest = choose(len(data), None)[count:]
    if classes is not None:
        rest = rest[data.labels[rest] < classes]
    return data.integers(rest[:count])


def is_ordered(rows: list[list[Measurement]], name: str, grows: bool, slack: float) -> bool:
    """Whether the metric rises or falls from row to row, by more than -`slack`."""
    values = [one.estimate.value for row in rows for one in row if one.name == name]
    steps = [later - earlier if grows else earlier - later for earlier, later in pairwise(values)]
    return len(values) == len(rows) and min(steps) > -slack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--num_images", type=int, default=5000)
    parser.add_argument("--name", default="metrics_order")
    arguments = parser.parse_args()
    count = arguments.num_images
    train, test = (load_images(arguments.data, split=split) for split in ("train", "test"))
    extractor = load_extractor(arguments.features)
    reference = load_reference(train, arguments.data, "train", extractor, count, count)
    fresh = others(train, count)

    def measure(images: Tensor) -> list[Measurement]:
        return measure_images(METRICS, images, reference, extractor, {})

    series: dict[str, list[tuple[str, Callable[[], Tensor]]]] = {
        "noise": [(f"noise of {x}/255", lambda x=x: noisy(fresh, x)) for x in NOISES],
        "blur": [(f"blur of {x:g} pixels", lambda x=x: blurred(fresh, x)) for x in BLURS],
        "classes": [(f"{x} of 10 classes", lambda x=x: others(train, count, x)) for x in FEWER_CLASSES],
    }
    clean = measure(fresh)
    table = [("train, other images", clean), ("test", measure(test.integers(choose(len(test), count))))]
    wrong = []
    for name, steps in series.items():
        rows = [clean]
        for title, images in steps:
            rows.append(measure(images()))
            table.append((f"train, {title}", rows[-1]))
            print(title, *(f"{one.name} {one.estimate}" for one in rows[-1]), flush=True)
        wrong += [f"{metric} over {name}" for metric in ("fid", "kid") if not is_ordered(rows, metric, True, 0)]
        shares = ("recall" if name == "classes" else "precision", "coverage")
        wrong += [f"{metric} over {name}" for metric in shares if not is_ordered(rows, metric, False, SLACK)]
    order = f"FID and KID strictly, precision (of classes: recall) and coverage within {SLACK}"
    verdict = f"All are in order, {order}." if not wrong else f"Out of order ({order}): {', '.join(wrong)}."
    columns = [one.title.split(" (")[0] for one in clean]
    write_result(
        arguments.name,
        f"{count:,} images of CIFAR-10 each (re-encoded as JPEG) against {count:,} others of its train split, by "
        "`benchmarks/metrics_order.py` with the features of a small residual classifier, so these are no published "
        f"FIDs. In brackets 95 % intervals. {verdict}",
        ["images", *columns],
        [[title, *(str(one.estimate) for one in row)] for title, row in table],
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
