"""How long the statistics of many images take, and how much memory, which is not to depend on their number.

    python benchmarks/statistics_speed.py

The images are 1,000 random ones of 3x32x32 over and over, so that they take no memory; each row is a new process.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch
from tables import write_result

from ddpm_ext.evaluation.features import load_extractor
from ddpm_ext.evaluation.statistics import extract


DIFFERENT = 1000


def measure(count: int) -> None:
    """Prints the seconds that the statistics take, those of both cores together, and the most MB that the process had
    before and after."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (DIFFERENT, 3, 32, 32), dtype=torch.uint8, generator=generator)
    extractor = load_extractor("pixels")
    extractor(images[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, started_cpu = time.perf_counter(), time.process_time()
    extract(extractor, images, indices=torch.arange(count) % DIFFERENT)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{seconds:.1f} {time.process_time() - started_cpu:.1f} {before / 1024:.0f} {peak / 1024:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, help="measure this many images in this process, and print it")
    arguments = parser.parse_args()
    if arguments.count is not None:
        measure(arguments.count)
        return
    rows = []
    for count in (2_000, 10_000, 50_000):
        command = [sys.executable, __file__, "--count", str(count)]
        rows.append(
            [f"{count:,}", *subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]
        )
        print(*rows[-1], flush=True)
    write_result(
        "statistics_speed",
        "Statistics of 3x32x32 images with `--features pixels`, 3,072 dimensions in ten groups for the interval, on "
        "two cores, by `benchmarks/statistics_speed.py`. Memory is the process's most so far; before, it is Python's "
        "and torch's own.",
        ["images", "seconds", "CPU seconds", "MB before", "MB at most"],
        rows,
    )


if __name__ == "__main__":
    main()
