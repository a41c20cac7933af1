"""Tiny networks and pipelines; their weights are random, but the same in every run and process."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from ddpm_ext import (
    ClassConditionalDDPMPipeline,
    ClassConditionalUNet2DModel,
    ImprovedDDPMPipeline,
    ImprovedDDPMScheduler,
)
from ddpm_ext.models import unet_config
from tests.training_helpers import TINY, Script, run_main


if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # workers, and the processes that they start, share the cores
    THREADS = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    torch.set_num_threads(THREADS)
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

NAMES = ("airplane", "automobile", "bird")


def tiny_unet(
    channels: int = 1,
    learns_variance: bool = False,
    num_classes: int | None = None,
    sample_size: tuple[int, int] = (8, 8),
) -> UNet2DModel:
    torch.manual_seed(0)
    config = unet_config(
        sample_size,
        channels,
        learns_variance,
        num_classes,
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_resolutions=(),
    )
    return (UNet2DModel if num_classes is None else ClassConditionalUNet2DModel)(**config).eval()


def tiny_pipeline(channels: int = 1, prediction_type: str = "epsilon", **unet: object) -> ImprovedDDPMPipeline:
    scheduler = ImprovedDDPMScheduler(prediction_type=prediction_type, beta_schedule="cosine")
    pipeline = ImprovedDDPMPipeline(tiny_unet(channels, **unet), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_class_conditional(names: tuple[str, ...] = NAMES, channels: int = 1) -> ClassConditionalDDPMPipeline:
    scheduler = ImprovedDDPMScheduler(variance_type="learned_range", beta_schedule="cosine")
    unet = tiny_unet(channels, learns_variance=True, num_classes=len(names))
    pipeline = ClassConditionalDDPMPipeline(unet, scheduler, {str(i): name for i, name in enumerate(names)})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline() -> ImprovedDDPMPipeline:
    return tiny_pipeline()


@pytest.fixture
def class_conditional() -> ClassConditionalDDPMPipeline:
    """Three classes, learned variance."""
    return tiny_class_conditional()


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a saved pipeline, by name: "unconditional", "rgb" or "class_conditional"."""
    root = tmp_path_factory.mktemp("pipelines")
    makers = {
        "unconditional": tiny_pipeline,
        "rgb": lambda: tiny_pipeline(channels=3),
        "class_conditional": tiny_class_conditional,
    }

    def folder(name: str) -> Path:
        if not (root / name).exists():
            makers[name]().save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def _run_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_main("ddpm_ext.train_scripts.train_unconditional", *TINY, "--output_dir", folder)
    return folder


@pytest.fixture
def finished_run(_run_once, tmp_path) -> Path:
    """The folder of a finished run of `train_unconditional` as `script.run` starts it, to do anything with."""
    return shutil.copytree(_run_once, tmp_path / "finished")


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> Script:
    """Runs a script of the package in this process."""
    return Script(capsys)
