"""Batch norm in a run: what is averaged, shared, resumed and reconstructed with the weights; and the command line."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from ddpm_ext import ClassConditionalDDPMPipeline, OneHotUNet2DModel
from ddpm_ext.pipelines.loading import load_pipeline
from ddpm_ext.sharing.export import export_pipeline
from ddpm_ext.training.running_statistics import RunningStatistics
from tests.open_elsewhere import draws
from tests.training_helpers import Script, killed_at, largest_difference, weights


STRIDED = (
    "--model_type one_hot_unet --block_out_channels 8 12 16 --train_batch_size 16 --max_train_steps 12 "
    "--lr_warmup_steps 2 --checkpointing_steps 5 --logging_steps 4 --save_images_steps 100 --num_inference_steps 5 "
    "--eval_batch_size 10 --logger none"
).split()
AVERAGED = "--use_ema --ema_max_decay 0.8 --ema_sigma_rel 0.05 0.1 --guidance_scale 2".split()


def train(script: Script, folder, *argv: str, name: str = "train_class_conditional") -> str:
    return script.run(name, *STRIDED, "--output_dir", str(folder), *argv, tiny=False)


def test_resumed_run_equals_the_uninterrupted_one(script: Script, tmp_path):
    """Weights, running statistics and the averages of both, to the last bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(script, whole, *AVERAGED)
    with killed_at(7):
        train(script, broken, *AVERAGED)
    train(script, broken, *AVERAGED, "--resume")
    for subfolder in ("unet", "checkpoints/checkpoint-12/unet_raw"):
        assert any(name.endswith("running_var") for name in weights(whole, subfolder))
        assert largest_difference(weights(whole, subfolder), weights(broken, subfolder)) == 0

    assert weights(whole)["down_blocks.0.1.num_batches_tracked"] == 12
    raw, averaged = (weights(whole, subfolder) for subfolder in ("checkpoints/checkpoint-12/unet_raw", "unet"))
    assert largest_difference(raw, averaged) > 1e-4
    argv = ["--run", str(whole), "--sigma_rel", "0.07", "--output", str(tmp_path / "wider")]
    script.run("reconstruct_ema", *argv, tiny=False)
    name = "down_blocks.0.1.running_mean"
    assert not torch.equal(weights(tmp_path / "wider")[name], averaged[name])  # its own, of the same updates

    pipeline = DiffusionPipeline.from_pretrained(whole)
    assert type(pipeline) is ClassConditionalDDPMPipeline and type(pipeline.unet) is OneHotUNet2DModel
    assert pipeline.unet.num_classes == 10 and not pipeline.unet.training
    parameters = sum(parameter.numel() for parameter in pipeline.unet.parameters())
    assert f"A U-Net of {parameters:,} parameters" in (whole / "README.md").read_text()
    export_pipeline(pipeline, tmp_path / "exported")
    opened = load_pipeline(str(tmp_path / "exported"))
    assert all(torch.equal(a, b) for a, b in zip(draws(opened), draws(pipeline), strict=True))
    with pytest.raises(ValueError, match="'diffusers', but the network is a OneHotUNet2DModel.*'self_contained'"):
        export_pipeline(pipeline, tmp_path / "plain", "diffusers")


def test_averages_follow_the_decay_of_the_weights_and_counts_are_copied():
    norm = nn.BatchNorm1d(2)
    statistics = RunningStatistics(norm, SimpleNamespace(num_processes=1), is_averaged=True)
    norm.running_mean += 1
    norm.num_batches_tracked += 1
    statistics.update(ema_decay=0.75)
    mean, variance, count = statistics.averages
    assert mean.tolist() == [0.25, 0.25] and variance.tolist() == [1, 1] and count == 1
    assert norm.running_mean.tolist() == [1, 1]


def test_all_processes_keep_the_mean_of_their_statistics():
    norm = nn.BatchNorm1d(2)
    other = torch.tensor([3.0, 5, 1, 3])
    accelerator = SimpleNamespace(num_processes=2, reduce=lambda own, how: (own + other) / 2)
    RunningStatistics(norm, accelerator, is_averaged=False).update(ema_decay=None)
    assert norm.running_mean.tolist() == [1.5, 2.5] and norm.running_var.tolist() == [1, 2]


def test_the_smallest_denoiser_trains_and_without_a_list_of_widths(script: Script, tmp_path):
    argv = ["--model_type", "conv", *STRIDED[STRIDED.index("--train_batch_size") :]]
    script.run("train_unconditional", *argv, "--output_dir", str(tmp_path), tiny=False)
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    assert (config["_class_name"], config["hidden_channels"], config["sample_size"]) == ("ConvDenoiser", 64, 8)
    assert "A convolutional network of" in (tmp_path / "README.md").read_text()
    again = ["--model_config_name_or_path", str(tmp_path), "--dataset_name", "digits", *argv[2:]]
    script.run("train_unconditional", *again, "--output_dir", str(tmp_path / "again"), tiny=False)
    assert largest_difference(weights(tmp_path), weights(tmp_path / "again")) < 1  # the same network, another process


BAD_INPUT = [
    (["--dropout", "0.1"], "`dropout` is 0.1 but `model_type` is 'one_hot_unet'"),
    (["--model_type", "conv"], "`block_out_channels` is [8, 12, 16]: with `model_type` 'conv', one number"),
    (["--block_out_channels", "8", "8", "8", "8"], "`resolution` of a training script, is 8x8"),
    (["--train_batch_size", "1"], "`train_batch_size` is 1: batch norm"),
    (["--model_type", "onehot"], "Did you mean 'one_hot_unet'"),
]


@pytest.mark.parametrize(("argv", "fragment"), BAD_INPUT, ids=[" ".join(argv) for argv, _ in BAD_INPUT])
def test_a_mistake_gets_one_sentence_and_leaves_nothing(argv, fragment, script: Script, tmp_path):
    folder = tmp_path / "run"
    sentence = script.fails("train_unconditional", *STRIDED, "--output_dir", str(folder), *argv, tiny=False)
    assert fragment in sentence and not folder.exists()


def test_two_convolutions_know_no_classes(script: Script, tmp_path):
    argv = ["--model_type", "conv", "--output_dir", str(tmp_path / "run")]
    assert "`model_type` is 'conv', which knows no classes" in script.fails(
        "train_class_conditional", *argv, tiny=False
    )
