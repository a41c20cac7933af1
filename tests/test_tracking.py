import json
import logging
import os
from pathlib import Path

import pytest
from accelerate.tracking import TensorBoardTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm_ext.training import tracking
from ddpm_ext.training.run import Run
from tests.training_helpers import Script
from tests.wandb_files import OfflineRun


@pytest.fixture
def offline(monkeypatch):
    """W&B as it is where nobody has logged in."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    logging.getLogger("wandb").handlers.clear()


def offline_runs(folder: Path) -> list[OfflineRun]:
    return sorted(map(OfflineRun, folder.glob("wandb/offline-run-*")), key=lambda run: max(run.rows, default=0))


class Killed(Exception):
    pass


def test_wandb_offline_holds_the_run_and_a_resumed_one_goes_on_in_it(script: Script, tmp_path, monkeypatch, offline):
    update = Run.update

    def killed_at_step_7(run: Run, *arguments) -> None:
        if run.step == 7:
            run.logs.tracker.finish()  # else the next `wandb.init` of this process would return the same run
            raise Killed
        update(run, *arguments)

    argv = ["--output_dir", str(tmp_path), "--logger", "wandb", "--run_name", "a name", "--learning_rate", "3e-4"]
    argv += ["--eval_steps", "10", "--eval_images", "8"]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "update", killed_at_step_7)
        with pytest.raises(Killed):
            script.run("train_unconditional", *argv)
    script.run("train_unconditional", *argv, "--resume")

    first, second = offline_runs(tmp_path)
    saved = json.loads((tmp_path / "checkpoints" / "checkpoint-12" / "state" / "run.json").read_text())
    assert first.run_id == second.run_id == saved["tracker_run_id"]
    assert (list(first.rows), list(second.rows)) == ([4, 5], [8, 10, 12])  # one axis: the update
    for run in (first, second):
        assert run.configuration["learning_rate"] == 3e-4
        assert run.configuration["train_batch_size"] == 16 and "hub_token" not in run.configuration
    last = second.rows[12]
    assert last["images_seen"] == 192 and last["images_per_second"] > 0 and 0.1 < last["memory_gib"] < 100
    assert {"loss", "gradient_norm", "learning_rate", "epoch", "ema_decay", "ema_width_steps"} < last.keys()
    assert {step for step, row in second.rows.items() if "held_out_bits_per_dim" in row} == {10, 12}
    assert {name for row in second.rows.values() for name in row if name.startswith("loss_quarter")} == {
        f"loss_quarter_{i}" for i in (1, 2, 3, 4)
    }
    assert all(
        any(name.startswith(picture) for name in last) for picture in ("samples", "loss_per_timestep", "trajectory")
    )
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in written if "loss" in row] == [4, 5, 8, 10, 12]
    assert written[-2]["loss"] == pytest.approx(last["loss"], rel=1e-5)


def test_tensorboard_holds_the_same_curves(script: Script, tmp_path):
    script.run("train_unconditional", "--output_dir", str(tmp_path), "--logger", "tensorboard")
    (events,) = (tmp_path / "logs" / "ddpm-ext").glob("events.out.tfevents*")
    curves = EventAccumulator(str(events), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in curves.Scalars("loss")] == [4, 5, 8, 10, 12]
    assert [event.value for event in curves.Scalars("images_seen")] == [64, 80, 128, 160, 192]


@pytest.mark.parametrize("method", ["start", "log", "log_images", "finish"])
def test_a_tracker_that_fails_costs_a_warning_and_not_the_run(method, script: Script, tmp_path, monkeypatch):
    def cannot_be_reached(self, *arguments, **options) -> None:
        raise ConnectionError("the service cannot be reached")

    monkeypatch.setattr(TensorBoardTracker, method, cannot_be_reached)
    said = script.run("train_unconditional", "--output_dir", str(tmp_path), "--logger", "tensorboard")
    assert said.count("warning: tensorboard failed (the service cannot be reached)") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
    assert (tmp_path / "model_index.json").exists()


def test_a_line_of_metrics_that_a_full_disk_cut_short_does_not_keep_a_run_from_resuming(finished_run, script: Script):
    with (finished_run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    script.run("train_unconditional", "--output_dir", str(finished_run), "--resume")
    assert [json.loads(line)["step"] for line in (finished_run / "metrics.jsonl").read_text().splitlines()][-1] == 12


@pytest.mark.parametrize(
    ("environment", "netrc", "mode"),
    [
        ({}, "", "offline"),
        ({}, "machine api.wandb.ai login user password 0123\n", None),
        ({}, "machine elsewhere.example login user password 0123\n", "offline"),
        ({"WANDB_API_KEY": "0123"}, "", None),
        ({"WANDB_MODE": "online"}, "", None),
    ],
)
def test_wandb_runs_offline_where_it_would_have_to_ask(environment, netrc, mode, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "netrc").write_text(netrc)
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tracking._wandb_mode() == mode
