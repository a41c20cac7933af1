"""How far from the limit: the operations that a network asks for, and how many of them this machine can do."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Limits:
    """The best of several tries: operations per second in a product of matrices, and bytes that a copy reads and
    writes."""

    operations: float
    bytes: float
    precision: str

    def describe(self) -> str:
        return (
            f"this machine multiplies matrices at {self.operations / 1e9:,.0f} GFLOP/s ({self.precision}) and copies "
            f"at {self.bytes / 1e9:,.0f} GB/s, measured in the same run"
        )

    def share(self, operations: float, seconds: float) -> str:
        """Of the matrix rate, for so many operations in so many seconds."""
        return f"{operations / seconds / self.operations:.0%}"


def measure_limits(device: str, mixed_precision: str = "no") -> Limits:
    """In the precision in which `mixed_precision` makes a network compute on `device`."""
    on_gpu = device == "cuda"
    if on_gpu:
        torch.set_float32_matmul_precision("high")
    dtype = torch.bfloat16 if mixed_precision == "bf16" else torch.float32
    size = 8192 if on_gpu else 1536
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(2**30 if on_gpu else 2**25, device=device)
    y, product = torch.empty_like(x), torch.empty_like(a)
    precision = "bf16" if dtype == torch.bfloat16 else "TF32" if on_gpu else "float32"
    return Limits(
        2 * size**3 / _fastest(lambda: torch.mm(a, b, out=product), on_gpu),
        2 * x.nbytes / _fastest(lambda: y.copy_(x), on_gpu),
        precision,
    )


def operations_of(config: dict[str, object], batch_size: int, backward: bool) -> int:
    """Of one evaluation of a U-Net, with `backward` also of its gradient; a product and its sum are two."""
    with torch.device("meta"):
        unet = UNet2DModel(**config)
        size = config["sample_size"]
        x = torch.empty(batch_size, config["in_channels"], size, size)
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
            output = unet(x, torch.zeros(batch_size)).sample
            if backward:
                output.sum().backward()
    return counter.get_total_flops()


def _fastest(work: Callable[[], object], on_gpu: bool) -> float:
    """Seconds of the fastest of the calls that fit into two seconds."""
    found, until = [], time.perf_counter() + 2
    while time.perf_counter() < until:
        began = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)
