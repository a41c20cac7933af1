"""Training by flow matching with the scripts, and what the other scripts make of such a model."""

import json

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image

from ddpm_ext import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline, PointsDDPMPipeline
from ddpm_ext.data.points import load_points
from ddpm_ext.evaluation.point_metrics import chamfer_distance
from ddpm_ext.evaluation.records import read_measurements
from ddpm_ext.schedulers.flow_matching import flow_scheduler
from ddpm_ext.training import point_samples
from ddpm_ext.training.checkpoints import check_same_run
from ddpm_ext.training.command_line import parse
from ddpm_ext.training.global_batch import GlobalBatch
from ddpm_ext.training.recipes import flatten, to_yaml
from tests.conftest import tiny_unet
from tests.test_train_points import TINY as TINY_POINTS
from tests.training_helpers import Script, killed_at, largest_difference, weights


FLOW = ("--objective", "flow_matching")


@pytest.fixture(autouse=True)
def few_frames(monkeypatch):
    monkeypatch.setattr(point_samples, "_FRAMES", 4)


def train_points(script: Script, folder, *argv: str) -> str:
    return script.run("train_points", *TINY_POINTS, *FLOW, "--output_dir", str(folder), *argv, tiny=False)


# ------------------------------------------------------------------ points


def test_a_run_on_points_learns_and_leaves_a_pipeline_and_pictures(script: Script, tmp_path):
    settings = (
        "--num_points 1000 --train_batch_size 64 --max_train_steps 150 --learning_rate 2e-2 --hidden_sizes 32 32 "
        "--dataset_name gaussian_mixture --num_inference_steps 20 --eval_batch_size 200 --checkpointing_steps 150 "
        "--timestep_sampler logit_normal"
    )
    train_points(script, tmp_path, *settings.split())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["loss"] for row in rows[-5:]) < 0.9 * sum(row["loss"] for row in rows[:5])
    assert {f"loss_quarter_{i}" for i in (1, 2, 3, 4)} <= rows[-1].keys()
    found = {one.name: one.estimate.value for one in read_measurements(tmp_path / "evaluation" / "metrics.json")}
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    of_noise = chamfer_distance(noise, load_points("gaussian_mixture", 200, split="fresh").points)
    assert 0 < found["chamfer_floor"] < found["chamfer"] < 0.7 * of_noise

    for name in ("forward.png", "trajectory.png", "loss_per_timestep.png"):
        assert Image.open(tmp_path / name).size[0] > 100
    assert Image.open(tmp_path / "forward.gif").n_frames == 5
    pipeline = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipeline) is PointsDDPMPipeline and type(pipeline.scheduler) is FlowMatchEulerDiscreteScheduler
    card = (tmp_path / "README.md").read_text()
    assert "A flow-matching model of points in 2 dimensions" in card and "- flow-matching" in card
    assert "predicts the velocity of the straight path from points to noise" in card and "- ddpm\n" not in card


def test_a_resumed_run_equals_the_uninterrupted_one_and_keeps_its_objective(script: Script, tmp_path):
    argv = ["--dataset_name", "checkerboard", "--class_conditional", "--guidance_scale", "2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_points(script, whole, *argv)
    with killed_at(7):
        train_points(script, broken, *argv)
    common = [*TINY_POINTS, *argv, "--output_dir", str(broken), "--resume"]
    sentence = script.fails("train_points", *common, tiny=False)
    assert "was trained with objective = flow_matching, and this run has ddpm" in sentence
    script.run("train_points", *common, *FLOW, tiny=False)
    assert largest_difference(weights(whole), weights(broken)) == 0
    assert (whole / "trajectory.gif").read_bytes() == (broken / "trajectory.gif").read_bytes()


def test_a_checkpoint_of_before_there_were_objectives_is_that_of_a_ddpm(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "run.json").write_text(json.dumps({"seed": 0}))
    check_same_run(tmp_path, {"seed": 0, "objective": "ddpm"}, GlobalBatch(16, 1, 1))
    with pytest.raises(ValueError, match="objective = ddpm, and this run has flow_matching"):
        check_same_run(tmp_path, {"seed": 0, "objective": "flow_matching"}, GlobalBatch(16, 1, 1))


# ------------------------------------------------------------------ images


@pytest.mark.parametrize(
    ("name", "kind"),
    [("train_unconditional", ImprovedDDPMPipeline), ("train_class_conditional", ClassConditionalDDPMPipeline)],
)
def test_the_scripts_for_images_train_a_network_that_predicts_one_velocity(name, kind, script: Script, tmp_path):
    script.run(name, *FLOW, "--max_train_steps", "4", "--output_dir", str(tmp_path))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipeline) is kind and type(pipeline.scheduler) is FlowMatchEulerDiscreteScheduler
    assert pipeline.unet.config.out_channels == pipeline.unet.config.in_channels == 1
    assert (tmp_path / "samples" / "step-000004.png").exists() and (tmp_path / "trajectory.gif").exists()


def test_samples_are_measured_while_it_trains_but_not_bits_per_dim(script: Script, tmp_path, monkeypatch):
    for module in ("ddpm_ext.training.sample_distance", "ddpm_ext.evaluation.reference"):
        monkeypatch.setattr(f"{module}.default_cache", lambda: tmp_path / "cache")
    measured = "--eval_steps 2 --eval_fid pixels --eval_fid_images 70 --keep_best fid --num_inference_steps 2".split()
    script.run(
        "train_unconditional", *FLOW, *measured, "--max_train_steps", "2", "--output_dir", str(tmp_path / "run")
    )
    (row,) = (
        row
        for row in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        if "held_out_fid" in row
    )
    assert row["step"] == 2 and row["held_out_fid"] > 0 and "held_out_bits_per_dim" not in row
    assert json.loads((tmp_path / "run" / "best" / "best.json").read_text())["metric"] == "fid"


@pytest.fixture
def saved_flow(tmp_path):
    folder = tmp_path / "flow"
    ImprovedDDPMPipeline(tiny_unet(), flow_scheduler({"num_train_timesteps": 1000})).save_pretrained(folder)
    return folder


def test_a_model_is_sampled_measured_and_reported_on(script: Script, saved_flow, tmp_path):
    few = ["--num_images", "200", "--num_inference_steps", "2", "--features", "pixels"]
    drawn = ["--model", str(saved_flow), "--num_images", "4", "--num_inference_steps", "3"]
    script.run("sample", *drawn, "--output", str(tmp_path / "grid.png"), tiny=False)
    assert Image.open(tmp_path / "grid.png").size[0] > 8

    argv = ["--model", str(saved_flow), "--dataset_name", "digits", *few, "--reference_cache", str(tmp_path / "cache")]
    said = script.run("evaluate", *argv, "--metrics", "fid", "memorisation", tiny=False)
    assert "sampler: euler" in said and "bits/dim" not in said

    page = tmp_path / "report.html"
    argv = ["--model", str(saved_flow), "--num_images", "2", "--num_inference_steps", "2", "--dataset_name", "digits"]
    script.run("report", *argv, "--output", str(page), tiny=False)
    text = page.read_text(encoding="utf-8")
    assert "A flow-matching model in pixel space" in text and "Euler, 2 steps" in text and "The way to noise" in text
    assert "bound" not in text and "alphas_cumprod" not in text


@pytest.mark.parametrize(
    ("name", "argv", "fragment"),
    [
        ("evaluate", ["--dataset_name", "digits", "--metrics", "nll"], "trained by flow matching, which has no bound"),
        ("evaluate", ["--dataset_name", "digits", "--sampler", "ddim"], "`sampler` is 'ddim', but the model was"),
        ("sample", ["--sampler", "ddpm"], "`sampler` is 'ddpm', but the model was trained by flow matching"),
        ("export", ["--format", "diffusers", "--output_dir", "unused"], "`format` is 'diffusers', but the model was"),
    ],
)
def test_what_it_has_no_words_for_gets_one_sentence(name, argv, fragment, script: Script, saved_flow):
    assert fragment in script.fails(name, "--model", str(saved_flow), *argv, tiny=False)


# ------------------------------------------------------------------ arguments


def test_a_recipe_for_ddpm_serves_flow_matching_and_a_note_says_what_is_left_out(capsys):
    arguments = parse("class_conditional", FLOW)
    assert not arguments.process.learns_variance and arguments.training.loss is None
    assert arguments.process.beta_schedule == parse("points", []).process.beta_schedule == "linear"
    assert capsys.readouterr().err.splitlines() == [
        "note: flow matching leaves out of the recipe digits_class_conditional: beta_schedule, prediction_type, "
        "variance_type."
    ]


def test_a_recipe_that_measures_bits_per_dim_measures_samples_where_it_is_told_how(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset_name: digits\neval_steps: 10\nkeep_best: bits_per_dim\n")
    argv = ["--config", str(recipe), *FLOW]
    logging = parse("unconditional", argv).logging
    assert (logging.eval_steps, logging.keep_best) == (None, None)
    assert capsys.readouterr().err.endswith("recipe.yaml: eval_steps, keep_best.\n")
    assert parse("unconditional", [*argv, "--eval_fid", "pixels"]).logging.eval_steps == 10


def test_the_configuration_of_a_run_names_what_means_something_and_is_a_recipe(tmp_path, capsys):
    arguments = parse("unconditional", [*FLOW, "--timestep_sampler", "logit_normal"])
    written = yaml.safe_load(to_yaml(arguments))
    assert written["objective"] == "flow_matching" and written["num_train_timesteps"] == 1000
    assert not {"beta_schedule", "prediction_type", "variance_type", "loss", "eval_images"} & flatten(arguments).keys()
    (tmp_path / "config.yaml").write_text(to_yaml(arguments))
    capsys.readouterr()
    assert parse("unconditional", ["--config", str(tmp_path / "config.yaml")]) == arguments
    assert capsys.readouterr().err == ""


BAD_INPUT = [
    *(
        ([*FLOW, *argv], f"`{argv[0][2:]}` is {value!r} but `objective` is 'flow_matching', where it means nothing")
        for argv, value in (
            (["--beta_schedule", "linear"], "linear"),
            (["--prediction_type", "epsilon"], "epsilon"),
            (["--variance_type", "learned_range"], "learned_range"),
            (["--loss", "simple"], "simple"),
            (["--loss_weighting", "min_snr"], "min_snr"),
            (["--eval_images", "10"], 10),
        )
    ),
    ([*FLOW, "--eval_steps", "10"], "`eval_steps` is 10 but `objective` is 'flow_matching', which has no bits/dim"),
    (
        [*FLOW, *"--eval_steps 10 --eval_fid pixels --keep_best bits_per_dim".split()],
        "`keep_best` is 'bits_per_dim' but",
    ),
    ([*FLOW, "--timestep_sampler", "loss_second_moment"], "'flow_matching': uniform or logit_normal is accepted"),
    (["--timestep_sampler", "logit_normal"], "'ddpm': uniform or loss_second_moment is accepted"),
    (["--objective", "flow"], "`objective` is 'flow': one of ddpm, flow_matching is accepted"),
]


@pytest.mark.parametrize(("argv", "fragment"), BAD_INPUT, ids=[" ".join(argv) for argv, _ in BAD_INPUT])
def test_an_argument_without_a_meaning_gets_one_sentence(argv, fragment):
    with pytest.raises(ValueError) as error:
        parse("unconditional", argv)
    assert fragment in str(error.value)


def test_a_recipe_that_contradicts_itself_gets_the_same_sentence(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("objective: flow_matching\nbeta_schedule: linear\n")
    with pytest.raises(
        ValueError, match="recipe.yaml: `beta_schedule` is 'linear' but `objective` is 'flow_matching'"
    ):
        parse("unconditional", ["--config", str(path)])
