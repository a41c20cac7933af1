"""What a run measures on images that it has not trained on."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddpm_ext.data.images import load_images, to_unit_range
from ddpm_ext.diffusion import exact_bits_per_dim
from ddpm_ext.evaluation.generate import Sampling, generate, labels_like
from ddpm_ext.evaluation.image_metrics import frechet_distance
from ddpm_ext.evaluation.likelihood import estimated_bits_per_dim, exact_bits_per_dim_of
from ddpm_ext.evaluation.statistics import Moments
from ddpm_ext.pipelines import ClassConditionalDDPMPipeline
from ddpm_ext.publishing.facts import read_facts
from ddpm_ext.schedulers import ImprovedDDPMScheduler
from ddpm_ext.training.best_pipeline import BestPipeline
from ddpm_ext.training.run import Run
from tests.training_helpers import Script, largest_difference, weights


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


@pytest.mark.parametrize("measure", [exact_bits_per_dim_of, estimated_bits_per_dim])
def test_whoever_waits_for_bits_per_dim_sees_how_far_it_is(measure, pipeline, capsys):
    pipeline.scheduler = ImprovedDDPMScheduler(num_train_timesteps=40, beta_schedule="cosine")
    data = load_images("digits", split="test", show_progress=False)
    images = torch.arange(5) if measure is exact_bits_per_dim_of else 5
    measure(pipeline, data, images, batch_size=2, progress="bits/dim")
    done, all_of_them = re.findall(r"([\d.]+)/([\d.]+) \[", capsys.readouterr().err)[-1]
    assert float(done) == float(all_of_them) == 5 * (40 if measure is exact_bits_per_dim_of else 10)
    measure(pipeline, data, images, batch_size=2)
    assert capsys.readouterr().err == ""


def test_a_held_out_split_of_another_size_is_refused(script: Script, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split, size in (("train", 8), ("test", 16)):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i in range(20):
            Image.new("L", (size, size), 10 * i).save(tmp_path / "images" / split / f"{i}.png")
    argv = ["--train_data_dir", str(tmp_path / "images"), "--output_dir", str(tmp_path / "run"), "--eval_steps", "5"]
    sentence = script.fails("train_unconditional", *argv)
    assert sentence == "`test_split` has images of 1x16x16, and those that are trained on are 1x8x8."


class Killed(Exception):
    pass


EVALUATED = "--eval_steps 4 --eval_images 8 --eval_fid pixels --eval_fid_images 70 --keep_best fid".split()
SHORT = "--num_train_timesteps 40 --num_inference_steps 3 --seed 1".split()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for module in ("ddpm_ext.training.sample_distance", "ddpm_ext.evaluation.reference"):
        monkeypatch.setattr(f"{module}.default_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def measured(folder: Path) -> list[dict[str, float]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if "held_out_fid" in row]


def test_the_best_pipeline_is_that_of_the_lowest_logged_value_also_of_a_resumed_run(
    script: Script, tmp_path, monkeypatch, cache
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    script.run("train_class_conditional", *EVALUATED, *SHORT, "--output_dir", str(whole))
    rows = measured(whole)
    assert [row["step"] for row in rows] == [4, 8, 12]
    best = json.loads((whole / "best" / "best.json").read_text())
    lowest = min(rows, key=lambda row: row["held_out_fid"])
    assert (best["metric"], best["step"]) == ("fid", lowest["step"])
    assert best["value"] == pytest.approx(lowest["held_out_fid"], rel=1e-5)
    assert len(list(cache.iterdir())) == 1

    update = Run.update

    def killed_at_step_9(run: Run, loss, t, weight):
        if run.step == 9:
            raise Killed
        update(run, loss, t, weight)

    with monkeypatch.context() as patch:  # between a measurement and the checkpoint that would know of it
        patch.setattr(Run, "update", killed_at_step_9)
        with pytest.raises(Killed):
            script.run("train_class_conditional", *EVALUATED, *SHORT, "--output_dir", str(broken))
    script.run("train_class_conditional", *EVALUATED, *SHORT, "--output_dir", str(broken), "--resume")
    assert measured(broken) == rows
    assert json.loads((broken / "best" / "best.json").read_text()) == best
    assert largest_difference(weights(whole / "best"), weights(broken / "best")) == 0

    # A run that ended between its last checkpoint and the measurement there makes up for it.
    lines = (broken / "metrics.jsonl").read_text().splitlines(keepends=True)
    (broken / "metrics.jsonl").write_text("".join(lines[:-1]))
    script.run("train_class_conditional", *EVALUATED, *SHORT, "--output_dir", str(broken), "--resume")
    assert measured(broken) == rows

    pipeline = ClassConditionalDDPMPipeline.from_pretrained(whole)
    data = load_images("digits", split="test", show_progress=False)
    labels = labels_like(data.labels, 10, 70)
    images = generate(pipeline, 70, Sampling(seed=1, batch_size=9, num_inference_steps=3), labels)
    of_samples, of_real = (
        Moments.of(to_unit_range(x, 255).flatten(1)) for x in (images, data.integers(torch.arange(len(data))))
    )
    assert rows[-1]["held_out_fid"] == pytest.approx(frechet_distance(of_samples, of_real), rel=1e-3)

    sample = ["--num_images", "2", "--num_inference_steps", "2"]
    script.run("sample", "--model", str(whole / "best"), *sample, "--output", str(tmp_path / "a.png"), tiny=False)
    evaluate = "--features pixels --num_images 70 --num_inference_steps 2 --metrics fid".split()
    said = script.run("evaluate", "--model", str(whole / "best"), *evaluate, tiny=False)  # it knows the data set
    assert "digits" in said and (whole / "best" / "evaluation" / "metrics.json").exists()


def test_the_best_of_later_steps_or_of_another_measurement_does_not_count(tmp_path, pipeline):
    warnings = []

    def opened(protocol: str) -> BestPipeline:
        return BestPipeline(tmp_path, "fid", {"images": protocol}, warnings.append)

    best = opened("10")
    for step, value in ((1, 3.0), (2, 1.0), (3, 2.0), (4, float("nan")), (5, 1.0)):
        best.offer(pipeline, step, value)
    assert str(best) == "step 2, whose fid was 1" and warnings == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best"]
    for protocol, step, value in (("10", 2, 1.0), ("10", 1, float("inf")), ("20", 2, float("inf"))):
        resumed = opened(protocol)
        resumed.resume(step)
        assert resumed.value == value
    (tmp_path / "best").rename(tmp_path / ".former-best")  # killed between two renames
    resumed = opened("10")
    resumed.resume(3)
    assert resumed.step == 2 and (tmp_path / "best" / "model_index.json").exists()


def test_a_full_disk_costs_the_best_pipeline_and_not_the_run(tmp_path, pipeline, monkeypatch):
    def full(*_) -> None:
        raise OSError("no space left on device")

    warnings = []
    best = BestPipeline(tmp_path, "fid", {}, warnings.append)
    best.offer(pipeline, 1, 2.0)
    monkeypatch.setattr(type(pipeline), "save_pretrained", full)
    best.offer(pipeline, 2, 1.0)
    assert best.step == 1 and "no space left" in warnings[0]
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 1


FLOW = ["--objective", "flow_matching"]
BAD_INPUT = [
    (["--eval_fid", "pixels"], "`eval_fid` is 'pixels' but `eval_steps` is not given"),
    (["--keep_best", "bits_per_dim"], "`keep_best` is 'bits_per_dim' but `eval_steps` is not given"),
    (["--keep_best", "fid", "--eval_steps", "4"], "`keep_best` is 'fid' but `eval_fid` is not given"),
    (["--keep_best", "loss", "--eval_steps", "4"], "`keep_best` is 'loss'"),
    ([*EVALUATED, "--eval_fid", "pixel"], "`eval_fid` is pixel, which does not exist: perhaps 'pixels' is meant"),
    ([*EVALUATED, "--eval_fid", "none.ts"], "`eval_fid` is none.ts, which does not exist"),
    ([*EVALUATED, "--eval_fid_images", "1"], "`eval_fid_images` is 1: a covariance needs at least 2"),
    ([*EVALUATED, "--test_split", "none"], "none"),
    ([*FLOW, "--eval_steps", "4"], "`eval_steps` is 4 but `objective` is 'flow_matching', which has no bits/dim"),
    ([*FLOW, *EVALUATED[:2], *EVALUATED[4:6], "--keep_best", "bits_per_dim"], "which has none: 'fid' is accepted"),
]


@pytest.mark.parametrize(("argv", "fragment"), BAD_INPUT, ids=[" ".join(argv[-4:]) for argv, _ in BAD_INPUT])
def test_a_mistake_gets_one_sentence_and_leaves_nothing(argv, fragment, script: Script, tmp_path, cache):
    sentence = script.fails("train_unconditional", "--output_dir", str(tmp_path / "run"), *argv)
    assert fragment in sentence
    assert not (tmp_path / "run").exists()


def test_fewer_samples_than_features_are_remarked_on(script: Script, tmp_path, cache, capsys):
    few = [*EVALUATED, "--eval_fid_images", "20", "--max_train_steps", "1", "--num_inference_steps", "2"]
    said = script.run("train_unconditional", "--output_dir", str(tmp_path / "run"), *few)
    assert "`eval_fid` compares 20 samples with 360 images by 64 features" in said


def test_flow_matching_is_measured_by_its_samples_alone(script: Script, tmp_path, cache):
    argv = [*FLOW, "--eval_steps", "1", *EVALUATED[4:], "--max_train_steps", "1", "--num_inference_steps", "2"]
    script.run("train_unconditional", "--output_dir", str(tmp_path / "run"), *argv)
    (row,) = measured(tmp_path / "run")
    assert row.keys() == {"step", "held_out_fid"}
    (result,) = read_facts(tmp_path / "run").results
    assert (result.name, result.value) == ("Fréchet distance (pixels)", row["held_out_fid"])
    assert json.loads((tmp_path / "run" / "best" / "best.json").read_text())["step"] == 1
