"""Checkpoints that cannot be resumed from: a sentence that says what differs, or what is broken."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddpm_ext.training.checkpoints import list_checkpoints, remove_oldest, written_whole
from tests.training_helpers import Script


def images(folder: Path, first: int) -> list[str]:
    """The flags for 32 gray images, which differ by `first`."""
    folder.mkdir()
    for i in range(32):
        Image.new("L", (8, 8), first + i).save(folder / f"{i:02d}.png")
    return ["--train_data_dir", str(folder)]


def test_another_data_set_of_the_same_size_is_noticed(script: Script, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    output = ["--output_dir", str(tmp_path / "run")]
    script.run("train_unconditional", *output, *images(tmp_path / "one", 0))
    script.run("train_unconditional", *output, "--train_data_dir", str(tmp_path / "one"), "--resume")
    sentence = script.fails("train_unconditional", *output, *images(tmp_path / "other", 100), "--resume")
    assert "images = 1x8x8, fingerprint" in sentence


def test_a_folder_that_is_no_checkpoint_is_refused(script: Script, tmp_path):
    for name in ("nothing", "checkpoint-7"):
        (tmp_path / name).mkdir()
        argv = ["--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint", str(tmp_path / name)]
        sentence = script.fails("train_unconditional", *argv)
        assert "is no checkpoint" in sentence and str(tmp_path / name) in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "fragment"),
    [
        ("state/run.json", "state/run.json cannot be read"),
        ("state/training.pt", "cannot be read"),
        ("unet_raw/diffusion_pytorch_model.safetensors", "cannot be read"),
    ],
)
def test_a_checkpoint_that_is_damaged_is_named(file, fragment, finished_run, script: Script):
    damaged = finished_run / "checkpoints" / "checkpoint-12" / file
    damaged.write_bytes(damaged.read_bytes()[:100])
    sentence = script.fails("train_unconditional", "--output_dir", str(finished_run), "--resume")
    assert "checkpoint-12" in sentence and fragment in sentence


def test_a_global_batch_larger_than_the_data_set_is_refused(script: Script, tmp_path):
    argv = ["--gradient_accumulation_steps", "800", "--train_batch_size", "2"]
    sentence = script.fails("train_unconditional", "--output_dir", str(tmp_path / "run"), *argv)
    assert "1600 images per update (2, times 1 processes, times 800 accumulation steps)" in sentence


def test_what_a_killed_run_left_is_no_checkpoint_and_goes_with_the_next_one(tmp_path):
    (tmp_path / ".partial-checkpoint-5").mkdir()
    assert list_checkpoints(tmp_path) == []
    with written_whole(tmp_path / "checkpoint-10") as partial:
        (partial / "file").write_text("whole")
        assert list_checkpoints(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5, None])
def test_the_limit_never_removes_more_than_what_exceeds_it(keep, tmp_path):
    for step in range(1, 5):
        with written_whole(tmp_path / f"checkpoint-{step}"):
            pass
        remove_oldest(tmp_path, keep)
        first = max(1, step - keep + 1) if keep else 1
        expected = [f"checkpoint-{i}" for i in range(first, step + 1)]
        assert [path.name for path in list_checkpoints(tmp_path)] == expected


def test_a_checkpoint_loses_its_name_before_its_files(tmp_path, monkeypatch):
    """So that a run that is killed while it removes one leaves nothing that looks whole."""
    for step in (5, 10):
        with written_whole(tmp_path / f"checkpoint-{step}") as partial:
            (partial / "file").write_text(str(step))

    def killed(path: Path, ignore_errors: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_oldest(tmp_path, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-10"]


def test_a_checkpoint_says_whose_it_is(finished_run):
    state = finished_run / "checkpoints" / "checkpoint-12" / "state"
    about = json.loads((state / "run.json").read_text())
    assert about["global_batch_size"] == 16 and about["num_samples"] == 1437 and about["tracker_run_id"] is None
    assert torch.load(state / "training.pt", weights_only=True)["step"] == 12
