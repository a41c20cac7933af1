"""The comparison of schedules and predictors: what it leaves, what it keeps, and what it refuses."""

import json

import pytest
import torch
from PIL import Image

from ddpm_ext.evaluation.comparison import Compared, Digits, Look
from ddpm_ext.training import point_samples
from ddpm_ext.training.run import Run
from tests.training_helpers import Script


RECIPE = """
num_points: 200
hidden_sizes: [16, 16]
train_batch_size: 16
max_train_steps: 4
checkpointing_steps: 2
num_inference_steps: 4
eval_batch_size: 20
"""


@pytest.fixture
def argv(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setattr(point_samples, "_FRAMES", 3)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    shared = "--num_samples 30 --num_inference_steps 4 --schedules linear cosine --predictors x_0"
    return ["--config", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "compared"), *shared.split()]


class Killed(Exception):
    pass


def test_what_is_finished_is_kept_and_the_rest_is_made(argv, script: Script, tmp_path, monkeypatch):
    folder = tmp_path / "compared"
    update, updates = Run.update, []

    def killed_in_the_second_model(run: Run, *arguments) -> None:
        updates.append(run.output_dir.name)
        if len(updates) == 8:
            raise Killed
        update(run, *arguments)

    monkeypatch.setattr(Run, "update", killed_in_the_second_model)
    with pytest.raises(Killed):
        script.run("compare", *argv, tiny=False)
    assert not (folder / "comparison.json").exists()
    said = script.run("compare", *argv, tiny=False)
    # The first model is not trained again, and the second goes on from its checkpoint after two updates.
    assert updates == ["linear-x_0"] * 4 + ["cosine-x_0"] * 6

    content = json.loads((folder / "comparison.json").read_text())
    assert [(model["schedule"], model["predictor"]) for model in content["models"]] == [
        ("linear", "x_0"),
        ("cosine", "x_0"),
    ]
    assert all(model["value"] > content["real_samples"] > 0 for model in content["models"])
    assert all(len(model["values"]) == 3 for model in content["models"])
    table = (folder / "comparison.md").read_text()
    assert table in said and table.startswith("| schedule | x_0 |\n| --- | --- |\n| linear | ")
    for name in ("trajectories.png", "samples.png"):
        assert Image.open(folder / name).size[0] > 150
    config = (folder / "cosine-x_0" / "config.yaml").read_text()
    assert "beta_schedule: cosine" in config and "prediction_type: sample" in config

    assert "which holds a comparison with seed = 0" in script.fails("compare", *argv, "--seed", "1", tiny=False)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["--schedules", "linear", "cosinus"],
            "`schedules` holds cosinus: linear, quad, cosine, sigmoid are accepted",
        ),
        (["--predictors", "noise", "noise"], "`predictors` holds one of them twice"),
        (["--data", "cats"], "`data` is 'cats'"),
        (["--dataset_name", "swiss"], "`dataset_name` is 'swiss'"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(more, sentence, argv, script: Script, tmp_path):
    assert sentence in script.fails("compare", *argv, *more, tiny=False)
    assert not (tmp_path / "compared").exists()


def test_it_does_not_run_in_several_processes(argv, script: Script, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "in one process" in script.fails("compare", *argv, tiny=False)


def test_digits_are_measured_against_the_test_split_and_drawn(pipeline):
    digits = Digits(num_samples=70, num_inference_steps=3, seed=0)
    assert 0.1 < digits.floor < 1  # 1,437 real digits against 360 others
    (value,), look = digits.examine(pipeline)
    assert value > 10 * digits.floor
    assert look.samples.shape == (16, 1, 8, 8) and look.samples.dtype == torch.uint8
    assert len(look.labels) == len(look.moments) and look.labels[-1] == "sample"
    model = Compared("linear", "noise", [value], look)
    trajectories, samples = digits.draw_trajectories([model, model]), digits.draw_samples([model, model], 2)
    assert trajectories.size[0] > 200 and samples.size[0] > 1000


def test_several_numbers_are_shown_with_their_spread():
    look = Look(torch.zeros(1, 1, 2), ["sample"], torch.zeros(1, 2))
    assert str(Compared("linear", "noise", [0.001, 0.003], look)) == "0.002 ± 0.001"
    assert str(Compared("linear", "noise", [0.5678], look)) == "0.568"
