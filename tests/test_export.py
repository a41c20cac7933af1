import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline

from ddpm_ext import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline
from ddpm_ext.pipelines.loading import load_pipeline
from ddpm_ext.sharing.export import export_pipeline
from ddpm_ext.sharing.new_folder import new_folder
from tests.conftest import tiny_class_conditional, tiny_pipeline
from tests.open_elsewhere import draws


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def same(pipeline, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(draws(pipeline), draws(other), strict=True))


# ------------------------------------------------------------------ what is written


def test_each_class_of_ours_lies_beside_what_it_loads(tmp_path):
    export_pipeline(tiny_class_conditional(), tmp_path / "out")
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    stem, class_name = index["_class_name"]
    assert class_name == "ClassConditionalDDPMPipeline"
    assert files(tmp_path / "out") == {
        "model_index.json",
        f"{stem}.py",
        f"unet/{index['unet'][0]}.py",
        f"scheduler/{index['scheduler'][0]}.py",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    }
    export_pipeline(tiny_pipeline(), tmp_path / "unconditional")
    assert json.loads((tmp_path / "unconditional/model_index.json").read_text())["unet"] == [
        "diffusers",
        "UNet2DModel",
    ]


def test_a_compiled_network_is_exported_as_what_it_is(tmp_path):
    pipeline = tiny_class_conditional()
    pipeline.unet = torch.compile(pipeline.unet)
    export_pipeline(pipeline, tmp_path / "out")
    assert same(load_pipeline(str(tmp_path / "out")), tiny_class_conditional())


def test_no_path_of_this_machine_is_written(tmp_path, saved):
    pipeline = load_pipeline(str(saved("class_conditional")))
    for format in ("self_contained", "package", "diffusers"):
        export_pipeline(pipeline, tmp_path / format, format)
        configs = [path.read_text() for path in (tmp_path / format).rglob("*.json")]
        assert len(configs) == 3 and not any("_name_or_path" in text or str(tmp_path) in text for text in configs)


def test_where_the_package_is_installed_no_code_of_the_folder_is_run(tmp_path):
    export_pipeline(tiny_class_conditional(), tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.py"):
        path.write_text("raise RuntimeError('it was run')")
    for opened in (
        ClassConditionalDDPMPipeline.from_pretrained(tmp_path / "out"),
        load_pipeline(str(tmp_path / "out")),
    ):
        assert type(opened) is ClassConditionalDDPMPipeline
        assert same(opened, tiny_class_conditional())
    opened.save_pretrained(tmp_path / "package")
    assert not any(name.endswith(".py") for name in files(tmp_path / "package"))


def test_a_stock_sampler_is_exported_with_the_model(tmp_path):
    from diffusers import UniPCMultistepScheduler

    pipeline = tiny_pipeline()
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    export_pipeline(pipeline, tmp_path / "out")
    assert type(load_pipeline(str(tmp_path / "out")).scheduler) is UniPCMultistepScheduler


# ------------------------------------------------------------------ whole or not at all


def test_what_exists_is_not_touched(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    for name in ("file", "folder"):
        with pytest.raises(ValueError, match=rf"`output_dir` is .*/{name}, which exists: a folder, new or empty, is"):
            export_pipeline(tiny_pipeline(), tmp_path / name)
    assert files(tmp_path) == {"file", "folder/file"}


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fail(self: object, folder: str) -> None:
        Path(folder, "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ImprovedDDPMPipeline, "save_pretrained", fail)
    with pytest.raises(
        ValueError, match=r"`output_dir` is .*/out, which cannot be written \(\[Errno 28\] No space left"
    ):
        export_pipeline(tiny_pipeline(), tmp_path / "deep" / "er" / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`output_dir` is .*/file/out, which cannot be written"):
        export_pipeline(tiny_pipeline(), tmp_path / "file" / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_an_error_inside_leaves_nothing_either(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("")
    assert files(tmp_path) == {"out/whole"}


def test_other_pipelines_and_formats_are_refused(tmp_path):
    stock = DDPMPipeline(tiny_pipeline().unet, tiny_pipeline().scheduler)
    with pytest.raises(ValueError, match="`format` is 'self_contained', but the pipeline is a DDPMPipeline"):
        export_pipeline(stock, tmp_path / "out")
    with pytest.raises(ValueError, match="`format` is 'difusers': .* Did you mean 'diffusers'"):
        export_pipeline(tiny_pipeline(), tmp_path / "out", "difusers")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ the script


def printed_lines(shown: str) -> str:
    """The Python that the script printed."""
    lines = [line[4:] for line in shown.splitlines() if line.startswith("    ")]
    return "\n".join(lines)


@pytest.mark.parametrize("options", ["package", "diffusers", "diffusers --class_label bird"])
def test_the_printed_lines_open_what_was_written(script, saved, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", str(saved("class_conditional")), "--output_dir", "out", "--format", *options.split()]
    lines = printed_lines(script.run("export", *arguments, tiny=False))
    shorter = {
        "steps(250)": "steps(3)",
        "16)": "3, num_inference_steps=3)",
        "2]).images": "2], num_inference_steps=3).images",
    }
    for long, short in shorter.items():
        lines = lines.replace(long, short)
    names: dict[str, object] = {}
    exec(lines, names)
    assert len(names["images"]) == 3 and names["images"][0].size == (8, 8)


def test_it_says_what_it_left_out(script, saved, tmp_path):
    shown = script.run("export", "--model", str(saved("unconditional")), "--output_dir", f"{tmp_path}/a", tiny=False)
    assert f"{tmp_path}/a holds the model (self_contained). Nothing was left out." in shown
    options = ["--format", "diffusers", "--output_dir", f"{tmp_path}/b"]
    shown = script.run("export", "--model", str(saved("class_conditional")), *options, tiny=False)
    assert "Left out: the learned variance ('fixed_" in shown and "; class names and guidance." in shown


def test_a_run_without_a_pipeline_yet_is_exported_from_its_newest_checkpoint(script, saved, tmp_path):
    for step, name in ((5, "rgb"), (10, "unconditional")):
        shutil.copytree(saved(name), tmp_path / "run" / "checkpoints" / f"checkpoint-{step}")
    script.run("export", "--model", f"{tmp_path}/run", "--output_dir", f"{tmp_path}/out", tiny=False)
    assert load_pipeline(f"{tmp_path}/out").unet.config.in_channels == 1
    script.run(
        "export", "--model", f"{tmp_path}/run/checkpoints/checkpoint-5", "--output_dir", f"{tmp_path}/c", tiny=False
    )
    assert load_pipeline(f"{tmp_path}/c").unet.config.in_channels == 3


BAD = {
    "no model": ((), "`model` must be given."),
    "no place": (("--model", "x"), "`output_dir` must be given."),
    "no such model": (
        ("--model", "no/such/model", "--output_dir", "out"),
        "`model` is no/such/model, which is no folder",
    ),
    "format": (
        ("--model", "@unconditional", "--format", "onnx", "--output_dir", "out"),
        "`format` is 'onnx': one of self",
    ),
    "a class of none": (
        ("--model", "@unconditional", "--format", "diffusers", "--class_label", "1", "--output_dir", "out"),
        "`class_label` is '1', but the model knows no classes.",
    ),
    "a class for another format": (
        ("--model", "@class_conditional", "--class_label", "bird", "--output_dir", "out"),
        "`class_label` is 'bird': only `format` 'diffusers' has a use for it.",
    ),
    "a class that is none": (
        ("--model", "@class_conditional", "--format", "diffusers", "--class_label", "brid", "--output_dir", "out"),
        "Did you mean 'bird'?",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(script, saved, tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    arguments, sentence = BAD[mistake]
    said = script.fails(
        "export", *(str(saved(text[1:])) if text[0] == "@" else text for text in arguments), tiny=False
    )
    assert sentence in said
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_predicts_the_mean_has_no_stock_terms(script, tmp_path):
    tiny_pipeline(prediction_type="mean").save_pretrained(tmp_path / "mean")
    said = script.fails(
        "export", "--model", f"{tmp_path}/mean", "--format", "diffusers", "--output_dir", f"{tmp_path}/out", tiny=False
    )
    assert said.startswith("`format` is 'diffusers', but the model predicts the posterior mean")
    assert not (tmp_path / "out").exists()


def test_plain_diffusers_opens_the_stock_export(tmp_path):
    export_pipeline(tiny_pipeline(), tmp_path / "out", "diffusers")
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "out")) is DDPMPipeline
