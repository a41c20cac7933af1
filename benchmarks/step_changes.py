"""What each change to a training step gave on a CPU: the part that it changes, before and after, in turns.

python benchmarks/step_changes.py                                    # the digits recipe's network
python benchmarks/step_changes.py --network cifar10 --batch_size 4   # minutes
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from machine import describe_machine
from tables import write_result
from torch.nn.functional import mse_loss
from train_throughput import NETWORKS, TITLES
from turns import Contenders, Side, take_turns, times_as_fast

from ddpm_ext.freed_memory import keep_freed_memory


# The change, the part of a step, and its names before and after.
CHANGES = (
    ("AdamW `fused`", "update", "update", "fused update"),
    ("the average over all weights at once (`foreach`)", "average", "average", "foreach average"),
    ("clipping over all gradients at once (`foreach`)", "clipping", "clipping", "foreach clipping"),
    ("the channels-last layout", "forward and backward", "network", "channels-last network"),
    ("freed memory is kept", "forward and backward", "forgetful network", "network"),
)


def network(config: dict[str, object], batch_size: int, memory_format: torch.memory_format) -> Callable[[], None]:
    """One forward and one backward pass per call."""
    unet = UNet2DModel(**config).to(memory_format=memory_format)
    x = torch.randn(batch_size, config["in_channels"], config["sample_size"], config["sample_size"])
    t = torch.arange(batch_size)

    def step() -> None:
        mse_loss(unet(x, t).sample, x).backward()
        unet.zero_grad()

    return step


def as_in_a_fresh_process(config: dict[str, object], batch_size: int) -> Contenders:
    return {"forgetful network": network(config, batch_size, torch.contiguous_format)}


def with_and_without(config: dict[str, object], batch_size: int) -> Contenders:
    keep_freed_memory()
    parameters = [torch.nn.Parameter(weights) for weights in UNet2DModel(**config).state_dict().values()]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    averages = {foreach: EMAModel(parameters, foreach=foreach) for foreach in (False, True)}
    return {
        "update": torch.optim.AdamW(parameters, lr=1e-9).step,
        "fused update": torch.optim.AdamW(parameters, lr=1e-9, fused=True).step,
        "average": lambda: averages[False].step(parameters),
        "foreach average": lambda: averages[True].step(parameters),
        "clipping": lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=False),
        "foreach clipping": lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True),
        "network": network(config, batch_size, torch.contiguous_format),
        "channels-last network": network(config, batch_size, torch.channels_last),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=tuple(NETWORKS), default="digits")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each, at least 2")
    parser.add_argument("--steps", type=int, default=5, help="of a turn")
    arguments = parser.parse_args()
    options = (NETWORKS[arguments.network], arguments.batch_size)
    with Side(with_and_without, *options) as ours, Side(as_in_a_fresh_process, *options) as forgetful:
        seconds = take_turns([ours, forgetful], arguments.rounds, arguments.steps)
    rows = [
        [
            change,
            part,
            f"{1000 * median(seconds[before]):.1f} ms",
            f"{1000 * median(seconds[after]):.1f} ms",
            times_as_fast(seconds[after], seconds[before]),
        ]
        for change, part, before, after in CHANGES
    ]
    write_result(
        f"step_changes_{arguments.network}",
        f"Of {TITLES[arguments.network]}, batch {arguments.batch_size}: medians of {arguments.rounds} turns "
        f"of {arguments.steps}, quartiles in brackets, by `benchmarks/step_changes.py`. {describe_machine('cpu')}.",
        ["change", "part of the step", "before", "after", "times as fast"],
        rows,
    )


if __name__ == "__main__":
    main()
