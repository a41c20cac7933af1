import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_ext.train_scripts import sample
from ddpm_ext.training.command_line import run_script


@pytest.fixture
def script(monkeypatch, tmp_path, capsys):
    """Runs the script as a command would; returns its exit code, standard output and the lines of its error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["sample.py", *map(str, arguments)])
        capsys.readouterr()
        try:
            run_script(sample.main)
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        shown = capsys.readouterr()
        return code, shown.out, [line for line in shown.err.splitlines() if line.startswith("error")]

    return run


def made(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_grid(script, saved, tmp_path):
    code, shown, _ = script("--model", saved("unconditional"), "--num_images", 5, "--num_inference_steps", 2)
    assert code == 0
    assert "5 images are in samples.png" in shown
    assert Image.open(tmp_path / "samples.png").size == (3 * 72 + 8, 2 * 72 + 8)


@pytest.mark.parametrize("name, mode", [("unconditional", "L"), ("rgb", "RGB")])
def test_a_folder_of_images(script, saved, tmp_path, name, mode):
    arguments = ("--model", saved(name), "--num_images", 3, "--num_inference_steps", 2, "--batch_size", 2)
    assert script(*arguments, "--output", "deep/images")[0] == 0
    assert made(tmp_path / "deep" / "images") == {"000000.png", "000001.png", "000002.png"}
    picture = Image.open(tmp_path / "deep" / "images" / "000002.png")
    assert (picture.size, picture.mode) == ((8, 8), mode)


@pytest.mark.parametrize("name, channels", [("unconditional", 1), ("rgb", 3)])
def test_an_npz_of_images(script, saved, name, channels):
    arguments = ("--model", saved(name), "--num_images", 3, "--num_inference_steps", 2, "--output", "out.npz")
    assert script(*arguments)[0] == 0
    arrays = np.load("out.npz")
    assert arrays.files == ["arr_0"]
    assert (arrays["arr_0"].shape, arrays["arr_0"].dtype) == ((3, 8, 8, channels), np.uint8)


def test_an_npz_with_labels(script, saved):
    arguments = ("--model", saved("class_conditional"), "--num_inference_steps", 2, "--output", "out.npz")
    assert script(*arguments, "--num_images", 5)[0] == 0
    arrays = np.load("out.npz")
    assert arrays.files == ["arr_0", "arr_1"]
    assert arrays["arr_0"].shape == (5, 8, 8, 1)
    assert (arrays["arr_1"].tolist(), arrays["arr_1"].dtype) == ([0, 1, 2, 0, 1], np.int64)
    assert script(*arguments, "--num_images", 3, "--class_labels", "bird", "0", "--guidance_scale", "1.5")[0] == 0
    assert np.load("out.npz")["arr_1"].tolist() == [2, 0, 2]


def test_all_forms_of_output_hold_the_same_images(script, saved, tmp_path):
    arguments = ("--model", saved("rgb"), "--num_images", 2, "--num_inference_steps", 2, "--seed", 9)
    assert script(*arguments, "--output", "out.npz")[0] == 0
    assert script(*arguments, "--output", "images", "--batch_size", 1)[0] == 0
    array = np.load("out.npz")["arr_0"]
    for i in range(2):
        picture = np.asarray(Image.open(tmp_path / "images" / f"{i:06d}.png")).astype(int)
        assert abs(picture - array[i]).max() <= 1  # the batch size rounds otherwise


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++", "unipc", "heun", "pndm"])
def test_samplers(script, saved, sampler):
    arguments = ("--model", saved("class_conditional"), "--num_images", 2, "--output", "out.npz")
    assert script(*arguments, "--sampler", sampler, "--num_inference_steps", 3)[0] == 0
    assert np.load("out.npz")["arr_0"].shape == (2, 8, 8, 1)


def test_steps_in_openais_notation_and_eta(script, saved):
    arguments = ("--model", saved("unconditional"), "--num_images", 1, "--sampler", "ddim", "--eta", "0.5")
    assert script(*arguments, "--num_inference_steps", "ddim4")[0] == 0
    assert script(*arguments, "--num_inference_steps", "2,1")[0] == 0


@pytest.mark.parametrize("name, file, frames", [("class_conditional", "way/there.gif", 5), ("rgb", "there.png", 1)])
def test_the_way_to_the_first_images(script, saved, tmp_path, name, file, frames):
    arguments = ("--model", saved(name), "--num_images", 3, "--num_inference_steps", 4, "--trajectory", file)
    code, shown, _ = script(*arguments)
    assert code == 0 and f"the way to the first 3 is in {file}" in shown
    picture = Image.open(tmp_path / file)
    assert getattr(picture, "n_frames", 1) == frames
    assert picture.size[0] > 3 * 64 and (tmp_path / "samples.png").exists()


def test_help_names_every_argument(script):
    code, shown, _ = script("--help")
    assert code == 0
    for name in ("model", "output", "num_images", "class_labels", "guidance_scale", "sampler", "seed", "eta"):
        assert f"--{name}" in shown


BAD = {
    "no model": ((), "`model` must be given"),
    "no such model": (("--model", "nowhere/at/all"), "`model` is nowhere/at/all, which is no folder here"),
    "a folder without a pipeline": (("--model", "."), "`model` is ., which holds no pipeline"),
    "unknown flag": (("--modle", "x"), "did you mean `--model`?"),
    "unknown sampler": (("--model", "@unconditional", "--sampler", "unipcc"), "Did you mean 'unipc'?"),
    "guidance without classes": (("--model", "@unconditional", "--guidance_scale", "2"), "`guidance_scale` is 2.0"),
    "classes without classes": (("--model", "@unconditional", "--class_labels", "0"), "`class_labels` was given"),
    "unknown name": (("--model", "@class_conditional", "--class_labels", "brid"), "Did you mean 'bird'?"),
    "unknown id": (("--model", "@class_conditional", "--class_labels", "3"), "`class_labels` holds '3'"),
    "no images": (("--model", "@unconditional", "--num_images", "0"), "`num_images` is 0"),
    "steps": (("--model", "@unconditional", "--num_inference_steps", "many"), "`num_inference_steps` is 'many'"),
    "too many steps": (
        ("--model", "@unconditional", "--num_inference_steps", "1001"),
        "`num_inference_steps` is 1001",
    ),
    "sections for a stock sampler": (
        ("--model", "@unconditional", "--sampler", "unipc", "--num_inference_steps", "2,3"),
        "`num_inference_steps` is '2,3'",
    ),
    "eta": (("--model", "@unconditional", "--eta", "2"), "`eta` is 2"),
    "eta for a stock sampler": (("--model", "@unconditional", "--sampler", "heun", "--eta", "0.5"), "`eta` is 0.5"),
    "guidance": (("--model", "@class_conditional", "--guidance_scale", "-1"), "`guidance_scale` is -1"),
    "kind of trajectory": (
        ("--model", "@unconditional", "--trajectory", "way.mp4"),
        "`trajectory` is way.mp4",
    ),
    "kind of output": (("--model", "@unconditional", "--output", "out.jpg"), "`output` is out.jpg: a .png, an .npz"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(script, saved, tmp_path, mistake):
    arguments, sentence = BAD[mistake]
    arguments = [saved(text[1:]) if text.startswith("@") else text for text in arguments]
    if "--num_inference_steps" not in arguments:
        arguments += ["--num_inference_steps", "2"]
    code, shown, errors = script(*arguments)
    assert code == 2
    assert len(errors) == 1 and sentence in errors[0], errors
    assert shown == "" and made(tmp_path) == set()


def test_a_pipeline_of_another_kind_is_refused(script, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline", "_diffusers_version": "0"}))
    code, _, errors = script("--model", folder)
    assert code == 2 and len(errors) == 1 and "`model` is" in errors[0]


def test_a_compiled_network_makes_the_same_images(script, saved, monkeypatch):
    sizes = []

    def recorded(forward, dynamic):
        assert dynamic is False

        def compiled(x_t, *conditions):
            sizes.append(len(x_t))
            return forward(x_t, *conditions)

        return compiled

    monkeypatch.setattr("torch.compile", recorded)
    arguments = ("--model", saved("class_conditional"), "--num_images", 5, "--num_inference_steps", 2)
    arguments += ("--batch_size", 2, "--guidance_scale", 2)
    assert script(*arguments, "--output", "plain.npz")[0] == 0
    assert script(*arguments, "--output", "compiled.npz", "--compile")[0] == 0
    assert (np.load("plain.npz")["arr_0"] == np.load("compiled.npz")["arr_0"]).all()
    assert sizes == [4, 4, 4, 4]  # two guided batches of two; not the last image


def test_a_compiler_that_fails_is_one_sentence(script, saved, monkeypatch):
    def broken(*_):
        raise RuntimeError("no C++ compiler.")

    monkeypatch.setattr("torch.compile", lambda *_, **__: broken)
    code, _, errors = script("--model", saved("unconditional"), "--num_inference_steps", 2, "--compile")
    assert code == 2 and "torch.compile fails here (no C++ compiler): on a CPU" in errors[0]


def test_samplers_side_by_side_start_from_the_same_noise(script, saved, tmp_path):
    arguments = ("--model", saved("unconditional"), "--num_images", 3, "--compare", "ddim:4", "ddpm:2", "ddim:4:0.5")
    code, shown, _ = script(*arguments)
    assert code == 0 and "3 rows of 3 images are in samples.png" in shown
    together = Image.open("samples.png")
    for place, entry in enumerate(("ddim:4", "ddpm:2", "ddim:4:0.5")):
        name, steps, eta = [*entry.split(":"), "0"][:3]
        sampled = ("--sampler", name, "--num_inference_steps", steps, "--output", f"{place}.npz")
        eta = ("--eta", eta) if name == "ddim" else ()
        assert script("--model", saved("unconditional"), "--num_images", 3, *sampled, *eta)[0] == 0
        alone = np.load(f"{place}.npz")["arr_0"][..., 0].repeat(8, 1).repeat(8, 2)
        y = place * 68  # a row of 64 pixels and the gap
        left = together.width - (2 * 68 + 64)
        for column, image in enumerate(alone):
            box = (left + column * 68, y, left + column * 68 + 64, y + 64)
            assert np.array_equal(np.asarray(together.crop(box).convert("L")), image)


COMPARISONS = [
    (["ddpm"], "`compare` holds 'ddpm': SAMPLER:STEPS is accepted"),
    (["ddpm:5:0.5"], "`compare` holds 'ddpm:5:0.5'"),
    (["ddim:5:2"], "`compare` holds 'ddim:5:2'"),
    (["ddim:5", "dimm:5"], "Did you mean 'ddim'"),
    (["ddim:5", "ddpm:5000"], "5000"),
    (["ddim:5", "--eta", "0.5"], "`eta` is 0.5 beside `compare`"),
    (["ddim:5", "--output", "out.npz"], "`output` is out.npz: with `compare`, a .png is accepted"),
]


@pytest.mark.parametrize("argv, words", COMPARISONS, ids=[" ".join(argv) for argv, _ in COMPARISONS])
def test_a_comparison_that_cannot_be_drawn_gets_one_sentence(script, saved, tmp_path, argv, words):
    code, _, errors = script("--model", saved("unconditional"), "--num_images", 2, "--compare", *argv)
    assert code == 2 and len(errors) == 1 and words in errors[0]
    assert made(tmp_path) == set()
