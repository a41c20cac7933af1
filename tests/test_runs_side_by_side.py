"""Runs side by side: what differs, what was measured alike, and samples from the same noise."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_ext import ImprovedDDPMPipeline, ImprovedDDPMScheduler
from ddpm_ext.evaluation.generate import Sampling
from ddpm_ext.publishing.facts import Facts, Result
from ddpm_ext.report.reported_model import open_model
from ddpm_ext.report.runs_side_by_side import curves, differences, samples, short_names, table
from tests.conftest import tiny_unet
from tests.training_helpers import Script


def run_folder(folder: Path, variance_type: str, losses: list[float], protocol: str = "of 8 images") -> Path:
    """The pipeline and the files of a run that has logged `losses`."""
    scheduler = ImprovedDDPMScheduler(20, beta_schedule="cosine", variance_type=variance_type)
    ImprovedDDPMPipeline(tiny_unet(learns_variance=variance_type == "learned"), scheduler).save_pretrained(folder)
    (folder / "config.yaml").write_text(
        f"variance_type: {variance_type}\nlearning_rate: 0.001\noutput_dir: {folder}\neval_steps: {len(losses)}\n"
    )
    rows = [{"step": 10 * (i + 1), "loss": loss} for i, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "evaluation").mkdir()
    entry = {"name": "fid", "title": "FID", "value": 12.5, "interval_95": None, "protocol": protocol}
    (folder / "evaluation" / "metrics.json").write_text(json.dumps({"metrics": [entry]}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [
        run_folder(root / "cifar-fixed-mini", "fixed_large", [0.5, 0.25]),
        run_folder(root / "cifar-learned-mini", "learned", [0.5, 0.125, 0.125]),
    ]


def test_only_arguments_of_training_that_differ_are_told(folders):
    facts = [open_model(str(folder)).facts for folder in folders]
    assert differences(facts) == {"variance_type": ["fixed_large", "learned"]}


def test_names_are_cut_to_what_tells_runs_apart(folders):
    assert short_names([open_model(str(folder)) for folder in folders]) == ["fixed", "learned"]


def test_the_script_leaves_a_table_the_curves_and_the_samples(folders, tmp_path, capsys):
    asked = ["--num_images", "3", "--num_inference_steps", "2", "--output", str(tmp_path / "out")]
    said = Script(capsys).run("compare_runs", "--runs", *map(str, folders), *asked, tiny=False)
    rows = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert rows[0] == "| run | `variance_type` | updates | last loss | FID |"
    assert rows[2:4] == ["| fixed | fixed_large | 20 | 0.25 | 12.50 |", "| learned | learned | 30 | 0.125 | 12.50 |"]
    assert rows[2] in said and "FID: of 8 images." in said
    assert Image.open(tmp_path / "out" / "loss.png").size[0] > 100
    assert not (tmp_path / "out" / "bits_per_dim.png").exists()  # nobody has measured any


def test_what_was_measured_in_another_way_is_not_put_side_by_side(folders):
    first, second = (Facts(folder, {}, {}, {}, results=[]) for folder in folders)
    first.results.append(Result("fid", "FID", 1.0, "of 8 images"))
    second.results.append(Result("fid", "FID", 2.0, "of 9 images"))
    assert "FID" not in table([first, second], ["one", "two"])


def test_each_column_of_samples_starts_from_the_same_noise(folders):
    models = [open_model(str(folders[0])) for _ in range(2)]
    picture = np.asarray(samples(models, ["", ""], 3, Sampling(num_inference_steps=2)))
    upper, lower = np.split(picture[: len(picture) // 2 * 2], 2)
    colours = [np.unique(half.reshape(-1, 3), axis=0) for half in (upper, lower)]
    assert len(colours[0]) > 10 and np.array_equal(*colours)


def test_no_curve_where_nobody_has_logged_it(folders):
    facts = [open_model(str(folder)).facts for folder in folders]
    assert curves(facts, ["a", "b"], "held_out_bits_per_dim", "bits/dim") is None


@pytest.mark.parametrize("runs", [[], ["one"], ["one", "one"], list("abcdef")])
def test_two_to_five_different_runs_are_accepted(runs, capsys):
    sentence = Script(capsys).fails("compare_runs", *(["--runs", *runs] if runs else []), tiny=False)
    assert sentence == f"`runs` are {len(runs)}: two to five folders of runs, all different, are accepted."
