import json

import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from PIL import Image

from ddpm_ext.data.images import ImageData
from ddpm_ext.diffusion import TrainingLoss
from ddpm_ext.randomness import generator_for
from ddpm_ext.training.building import build_unet
from ddpm_ext.training.command_line import parse
from tests.training_helpers import Script, killed_at, largest_difference, weights


SCRIPTS = ("train_unconditional", "train_class_conditional")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_run_leaves_a_pipeline_its_configuration_and_its_curves(name: str, script: Script, tmp_path):
    said = script.run(name, "--output_dir", str(tmp_path / "run"))
    folder = tmp_path / "run"
    assert str(folder) in said and "DiffusionPipeline.from_pretrained" in said
    assert (folder / "loss.png").stat().st_size > 0
    assert [path.name for path in (folder / "samples").iterdir()] == ["step-000012.png"]
    assert Image.open(folder / "trajectory.gif").n_frames == 6  # five steps and the sample
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 5, 8, 10, 12]
    assert all(row["loss"] > 0 and row["images_per_second"] > 0 for row in rows)
    assert yaml.safe_load((folder / "config.yaml").read_text())["max_train_steps"] == 12
    pipeline = DiffusionPipeline.from_pretrained(folder)
    argument = {"class_labels": [3]} if name == "train_class_conditional" else {"batch_size": 1}
    assert pipeline(**argument, num_inference_steps=2).images[0].size == (8, 8)


def test_every_checkpoint_opens_as_a_pipeline_with_its_raw_weights_beside(finished_run):
    for step in (10, 12):
        checkpoint = finished_run / "checkpoints" / f"checkpoint-{step}"
        pipeline = DiffusionPipeline.from_pretrained(checkpoint)
        raw = type(pipeline.unet).from_pretrained(checkpoint, subfolder="unet_raw")
        assert largest_difference(raw.state_dict(), pipeline.unet.state_dict()) > 0


def test_the_limit_keeps_the_newest_checkpoints(script: Script, tmp_path):
    script.run("train_unconditional", "--output_dir", str(tmp_path), "--checkpoints_total_limit", "2")
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["checkpoint-10", "checkpoint-12"]


@pytest.mark.parametrize("groups, is_told", [("8", True), ("4", False)])
def test_whoever_trains_a_network_that_is_blind_to_brightness_is_told(groups, is_told, capsys):
    argv = "--block_out_channels 8 16 --attention_head_dim 8 --norm_num_groups".split()
    arguments = parse("unconditional", [*argv, groups])
    build_unet(arguments, ImageData(None, (1, 8, 8), 255, None, None, []))
    said = capsys.readouterr().err
    assert said.startswith("note: `norm_num_groups` is 8, and each channel before") if is_told else said == ""


RESUMED = {
    "plain": [],
    "accumulation": ["--gradient_accumulation_steps", "2"],
    # a short chain, so that every timestep is seen often enough for the sampler to have warmed up
    "importance sampling": "--loss vlb --timestep_sampler loss_second_moment --num_train_timesteps 10".split(),
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
def test_resumed_run_equals_the_uninterrupted_one(options, script: Script, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    script.run("train_class_conditional", "--output_dir", str(whole), *options)
    with killed_at(7):
        script.run("train_class_conditional", "--output_dir", str(broken), *options)
    script.run("train_class_conditional", "--output_dir", str(broken), "--resume", *options)

    for subfolder in ("unet", "checkpoints/checkpoint-12/unet_raw"):
        assert largest_difference(weights(whole, subfolder), weights(broken, subfolder)) == 0
    losses = [
        [(row["step"], row["loss"]) for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]
        for folder in (whole, broken)
    ]
    assert losses[0] == losses[1]


def test_accumulation_trains_what_one_large_batch_trains(script: Script, tmp_path):
    slow = ["--learning_rate", "1e-4"]  # Adam turns the rounding of a gradient near zero into a share of this
    script.run("train_unconditional", "--output_dir", str(tmp_path / "a"), *slow)
    halves = ["--train_batch_size", "8", "--gradient_accumulation_steps", "2"]
    script.run("train_unconditional", "--output_dir", str(tmp_path / "b"), *slow, *halves)
    assert largest_difference(weights(tmp_path / "a"), weights(tmp_path / "b")) < 5e-5


def test_a_network_starts_at_loss_one_and_learns(script: Script, tmp_path):
    script.run("train_unconditional", "--output_dir", str(tmp_path), "--max_train_steps", "40")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] == pytest.approx(1, abs=0.1)  # zero-initialised: it predicts no noise, whose square is 1
    assert losses[-1] < 0.8


def test_a_loss_that_is_not_finite_stops_the_run(script: Script, tmp_path, monkeypatch):
    calls = iter(range(1000))

    def breaks_at_step_7(self, output, x_0, x_t, noise, t):
        broken = next(calls) == 6
        return torch.where((t == t.max()) & broken, torch.nan, output.square().flatten(1).mean(1))

    monkeypatch.setattr(TrainingLoss, "__call__", breaks_at_step_7)
    sentence = script.fails("train_unconditional", "--output_dir", str(tmp_path / "run"))
    assert "at step 7, timesteps " in sentence and "checkpoint-5" in sentence
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-5"]
    DiffusionPipeline.from_pretrained(tmp_path / "run" / "checkpoints" / "checkpoint-5")


BAD_INPUT = [
    (["--no_such_flag", "1"], "--no_such_flag"),
    (["--learning_rat", "1"], "did you mean `--learning_rate`"),
    (["--beta_schedule", "cosinus"], "Did you mean 'cosine'"),
    (["--prediction_type", "noise"], "prediction_type"),
    (["--variance_type", "learnt"], "Did you mean 'learned'"),
    (["--dataset_name", "no/such/folder/"], "no/such/folder"),
    (["--train_data_dir", "no-such-folder"], "no-such-folder"),
    (["--block_out_channels", "8", "8", "8", "8", "8"], "multiples of 16"),
    (["--train_batch_size", "2000"], "1437"),
    (["--resume_from_checkpoint", "latest"], "holds no checkpoint"),
    (["--loss", "hybrid"], "loss"),
]


@pytest.mark.parametrize(("argv", "fragment"), BAD_INPUT, ids=[" ".join(argv) for argv, _ in BAD_INPUT])
def test_a_mistake_gets_one_sentence_and_leaves_nothing(argv, fragment, script: Script, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sentence = script.fails("train_unconditional", "--output_dir", str(tmp_path / "run"), *argv)
    assert fragment in sentence
    assert not (tmp_path / "run").exists()


def test_another_run_is_not_overwritten_unless_asked(finished_run, script: Script):
    before = weights(finished_run)
    another = ["--output_dir", str(finished_run), "--seed", "1"]
    assert "holds another run" in script.fails("train_unconditional", *another)
    assert largest_difference(before, weights(finished_run)) == 0
    script.run("train_unconditional", *another, "--overwrite_output_dir")
    assert largest_difference(before, weights(finished_run)) > 0


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        (["--block_out_channels", "8", "24"], "block_out_channels"),
        (["--train_batch_size", "8"], "global_batch_size = 16, and this run has 8: with 1 x 1 (processes x"),
        (["--gradient_accumulation_steps", "3"], "1 x 3 (processes x accumulation steps) does not divide 16"),
        (["--beta_schedule", "linear"], "beta_schedule"),
        (["--seed", "1"], "seed"),
    ],
)
def test_a_run_resumes_only_as_it_was_started(argv, fragment, finished_run, script: Script):
    sentence = script.fails("train_unconditional", "--output_dir", str(finished_run), "--resume", *argv)
    assert fragment in sentence


def test_a_class_conditional_run_needs_labels(script: Script, tmp_path):
    from PIL import Image

    for i in range(20):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    argv = ["--train_data_dir", str(tmp_path), "--output_dir", str(tmp_path / "run"), "--train_batch_size", "4"]
    assert "label" in script.fails("train_class_conditional", *argv)


def test_the_noise_of_all_grids_and_the_untrained_network_are_drawn_on_request(script: Script, tmp_path):
    argv = ["--save_images_at_start", "--save_images_steps", "12"]
    script.run("train_unconditional", "--output_dir", str(tmp_path), *argv)
    samples = tmp_path / "samples"
    assert sorted(path.name for path in samples.iterdir()) == ["noise.png", "step-000000.png", "step-000012.png"]
    noise, before = (np.asarray(Image.open(samples / name), float) for name in ("noise.png", "step-000000.png"))
    assert noise.shape == before.shape
    expected = torch.randn(1, 1, 8, 8, generator=generator_for(0, "image", 0))  # what `generate` draws first
    drawn = torch.tensor(noise[8:72:8, 8:72:8, 0] / 127.5 - 1, dtype=torch.float32)
    torch.testing.assert_close(drawn, expected[0, 0].clamp(-1, 1), rtol=0, atol=1 / 127)


def test_checkpoints_by_the_epoch(script: Script, tmp_path):
    argv = ["--checkpointing_epochs", "1", "--train_batch_size", "718", "--max_train_steps", "3"]
    script.run("train_unconditional", "--output_dir", str(tmp_path), *argv)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-3"}
