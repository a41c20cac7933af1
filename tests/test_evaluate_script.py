"""evaluate.py on tiny pipelines: what it writes, that its numbers are the library's, and its sentences."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image

from ddpm_ext.data.images import load_images
from ddpm_ext.evaluation.evaluator import EvaluationSettings, Evaluator
from ddpm_ext.evaluation.features import load_extractor
from ddpm_ext.evaluation.generate import Sampling, duration, labels_like
from ddpm_ext.evaluation.image_metrics import frechet_distance
from ddpm_ext.evaluation.likelihood import estimated_bits_per_dim
from ddpm_ext.evaluation.records import eval_results, read_measurements
from ddpm_ext.evaluation.statistics import Moments
from ddpm_ext.evaluation.subject import open_subject
from ddpm_ext.publishing.model_card import write_model_card
from ddpm_ext.visualization import nearest_distances
from tests.conftest import tiny_class_conditional
from tests.training_helpers import Script


FAST = ("--features", "pixels", "--num_images", "80", "--num_inference_steps", "2", "--likelihood_images", "20")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Samples of three kinds, `digits`: class-conditional over the ten digits, and a run with raw weights."""
    root = tmp_path_factory.mktemp("evaluation")
    pipeline = tiny_class_conditional(tuple("0123456789"))
    pipeline.save_pretrained(root / "digits")
    (root / "digits" / "config.yaml").write_text("dataset_name: digits\nuse_ema: true\n")
    with torch.no_grad():
        pipeline.unet.conv_out.bias += 0.5
    pipeline.unet.save_pretrained(root / "digits" / "checkpoints" / "checkpoint-7" / "unet_raw")
    data = load_images("digits", split="train", show_progress=False)
    images = data.integers(torch.arange(100)).permute(0, 2, 3, 1).numpy()
    np.savez(root / "real.npz", images, data.labels[:100].numpy())
    np.savez(root / "unlabelled.npz", arr_0=images)
    np.savez(root / "colour.npz", arr_0=images.repeat(3, axis=3))
    np.savez(root / "floats.npz", arr_0=images / 255)
    np.savez(root / "nothing.npz", arr_0=images[:0])
    np.savez(root / "others.npz", images=images)
    (root / "text.npz").write_text("no archive")
    return root


@pytest.fixture
def evaluate(script: Script, tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_ext.evaluation.reference.default_cache", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)

    def run(*argv: object, fails: bool = False) -> str:
        return (script.fails if fails else script.run)("evaluate", *map(str, argv), tiny=False)

    return run


def numbers(folder: Path) -> dict[str, float]:
    return {one.name: one.estimate.value for one in read_measurements(folder / "metrics.json")}


def test_everything_of_a_class_conditional_model(evaluate, folder, tmp_path, monkeypatch):
    bits_per_dim_of = []

    def estimated(pipeline, data, *arguments, **options):
        bits_per_dim_of.append("train" if len(data) == 1437 else "test")
        return estimated_bits_per_dim(pipeline, data, *arguments, **options)

    monkeypatch.setattr("ddpm_ext.evaluation.evaluator.estimated_bits_per_dim", estimated)
    metrics = ["fid", "kid", "precision_recall", "class_accuracy", "nll", "memorisation"]
    shown = evaluate("--model", folder / "digits", *FAST, "--output", "out", "--metrics", *metrics)
    names = [
        "fid",
        "kid",
        "precision",
        "recall",
        "density",
        "coverage",
        "class_accuracy",
        "class_accuracy_of_reference",
    ]
    found = read_measurements(tmp_path / "out" / "metrics.json")
    assert [one.name for one in found] == [*names, "bits_per_dim", "near_share", "bits_per_dim_gap"]
    assert "sampling 80 images will take about" in shown and "memorisation: " in shown
    assert bits_per_dim_of == ["test", "train"]  # those of the test split are needed twice
    for one in found:
        assert one.title in shown and {"weights", "weights_digest", "data_set", "split"} <= one.protocol.keys()
        assert one.protocol["weights"] == "EMA" and one.protocol["data_set"] == "digits"
    assert found[0].protocol["split"] == "train" and found[0].protocol["reference_images"] == 1437
    assert found[0].protocol["steps"] == 2 and found[0].protocol["images"] == 80
    assert found[8].protocol["split"] == "test" and found[8].protocol["likelihood"] == "estimated, 50 evaluations"
    assert numbers(tmp_path / "out")["class_accuracy_of_reference"] > 0.8
    for picture in ("nearest.png", "nearest_distances.png"):
        assert Image.open(tmp_path / "out" / picture).width > 100
    table = (tmp_path / "out" / "metrics.md").read_text()
    assert table.count("\n| ") == len(found) + 1 and "weights: EMA" in table


def test_half_precision_is_part_of_the_protocol(evaluate, folder, tmp_path):
    argv = ("--model", folder / "digits", *FAST, "--metrics", "fid")
    evaluate(*argv, "--output", "whole")
    evaluate(*argv, "--output", "half", "--mixed_precision", "bf16")
    whole, half = (read_measurements(tmp_path / name / "metrics.json")[0] for name in ("whole", "half"))
    assert half.protocol == {**whole.protocol, "mixed_precision": "bf16"}
    assert half.estimate.value != whole.estimate.value
    assert half.estimate.value == pytest.approx(whole.estimate.value, rel=0.05)


def test_the_numbers_are_those_of_the_library(evaluate, folder, tmp_path):
    evaluate("--model", folder / "digits", *FAST, "--output", "out", "--metrics", "fid", "--reference", "test")
    settings = EvaluationSettings(80, "pixels", sampling=Sampling(num_inference_steps=2))
    evaluator = Evaluator(open_subject(str(folder / "digits")), settings)
    data = load_images("digits", split="test", show_progress=False)
    images, labels = evaluator.samples(data)
    assert labels.tolist() == labels_like(data.labels, 10, 80)
    moments = [Moments.of(load_extractor("pixels")(x)) for x in (images, data.integers(torch.arange(len(data))))]
    assert numbers(tmp_path / "out")["fid"] == pytest.approx(frechet_distance(*moments), rel=1e-6)


def test_raw_weights_are_those_of_the_newest_checkpoint(evaluate, folder, tmp_path):
    for weights in ("saved", "raw"):
        evaluate("--model", folder / "digits", *FAST, "--weights", weights, "--output", weights)
    found = {name: read_measurements(tmp_path / name / "metrics.json")[0] for name in ("saved", "raw")}
    assert found["raw"].protocol["weights"] == "raw, checkpoint-7"
    assert found["raw"].protocol["weights_digest"] != found["saved"].protocol["weights_digest"]
    assert found["raw"].estimate.value != found["saved"].estimate.value


def test_a_sample_file_is_accepted_in_place_of_a_model(evaluate, folder, tmp_path):
    shown = evaluate(
        "--model",
        folder / "real.npz",
        "--dataset_name",
        "digits",
        *FAST,
        "--output",
        "out",
        "--metrics",
        "fid",
        "class_accuracy",
        "memorisation",
    )
    found = numbers(tmp_path / "out")
    assert found["fid"] < 2.5  # a part of the reference itself
    assert found["near_share"] == 1 and "The model repeats training images" in shown
    assert "samples from a file" in " ".join(shown.split()) and "sampling" not in shown


def test_neither_the_batch_size_nor_the_cache_changes_a_number(evaluate, folder, tmp_path):
    """Of the samples, only those of a file: batches of another size round otherwise."""
    argv = [
        "--model",
        folder / "real.npz",
        "--dataset_name",
        "digits",
        *FAST,
        "--metrics",
        "fid",
        "kid",
        "precision_recall",
    ]
    evaluate(*argv, "--output", "one", "--batch_size", 7)
    evaluate(*argv, "--output", "other", "--batch_size", 64)
    assert numbers(tmp_path / "one") == pytest.approx(numbers(tmp_path / "other"), rel=1e-12)


def test_numbers_of_the_same_weights_are_added_to(evaluate, folder, tmp_path):
    argv = ["--model", folder / "real.npz", "--dataset_name", "digits", *FAST, "--output", "out", "--metrics"]
    evaluate(*argv, "fid")
    evaluate(*argv, "kid")
    evaluate(*argv, "fid")
    assert [one.name for one in read_measurements(tmp_path / "out" / "metrics.json")] == ["kid", "fid"]
    np.savez(tmp_path / "new.npz", arr_0=np.zeros((80, 8, 8, 1), np.uint8))
    evaluate("--model", tmp_path / "new.npz", "--dataset_name", "digits", *FAST, "--output", "out")
    assert [one.name for one in read_measurements(tmp_path / "out" / "metrics.json")] == ["fid"]


def test_a_model_card_takes_the_results(evaluate, folder, tmp_path):
    evaluate("--model", folder / "digits", *FAST, "--output", "out", "--metrics", "fid", "nll")
    found = read_measurements(tmp_path / "out" / "metrics.json")
    card = ModelCard.from_template(
        ModelCardData(model_name="digits", eval_results=eval_results(found)),
        template_str="---\n{{ card_data }}\n---\n",
    )
    read = ModelCard(str(card)).data.eval_results
    assert [(one.metric_type, one.dataset_split) for one in read] == [("fid", "train"), ("bits_per_dim", "test")]
    assert read[0].metric_args["weights"] == "EMA"
    assert "model-index:" in (tmp_path / "out" / "model-index.yaml").read_text()


def test_the_card_of_a_run_gets_the_numbers_unless_somebody_has_edited_it(evaluate, folder, tmp_path):
    run = shutil.copytree(folder / "digits", tmp_path / "run")
    write_model_card(run)
    said = evaluate("--model", run, *FAST, "--metrics", "fid")
    card = (run / "README.md").read_text()
    assert "| Fréchet distance (pixels) |" in card and "the model card, has the numbers now" in said
    (run / "README.md").write_text("My own words.")
    assert "the model card" not in evaluate("--model", run, *FAST, "--metrics", "fid")
    assert (run / "README.md").read_text() == "My own words."


DIGITS = ("--dataset_name", "digits")
BAD = {
    "no model": ((), "`model` must be given"),
    "no such metric": (("--model", "@digits", "--metrics", "fidd"), "`metrics` is 'fidd': one of fid, kid, "),
    "no data": (("--model", "@real.npz"), "`dataset_name` must be given"),
    "likelihood of a file": (
        ("--model", "@real.npz", *DIGITS, "--metrics", "nll"),
        "`metrics` holds nll, which needs",
    ),
    "classes of an unconditional model": (
        ("--model", "@unconditional", *DIGITS, "--metrics", "class_accuracy"),
        "`metrics` holds class_accuracy, but the model is unconditional",
    ),
    "classes of a file without": (
        ("--model", "@unlabelled.npz", *DIGITS, "--metrics", "class_accuracy"),
        "`metrics` holds class_accuracy, but the model is a file without labels",
    ),
    "guidance without classes": (
        ("--model", "@unconditional", *DIGITS, "--guidance_scale", 2),
        "`guidance_scale` is 2",
    ),
    "too many steps": (
        ("--model", "@unconditional", *DIGITS, "--num_inference_steps", 1001),
        "`num_inference_steps` is",
    ),
    "no such sampler": (("--model", "@unconditional", *DIGITS, "--sampler", "unipcc"), "Did you mean 'unipc'?"),
    "raw weights of a file": (("--model", "@real.npz", *DIGITS, "--weights", "raw"), "`weights` is raw, but"),
    "no raw weights": (("--model", "@unconditional", *DIGITS, "--weights", "raw"), "`weights` is raw, but"),
    "other classes": (
        ("--model", "@class_conditional", *DIGITS),
        "the model has 3 classes (airplane, automobile, bird)",
    ),
    "other channels": (("--model", "@colour.npz", *DIGITS), "the samples are 3x8x8 and the data set's images 1x8x8"),
    "another size": (
        ("--model", "@real.npz", *DIGITS, "--resolution", 16),
        "the samples are 1x8x8 and the data set's images 1x16x16 (channels x height x width): pass `--resolution 8x8",
    ),
    "fewer images than dimensions": (
        ("--model", "@real.npz", *DIGITS, "--num_images", 60),
        "`num_images` is 60, and the features have 64 dimensions: the covariance of so few images is singular",
    ),
    "a reference of fewer": (
        ("--model", "@real.npz", *DIGITS, "--reference_images", 64),
        "`reference_images` is 64, and the features have 64 dimensions",
    ),
    "hardly any images": (
        ("--model", "@real.npz", *DIGITS, "--num_images", 5, "--metrics", "precision_recall"),
        "`num_images` is 5: `precision_recall` needs at least 6.",
    ),
    "no such split": (("--model", "@real.npz", *DIGITS, "--train_split", "all"), "`split` is 'all'"),
    "no such file": (("--model", "nowhere.npz", *DIGITS), "`model` is nowhere.npz, which does not exist."),
    "no archive": (("--model", "@text.npz", *DIGITS), "text.npz, which cannot be read: "),
    "not the array": (
        ("--model", "@others.npz", *DIGITS),
        "others.npz, whose `arr_0` is missing: uint8 (N, H, W, 1 or",
    ),
    "not 8-bit": (("--model", "@floats.npz", *DIGITS), "floats.npz, whose `arr_0` is float64 (100, 8, 8, 1): uint8"),
    "an empty file": (("--model", "@nothing.npz", *DIGITS), "nothing.npz, which holds no images."),
    "no such classifier": (
        ("--model", "@real.npz", *DIGITS, "--metrics", "class_accuracy", "--classifier", "no.ts"),
        "`classifier` is no.ts, which does not exist.",
    ),
    "no such features": (("--model", "@real.npz", *DIGITS, "--features", "pixle"), "perhaps 'pixels' is meant"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_one_line_before_any_sampling(evaluate, folder, saved, mistake, tmp_path):
    argv, sentence = BAD[mistake]
    own = ("unconditional", "class_conditional")
    argv = [
        (saved(text[1:]) if text[1:] in own else folder / text[1:]) if str(text).startswith("@") else text
        for text in argv
    ]
    given = evaluate(*FAST, *argv, "--output", "out", fails=True)
    assert sentence in given, given
    assert not (tmp_path / "out").exists()


def test_fewer_images_than_dimensions_are_measured_on_request(evaluate, folder, tmp_path):
    argv = ["--model", folder / "real.npz", *DIGITS, *FAST, "--num_images", 60, "--output", "out"]
    evaluate(*argv, "--allow_few_images")
    assert numbers(tmp_path / "out")["fid"] > 0


def test_a_damaged_cache_is_one_line(evaluate, folder, tmp_path):
    argv = ["--model", folder / "real.npz", *DIGITS, *FAST, "--reference_cache", tmp_path / "kept", "--output", "out"]
    evaluate(*argv)
    next((tmp_path / "kept").iterdir()).write_bytes(b"PK")
    assert evaluate(*argv, fails=True).startswith("`reference_cache` holds a damaged file, ")


def test_classes_are_as_frequent_as_in_the_reference():
    labels = labels_like(torch.tensor([0] * 30 + [2] * 10), 3, 8)
    assert labels.count(0) == 6 and labels.count(2) == 2 and labels.count(1) == 0
    assert sorted(labels_like(None, 4, 10)) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert labels_like(None, 3, 6) == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("seconds, shown", [(0.2, "1 s"), (59, "59 s"), (200, "3 min 20 s"), (604800, "168 h 0 min")])
def test_durations_read_well(seconds, shown):
    assert duration(seconds) == shown


def test_the_histogram_of_nearest_distances_shows_both():
    figure = nearest_distances(torch.rand(50), torch.rand(40) + 1)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["held-out images", "samples"]
