"""Training on points of the plane, by the script."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from ddpm_ext import PointsDDPMPipeline
from ddpm_ext.data.points import load_points
from ddpm_ext.evaluation.point_metrics import chamfer_distance
from ddpm_ext.evaluation.records import read_measurements
from ddpm_ext.training import point_samples
from tests.training_helpers import Script, killed_at, largest_difference, weights


TINY = (
    "--num_points 200 --hidden_sizes 16 16 --train_batch_size 16 --max_train_steps 12 --lr_warmup_steps 2 "
    "--checkpointing_steps 5 --logging_steps 4 --save_images_steps 100 --num_inference_steps 5 --eval_batch_size 40"
).split()


@pytest.fixture(autouse=True)
def few_frames(monkeypatch):
    monkeypatch.setattr(point_samples, "_FRAMES", 4)


def train(script: Script, folder, *argv: str) -> str:
    return script.run("train_points", *TINY, "--output_dir", str(folder), *argv, tiny=False)


def test_a_run_leaves_a_pipeline_that_has_learned_pictures_and_numbers(script: Script, tmp_path):
    settings = (
        "--num_points 1000 --train_batch_size 64 --max_train_steps 150 --learning_rate 2e-2 --hidden_sizes 32 32"
    )
    sampling = (
        "--dataset_name gaussian_mixture --num_inference_steps 50 --eval_batch_size 200 --checkpointing_steps 150"
    )
    said = train(script, tmp_path, *settings.split(), *sampling.split())

    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["points_seen"] == 150 * 64 and rows[-1]["points_per_second"] > 0
    assert sum(row["loss"] for row in rows[-5:]) < 0.6 * sum(row["loss"] for row in rows[:5])
    found = {one.name: one.estimate.value for one in read_measurements(tmp_path / "evaluation" / "metrics.json")}
    chamfer = found["chamfer"]
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    distance_of_noise = chamfer_distance(noise, load_points("gaussian_mixture", 200, split="fresh").points)
    assert 0 < found["chamfer_floor"] < chamfer < 0.7 * distance_of_noise
    protocol = "data set: gaussian_mixture; points: 200; steps: 50; reference: 200 fresh points"
    assert f"Chamfer distance {chamfer:.3g} ({protocol})" in said
    assert "points = pipe(num_points=1000).points" in said

    for name in ("loss.png", "samples/step-000150.png", "forward.png", "trajectory.png"):
        assert Image.open(tmp_path / name).size[0] > 100
    assert Image.open(tmp_path / "forward.gif").n_frames == 5 and Image.open(tmp_path / "trajectory.gif").n_frames == 4
    pipeline = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipeline) is PointsDDPMPipeline and pipeline(3, num_inference_steps=2).points.shape == (3, 2)
    card = (tmp_path / "README.md").read_text()
    assert "A multilayer perceptron of" in card and "| Chamfer distance |" in card and "9,600 points seen" in card


def test_resumed_run_equals_the_uninterrupted_one(script: Script, tmp_path):
    argv = "--dataset_name checkerboard --class_conditional --variance_type learned_range --guidance_scale 2".split()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(script, whole, *argv)
    with killed_at(7):
        train(script, broken, *argv)
    train(script, broken, *argv, "--resume")
    for subfolder in ("unet", "checkpoints/checkpoint-12/unet_raw"):
        assert largest_difference(weights(whole, subfolder), weights(broken, subfolder)) == 0
    values = [
        [one.estimate for one in read_measurements(folder / "evaluation" / "metrics.json")]
        for folder in (whole, broken)
    ]
    assert len(values[0]) == 3 and values[0] == values[1]
    assert (whole / "trajectory.gif").read_bytes() == (broken / "trajectory.gif").read_bytes()
    assert weights(whole)["class_embedding.weight"].shape == (9, 16)


BAD_INPUT = [
    (["--class_conditional"], "`class_conditional` is true, but the points of 'swiss_roll' have no classes"),
    (["--guidance_scale", "2"], "`guidance_scale` is 2.0 but `class_conditional` is false"),
    (["--eval_steps", "5"], "8-bit images, which points are not"),
    (["--train_batch_size", "300"], "`train_batch_size` makes 300 points per update"),
    (["--hidden_sizes", "7"], "`hidden_sizes` is [7]"),
    (["--random_flip"], "`--random_flip` is an argument of unconditional training"),
]


@pytest.mark.parametrize(("argv", "fragment"), BAD_INPUT, ids=[" ".join(argv) for argv, _ in BAD_INPUT])
def test_a_mistake_gets_one_sentence_and_leaves_nothing(argv, fragment, script: Script, tmp_path):
    sentence = script.fails("train_points", *TINY, "--output_dir", str(tmp_path / "run"), *argv, tiny=False)
    assert fragment in sentence
    assert not (tmp_path / "run").exists()
