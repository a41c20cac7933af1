"""What `import ddpm_ext` adds to `import diffusers`, and how long `--help` takes, in fresh processes, in turns.

    python benchmarks/import_time.py

Time is that of the processor, user and system together: what else the machine does is not in it.
"""

import argparse
import resource
import subprocess
import sys
from statistics import median, quantiles

from machine import describe_machine
from tables import ROOT, write_result


STOCK = "`import diffusers`"
STOCK_CLASSES = "`from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel`"
COMMANDS = {
    STOCK: ["-c", "import diffusers"],
    "`import diffusers, ddpm_ext`": ["-c", "import diffusers, ddpm_ext"],
    STOCK_CLASSES: ["-c", "from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel"],
    "`from ddpm_ext import ImprovedDDPMPipeline, ImprovedDDPMScheduler, ClassConditionalUNet2DModel`": [
        "-c",
        "from ddpm_ext import ClassConditionalUNet2DModel, ImprovedDDPMPipeline, ImprovedDDPMScheduler",
    ],
    "`train_unconditional.py --help`": [str(ROOT / "train_scripts" / "train_unconditional.py"), "--help"],
}
REFERENCES = {0: None, 1: STOCK, 2: None, 3: STOCK_CLASSES, 4: None}  # by row


def processor_seconds(command: list[str]) -> float:
    """Of a fresh Python that runs `command`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="fresh processes of each, at least 2")
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, command in COMMANDS.items():
            taken = processor_seconds(command)
            if turn:  # the first reads files that the others find in memory
                seconds[name].append(taken)
    rows = []
    for row, (name, own) in enumerate(seconds.items()):
        reference = REFERENCES[row]
        more = "-"
        if reference is not None:
            differences = [mine - theirs for mine, theirs in zip(own, seconds[reference], strict=True)]
            low, _, high = quantiles(differences, n=4)
            more = f"{median(differences):.2f} s ({low:.2f} to {high:.2f})"
        rows.append([name, f"{median(own):.2f} s", more])
    write_result(
        "import_time",
        f"Processor time of fresh processes, medians of {rounds}, quartiles of the differences of neighbours in "
        f"brackets, by `benchmarks/import_time.py`. {describe_machine('cpu')}.",
        ["", "time", "more than the row above"],
        rows,
    )


if __name__ == "__main__":
    main()
