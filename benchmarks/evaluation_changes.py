"""What was tried to evaluate a network faster on a CPU, each beside the network as it is, in turns.

python benchmarks/evaluation_changes.py        # the digits recipe's network, 64 images
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from statistics import median

import torch
from diffusers import UNet2DModel
from machine import describe_machine
from tables import write_result
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from train_throughput import NETWORKS, TITLES
from turns import Contenders, Side, take_turns, times_as_fast

from ddpm_ext.freed_memory import keep_freed_memory


PLAIN = "as it is"
OPERATORS = {
    "convolutions": "aten::mkldnn_convolution",
    "group norms": "aten::native_group_norm",
    "SiLU": "aten::silu",
}


class _Sample(nn.Module):
    """Returns the sample alone, which is what tracing can follow."""

    def __init__(self, network: UNet2DModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t, return_dict=False)[0]


def _inputs(config: dict[str, object], batch_size: int) -> tuple[Tensor, Tensor]:
    size = config["sample_size"]
    return torch.randn(batch_size, config["in_channels"], size, size), torch.full((batch_size,), 500)


def _network(config: dict[str, object]) -> _Sample:
    torch.manual_seed(0)
    return _Sample(UNet2DModel(**config).eval())


def ways(config: dict[str, object], batch_size: int) -> Contenders:
    """The same evaluation in each way, all of which return the same."""
    keep_freed_memory()
    torch.set_grad_enabled(False)
    plain, (x, t) = _network(config), _inputs(config, batch_size)
    last = deepcopy(plain).to(memory_format=torch.channels_last)
    fused = deepcopy(plain)
    for module in fused.modules():
        if hasattr(module, "fuse_projections"):
            module.fuse_projections()
    half = batch_size // 2
    found: dict[str, Callable[[], Tensor]] = {
        PLAIN: lambda: plain(x, t),
        "`torch.inference_mode`": torch.inference_mode()(lambda: plain(x, t)),
        "the channels-last layout": lambda: last(x, t),
        "queries, keys and values by one product": lambda: fused(x, t),
        "halves of the batch, one after the other": lambda: torch.cat(
            [plain(x[:half], t[:half]), plain(x[half:], t[half:])]
        ),
    }
    traced = torch.jit.trace(deepcopy(plain), (x, t), check_trace=False)
    found["`torch.jit.trace`, which is deprecated"] = lambda: traced(x, t)
    compiled, compiled_last = (torch.compile(deepcopy(network), dynamic=False) for network in (plain, last))
    found["`torch.compile`"] = lambda: compiled(x, t)
    found["`torch.compile`, the channels-last layout"] = lambda: compiled_last(x, t)
    expected = plain(x, t)
    for name, evaluate in found.items():
        torch.testing.assert_close(evaluate(), expected, rtol=0, atol=1e-4, msg=f"{name} returns something else")
    return found


def shares(config: dict[str, object], batch_size: int) -> str:
    """Which operators take the time of an evaluation."""
    network, (x, t) = _network(config), _inputs(config, batch_size)
    with torch.no_grad():
        network(x, t)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(20):
                network(x, t)
    seconds = {entry.key: entry.self_cpu_time_total for entry in profiled.key_averages()}
    total = sum(seconds.values())
    return ", ".join(f"{name} {seconds[key] / total:.0%}" for name, key in OPERATORS.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=tuple(NETWORKS), default="digits")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each, at least 2")
    parser.add_argument("--steps", type=int, default=5, help="evaluations of a turn")
    arguments = parser.parse_args()
    options = (NETWORKS[arguments.network], arguments.batch_size)
    with Side(ways, *options) as side:
        seconds = take_turns([side], arguments.rounds, arguments.steps)
    rows = [
        [name, f"{1000 * median(taken):.1f} ms", times_as_fast(taken, seconds[PLAIN])]
        for name, taken in seconds.items()
    ]
    write_result(
        f"evaluation_changes_{arguments.network}",
        f"An evaluation of {TITLES[arguments.network]}, batch {arguments.batch_size}: medians of {arguments.rounds} "
        f"turns of {arguments.steps}, quartiles in brackets, by `benchmarks/evaluation_changes.py`. Of the time of "
        f"its operators as it is: {shares(*options)}. {describe_machine('cpu')}.",
        ["", "an evaluation", "times as fast"],
        rows,
    )


if __name__ == "__main__":
    main()
