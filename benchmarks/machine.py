"""The machine that a benchmark ran on, in a line."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def describe_machine(device: str) -> str:
    """Such as "2 cores of AMD EPYC 7B13, torch 2.15.0, diffusers 0.42.1"."""
    packages = f"torch {torch.__version__.split('+')[0]}, diffusers {version('diffusers')}"
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, {packages}"
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{torch.get_num_threads()} of {os.cpu_count()} cores of {model}, {packages}"
