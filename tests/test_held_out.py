"""What a run measures on images that it has not trained on."""

import json

import pytest
import torch
from PIL import Image

from ddpm_ext.data.images import load_images, to_unit_range
from ddpm_ext.diffusion import exact_bits_per_dim
from ddpm_ext.evaluation.likelihood import estimated_bits_per_dim
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline
from tests.training_helpers import Script


def test_the_logged_bits_per_dim_are_those_of_the_saved_pipeline(script: Script, tmp_path):
    measured = [
        "--eval_steps",
        "12",
        "--eval_images",
        "70",
        "--num_train_timesteps",
        "60",
        "--beta_schedule",
        "linear",
    ]
    script.run("train_class_conditional", "--output_dir", str(tmp_path), *measured)
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 12
    pipeline = ClassConditionalDDPMPipeline.from_pretrained(tmp_path)
    data = load_images("digits", split="test", show_progress=False)
    estimate = estimated_bits_per_dim(pipeline, data, num_images=70)
    assert row["held_out_bits_per_dim"] == pytest.approx(estimate.mean, rel=1e-5)

    first = torch.arange(70)
    x_0, labels = to_unit_range(data.integers(first), data.max_value), data.labels[first]
    exact = exact_bits_per_dim(
        pipeline.scheduler.process,
        pipeline.scheduler.parameterization,
        lambda x_t, t: pipeline.unet(x_t, t, labels).sample,
        x_0,
        torch.Generator().manual_seed(1),
    )
    assert abs(estimate.mean - float(exact.total.mean())) < 5 * estimate.standard_error


def test_a_held_out_split_of_another_size_is_refused(script: Script, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split, size in (("train", 8), ("test", 16)):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i in range(20):
            Image.new("L", (size, size), 10 * i).save(tmp_path / "images" / split / f"{i}.png")
    argv = ["--train_data_dir", str(tmp_path / "images"), "--output_dir", str(tmp_path / "run"), "--eval_steps", "5"]
    sentence = script.fails("train_unconditional", *argv)
    assert sentence == "`test_split` has images of 1x16x16, and those that are trained on are 1x8x8."
