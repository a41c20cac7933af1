"""The README's table of speed, from the results of the benchmarks beside it.

python benchmarks/headline.py && python benchmarks/tables.py
"""

import json

from tables import RESULTS, write_result


# What is done, whom it is compared with, the result, and the row in it, by its first cells.
ROWS = (
    ("a training step of the digits' network", "diffusers' example", "train_throughput_digits_cpu", ["ours"]),
    ("the same, compiled", "diffusers' example", "train_throughput_digits_cpu", ["ours, compiled"]),
    ("drawing 64 digits", "`DDPMPipeline`", "sampling_throughput_digits_cpu", ["DDPM", "ours"]),
    ("the same, compiled", "`DDPMPipeline`", "sampling_throughput_digits_cpu", ["DDPM", "ours, compiled"]),
    ("a step of the scheduler", "`DDPMScheduler`", "sampling_throughput_digits_cpu", ["scheduler alone", "ours"]),
    ("loading batches of CIFAR-10", "diffusers' example", "loading_throughput_cpu", ["ours"]),
    ("a training step on a GPU", "diffusers' example", "train_throughput_cifar10_cuda", ["ours, compiled"]),
)


def times_as_fast(result: str, row: list[str]) -> str:
    """The cell of `row` in the column that says so, or that there is none."""
    path = RESULTS / f"{result}.json"
    if not path.exists():
        return "not measured"
    content = json.loads(path.read_text())
    column = next(i for i, name in enumerate(content["columns"]) if name.startswith("times as fast"))
    return next(cells[column] for cells in content["rows"] if cells[: len(row)] == row)


def main() -> None:
    write_result(
        "headline",
        "Medians of ratios, quartiles in brackets; the same work on both sides, on a CPU where "
        "nothing else is said. By `benchmarks/headline.py`, from the tables of docs/performance.md.",
        ["", "beside", "times as fast"],
        [[what, whom, times_as_fast(result, row)] for what, whom, result, row in ROWS],
    )


if __name__ == "__main__":
    main()
