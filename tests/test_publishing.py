"""The Hub: what is uploaded, what its card says, and what happens when the Hub is not there."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from ddpm_ext.publishing import uploads
from ddpm_ext.publishing.model_card import is_edited, model_card, read_facts, write_model_card
from ddpm_ext.publishing.uploads import BackgroundUploads
from ddpm_ext.training.output_folder import _without_token
from tests.fake_hub import FakeHub


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[FakeHub, str, Path]:
    """The Hub after `publish_jobs.py`, what that printed, and the folder of its runs."""
    root = tmp_path_factory.mktemp("published")
    with FakeHub() as hub:
        (root / "by hand").mkdir()
        (root / "by hand" / "README.md").write_text("My own words.")
        hub.add("me/edited", root / "by hand")
        hub.refuse("me/refused/commit", 403)
        hub.cut("me/cut/")
        environment = {**hub.environment(root / "home", token=None), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment["HF_TOKEN"] = hub.token
        command = [sys.executable, str(ROOT / "tests" / "publish_jobs.py"), str(root)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=root)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return hub, ended.stdout + ended.stderr, root


def test_a_run_uploads_the_model_its_card_and_its_curves_and_no_state_of_its_training(published):
    hub, printed, _ = published
    repository = hub.repositories["me/digits"]
    assert repository.private
    assert set(repository.files) == {
        ".gitattributes",
        "README.md",
        "config.yaml",
        "loss.png",
        "metrics.jsonl",
        "model_index.json",
        "run.json",
        "samples/step-000012.png",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert repository.commits[1] == "Step 4" and repository.commits[-1] == "End of training"
    assert f"Uploaded to {hub.url}/me/digits/commit/" in printed
    assert "same images: True" in printed


def test_the_card_on_the_hub_says_how_to_load_the_model_and_how_it_was_trained(published):
    card = ModelCard(published[0].repositories["me/digits"].files["README.md"].decode())
    assert card.data.license == "mit" and card.data.library_name == "diffusers"
    assert 'DiffusionPipeline.from_pretrained("me/digits")' in card.text
    assert "for 12 updates (4,320 images seen" in card.text
    assert "train_unconditional.py --block_out_channels 8 16" in card.text
    assert "(samples/step-000012.png)" in card.text


def test_the_hub_costs_a_warning_and_not_the_run(published):
    _, printed, root = published
    for name in ("refused", "cut"):
        assert (root / name / "checkpoints" / "checkpoint-12").is_dir()
        assert f"warning: `push_to_hub` to me/{name} failed (" in printed
        assert f'DiffusionPipeline.from_pretrained("{root / name}").push_to_hub("me/{name}")' in printed


def test_the_token_is_written_nowhere(published):
    hub, printed, root = published
    assert hub.token not in printed
    files = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    files += [content for repository in hub.repositories.values() for content in repository.files.values()]
    assert len(files) > 50 and not any(hub.token.encode() in content for content in files)


def test_a_pipeline_is_pushed_with_the_card_of_its_run_unless_its_weights_have_changed(published):
    hub, _, _ = published
    public, changed = hub.repositories["me/public"], hub.repositories["me/changed"]
    assert not public.private and changed.private
    assert "for 12 updates" in public.files["README.md"].decode()
    assert "## Training" not in changed.files["README.md"].decode() and "config.yaml" not in changed.files


def test_a_card_that_a_person_has_written_on_the_hub_stays(published):
    files = published[0].repositories["me/edited"].files
    assert files["README.md"] == b"My own words." and "model_index.json" in files


# ------------------------------------------------------------------ cards


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    from tests.training_helpers import TINY, run_main

    folder = tmp_path_factory.mktemp("run") / "numbers"
    measured = ["--eval_steps", "12", "--eval_images", "8", "--output_dir", folder]
    run_main("ddpm_ext.train_scripts.train_class_conditional", *TINY, *measured)
    return folder


def test_a_card_holds_the_measured_numbers_with_their_protocol(run):
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    card = model_card(read_facts(run))
    (result,) = card.data.eval_results
    assert result.metric_type == "bits_per_dim"
    assert result.metric_value == pytest.approx(row["held_out_bits_per_dim"], abs=5e-4)
    error = row["held_out_bits_per_dim_standard_error"]
    low, high = result.metric_args["interval_95"]
    assert (
        high - low == pytest.approx(2 * 1.96 * error, abs=2e-3)
        and "after 12 updates" in result.metric_args["protocol"]
    )
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()  # the Hub reads the same


def test_a_card_holds_the_distance_that_was_measured_while_it_trained(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    with (copy / "metrics.jsonl").open("a") as file:
        row = {"step": 12, "held_out_bits_per_dim": 5, "held_out_bits_per_dim_standard_error": 0.1}
        file.write(json.dumps({**row, "held_out_fid": 3.25}) + "\n")
    with (copy / "config.yaml").open("a") as file:
        file.write("eval_fid: some/features.ts\neval_fid_images: 500\n")
    _, result = model_card(read_facts(copy)).data.eval_results
    assert (result.metric_type, result.metric_value) == ("fid", 3.25)
    assert result.metric_name == "Fréchet distance (features.ts)"
    assert "500 samples of 5 steps against the split 'test', after 12 updates" in result.metric_args["protocol"]


def test_a_card_names_the_classes_and_what_the_network_predicts(run):
    text = (run / "README.md").read_text()
    assert "class-conditional, 10 classes" in text and 'class_labels=["0", "1"]' in text
    assert "predicts the velocity, with a learned variance between its two bounds" in text
    assert "gray images of 8x8 pixels" in text and "None was stated" in text


def test_a_card_is_made_anew_until_somebody_edits_it(run):
    path = run / "README.md"
    assert write_model_card(run, licence="mit") and "license: mit" in path.read_text()
    for edited in (path.read_text().replace("# numbers", "# Numbers"), path.read_text() + "\nMore."):
        assert is_edited(edited)
    path.write_text(path.read_text().replace("# numbers", "# Numbers"))
    assert not write_model_card(run)
    assert "# Numbers" in path.read_text()
    path.unlink()


def test_a_pipeline_alone_has_a_card(run, tmp_path):
    from ddpm_ext import ClassConditionalDDPMPipeline

    ClassConditionalDDPMPipeline.from_pretrained(run).save_pretrained(tmp_path)
    write_model_card(tmp_path, repo_id="somebody/numbers")
    text = (tmp_path / "README.md").read_text()
    assert 'from_pretrained("somebody/numbers")' in text and "Not measured" in text
    assert "## Training" not in text


@pytest.mark.parametrize("given", [["--hub_token", "hf_1"], ["--hub_token=hf_1"], ["--hub-token", "hf_1"]])
def test_the_recorded_command_has_no_token(given):
    command = _without_token(["/home/me/train_scripts/train.py", "--seed", "1", *given, "--push_to_hub"])
    assert command == ["train_scripts/train.py", "--seed", "1", "--push_to_hub"]


# ------------------------------------------------------------------ uploads beside the training


def test_training_does_not_wait_for_an_upload_and_sees_it_fail(run, monkeypatch):
    begun, may_end, said = threading.Event(), threading.Event(), []

    def upload(folder: Path, *options: object) -> str:
        begun.set()
        assert may_end.wait(60)
        raise ConnectionError("no route to the Hub, nor to hf_1")

    monkeypatch.setattr(uploads, "upload_folder", upload)
    background = BackgroundUploads("me/digits", True, "hf_1", None, said.append)
    background.start(run, "Step 4")
    assert begun.wait(60)
    background.start(run, "Step 8")  # while the first one hangs
    assert said == []
    may_end.set()
    assert background.finish(run) is None
    assert len(said) == 2 and all("no route to the Hub, nor to ***" in sentence for sentence in said)


def test_what_is_uploaded_stays_as_it_was_when_the_run_goes_on(run, monkeypatch):
    found = {}

    def upload(folder: Path, *options: object) -> str:
        may_read.wait(60)
        found["config"] = (folder / "unet" / "config.json").read_text()
        return "somewhere"

    may_read = threading.Event()
    monkeypatch.setattr(uploads, "upload_folder", upload)
    background = BackgroundUploads("me/digits", True, None, None, print)
    config = run / "unet" / "config.json"
    before = config.read_text()
    background.start(run, "Step 4")
    replacement = run / "unet" / "new.json"
    replacement.write_text("{}")
    replacement.replace(config)
    may_read.set()
    background._running.result(60)
    config.write_text(before)
    assert found["config"] == before


# ------------------------------------------------------------------ what an evaluation has left


def test_the_numbers_of_an_evaluation_are_in_the_card_with_interval_and_protocol(run):
    fid = {"name": "fid", "title": "FID", "value": 12.34567, "interval_95": [11.5, 13.25], "note": "Lower is better."}
    protocol = {"model": str(run), "num_images": 1000, "data_set": "/home/somebody/digits"}
    file = run / "evaluation" / "metrics.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"metrics": [{**fid, "protocol": protocol}]}))
    result = read_facts(run).results[-1]
    assert (result.metric_type, result.protocol) == ("fid", "num images: 1000; data set: digits")
    assert "| FID | 12.35 [11.50, 13.25] | num images: 1000; data set: digits |" in str(model_card(read_facts(run)))
    file.unlink()
    file.parent.rmdir()


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", '{"metrics": 3}', '{"metrics": [{"name": "fid"}, 3, {"value": "low", "name": "x"}]}']
)
def test_a_file_that_is_no_evaluation_is_left_alone(run, text):
    before = read_facts(run).results
    file = run / "evaluation" / "metrics.json"
    file.parent.mkdir()
    file.write_text(text)
    assert read_facts(run).results == before
    file.unlink()
    file.parent.rmdir()
