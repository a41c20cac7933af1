"""Checkpoints from elsewhere become pipelines like any other; what is wrong with one is a sentence."""

import argparse
import io
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddpm_ext import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline, ImprovedUNet2DModel
from ddpm_ext.models import unet_config
from ddpm_ext.sharing.convert_openai import convert_openai, convert_weights
from ddpm_ext.sharing.openai_command_line import read_flags
from ddpm_ext.training.building import build_unet, load_training_images
from ddpm_ext.training.command_line import parse
from tests.formula_weights import formula_weights
from tests.test_golden_unets import OPTIONS


PLAIN = Path(__file__).parent / "golden" / "unet" / "plain" / "model.safetensors"
FLAGS = (
    "--image_size 16 --num_channels 32 --channel_mult 1,1 --num_res_blocks 1 --attention_resolutions 8 --num_heads 4 "
    "--class_cond True --learn_sigma True"
)
UPDOWN = PLAIN.parents[1] / "updown" / "model.safetensors"


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    return load_file(PLAIN)


def option(case: str) -> ImprovedDDPMPipeline:
    flags = read_flags(OPTIONS.text(f"{case}/flags"), OPTIONS.text(f"{case}/library"))
    pipeline = convert_weights(formula_weights(OPTIONS.shapes(case)), flags).pipeline
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: DiffusionPipeline, **arguments: object) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline(generator=generator, num_inference_steps=3, output_type="pt", **arguments).images


# ------------------------------------------------------------------ a pipeline like any other


@pytest.mark.parametrize(
    "case, pipeline_kind, unet_kind, library, arguments",
    [
        ("stock", ImprovedDDPMPipeline, UNet2DModel, "diffusers", {"batch_size": 2}),
        ("heads_of_many_widths", ImprovedDDPMPipeline, ImprovedUNet2DModel, "ddpm_ext", {"batch_size": 2}),
        ("wide_first_level", ClassConditionalDDPMPipeline, None, "ddpm_ext", {"class_labels": [0, 4]}),
    ],
)
def test_it_saves_loads_and_samples(case, pipeline_kind, unet_kind, library, arguments, tmp_path):
    pipeline = option(case)
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["unet"][0] == library
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded) is pipeline_kind and (unet_kind is None or type(loaded.unet) is unet_kind)
    images = draw(loaded, **arguments)
    size = pipeline.unet.config.sample_size
    assert images.shape == (2, 3, size, size)
    torch.testing.assert_close(images, draw(pipeline, **arguments), rtol=0, atol=1e-4)
    loaded.scheduler = DPMSolverMultistepScheduler.from_config(loaded.scheduler.config)
    assert draw(loaded, **arguments).isfinite().all()


def test_a_class_conditional_network_has_the_classes_of_its_table_and_no_null_class(plain):
    pipeline = convert_openai(PLAIN, FLAGS).pipeline
    assert pipeline.unet.num_classes == 10
    assert torch.equal(pipeline.unet.class_embedding.weight[:10], plain["label_emb.weight"])
    assert not pipeline.unet.knows_null_class
    with pytest.raises(ValueError, match="`guidance_scale` is 2.0: only 1 is accepted"):
        draw(pipeline, class_labels=[3], guidance_scale=2.0)
    assert draw(pipeline, class_labels=[3]).isfinite().all()


def test_a_converted_network_trains_on(plain):
    unet = convert_openai(PLAIN, FLAGS).pipeline.unet.train()
    unet(torch.randn(2, 3, 16, 16), torch.tensor([1, 2]), torch.tensor([0, unet.null_class])).sample.sum().backward()
    assert unet.class_embedding.weight.grad[unet.null_class].abs().max() > 0
    assert all(parameter.grad is not None for parameter in unet.parameters())


def test_a_run_may_start_anew_from_the_configuration_of_such_a_network(tmp_path):
    config = unet_config((8, 8), 1, block_out_channels=(8, 16), layers_per_block=1, attention_resolutions=(8, 4))
    options = {"attention_head_dim": [4, 8], "time_embedding_type": "openai", "num_train_timesteps": 400}
    ImprovedUNet2DModel(**{**config, **options}).save_pretrained(tmp_path)
    arguments = parse("unconditional", f"--dataset_name digits --model_config_name_or_path {tmp_path}".split())
    unet = build_unet(arguments, load_training_images(arguments))
    assert type(unet) is ImprovedUNet2DModel
    assert {name: unet.config[name] for name in options} == options


# ------------------------------------------------------------------ files


def test_every_kind_of_file_gives_the_same_network(plain, tmp_path):
    writers: dict[str, Callable[[Path], None]] = {
        "zip.pt": lambda path: torch.save(plain, path),
        "legacy.pth": lambda path: torch.save(plain, path, _use_new_zipfile_serialization=False),
        "nested.ckpt": lambda path: torch.save({"step": 3, "model": plain, "args": {"lr": 0.1}}, path),
        "parallel.bin": lambda path: torch.save({f"module.{name}": w for name, w in plain.items()}, path),
        "half.safetensors": lambda path: save_file({name: w.half() for name, w in plain.items()}, path),
    }
    expected = convert_openai(PLAIN, FLAGS).pipeline.unet.state_dict()
    for name, write in writers.items():
        write(tmp_path / name)
        converted = convert_openai(tmp_path / name, FLAGS)
        assert converted.unused_keys == (["step", "args"] if name == "nested.ckpt" else [])
        for parameter, weight in converted.pipeline.unet.state_dict().items():
            assert weight.dtype == torch.float32
            torch.testing.assert_close(weight, expected[parameter], rtol=1e-3 if "half" in name else 0, atol=1e-6)


class Attack:
    """A pickle of it writes a file on reading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def saved(content: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def test_a_pickle_that_wants_to_run_code_is_not_run(plain, tmp_path):
    attack = {**plain, "attack": Attack(tmp_path / "ran")}
    for name, content in {
        "zip.pt": saved(attack),
        "old.pt": saved(attack, _use_new_zipfile_serialization=False),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"`checkpoint` is .* would run code on reading \(posix.system\)"):
            convert_openai(tmp_path / name, FLAGS)
    assert not (tmp_path / "ran").exists()


def damaged(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


# The name of a file, what is in it (made from the weights), and the sentence.
BROKEN: dict[str, tuple[str, Callable[[dict[str, Tensor]], bytes], str]] = {
    "empty": ("model.pt", lambda weights: b"", "which is empty"),
    "text": ("model.pt", lambda weights: b"hello world", "which is truncated or damaged"),
    "text as safetensors": ("model.safetensors", lambda weights: b"hello world" * 9, "which is truncated or damaged"),
    "truncated": ("model.pt", lambda weights: saved(weights)[:700_000], "which is truncated or damaged"),
    "truncated, old": (
        "model.pt",
        lambda weights: saved(weights, _use_new_zipfile_serialization=False)[:700_000],
        "which is truncated or damaged",
    ),
    "truncated safetensors": ("model.safetensors", lambda _: PLAIN.read_bytes()[:700_000], "truncated or damaged"),
    "one wrong byte": ("model.pt", lambda weights: damaged(saved(weights), 700_000), "the checksum of .* is wrong"),
    "more than tensors": ("model.pt", lambda weights: saved({"args": argparse.Namespace()}), "argparse.Namespace"),
    "a list": ("model.pt", lambda weights: saved(list(weights.values())), "which holds a list"),
    "nothing": ("model.pt", lambda weights: saved({}), "which holds no weights"),
    "an optimizer": ("opt.pt", lambda _: saved({"state": {}, "param_groups": []}), "the state of an optimizer"),
    "two networks": (
        "model.pt",
        lambda weights: saved({"model": weights, "ema": weights}),
        r"several sets of weights \(model, ema\)",
    ),
    "not finite": (
        "model.pt",
        lambda weights: saved({**weights, "out.0.bias": torch.full((32,), torch.nan)}),
        "whose out.0.bias holds NaN or infinity",
    ),
    "another ending": ("model.h5", lambda weights: b"x", "a file that ends in .safetensors, .pt"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_a_sentence(case, plain, tmp_path):
    name, content, sentence = BROKEN[case]
    (tmp_path / name).write_bytes(content(plain))
    with pytest.raises(ValueError, match=rf"`checkpoint` is {tmp_path / name}.*{sentence}") as refused:
        convert_openai(tmp_path / name, FLAGS)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_no_file_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="which does not exist"):
        convert_openai(tmp_path / "model.pt", FLAGS)
    with pytest.raises(ValueError, match="which is a folder"):
        convert_openai(tmp_path, FLAGS)


# ------------------------------------------------------------------ flags that do not fit


def changed(text: str, **changes: object) -> str:
    """The flags in `text` with some replaced, or left out where None."""
    words = shlex.split(text)
    given = dict(zip(words[::2], words[1::2], strict=True)) | {f"--{name}": value for name, value in changes.items()}
    return " ".join(f"{name} {value}" for name, value in given.items() if value is not None)


@pytest.mark.parametrize(
    "changes, mismatch, explanation",
    [
        ({"learn_sigma": False}, "out.2.weight has shape 6x32x3x3 and not 3x32x3x3", "--learn_sigma True"),
        ({"class_cond": False}, "label_emb.weight is one more than these flags ask for", "--class_cond True"),
        ({"num_channels": 64}, "time_embed.0.weight has shape 128x32 and not 256x64", "--num_channels 32"),
        ({"num_res_blocks": 2}, "input_blocks.2.0.in_layers.0.weight is missing", "--num_res_blocks 1"),
        ({"resblock_updown": True}, "input_blocks.2.0.in_layers.0.weight is missing", "--resblock_updown False"),
        (
            {"use_scale_shift_norm": False},
            "input_blocks.1.0.emb_layers.1.weight has shape 64x128 and not 32x128",
            "--use_scale_shift_norm True",
        ),
        ({"channel_mult": "1,2"}, "input_blocks.3.0.in_layers.2.weight has shape .*", "--channel_mult 1,1"),
        ({"attention_resolutions": "16"}, "input_blocks.1.1.norm.weight is missing", "--attention_resolutions 8"),
        ({"image_size": 32}, "input_blocks.3.1.norm.bias is one more .*", "--attention_resolutions 16"),
        ({"learn_sigma": None, "class_cond": None}, ".*", "--class_cond True --learn_sigma True"),
    ],
)
def test_the_first_mismatch_is_named_with_the_flags_that_explain_it(changes, mismatch, explanation):
    with pytest.raises(ValueError, match=f"^`flags` do not fit .* in which {mismatch}: {explanation} would fit"):
        convert_openai(PLAIN, changed(FLAGS, **changes))


def test_updown_blocks_in_place_of_convolutions_are_explained():
    flags = changed(FLAGS, channel_mult="1,2")
    with pytest.raises(ValueError, match="input_blocks.2.0.op.weight is missing: --resblock_updown True would fit"):
        convert_openai(UPDOWN, flags)


def test_another_size_of_image_is_suggested_where_it_explains_most():
    flags = read_flags("--image_size 32 --num_channels 32 --num_res_blocks 1", "improved")
    weights = {
        name: torch.empty(shape, device="meta") for name, shape in OPTIONS.shapes("heads_of_many_widths").items()
    }
    with pytest.raises(ValueError, match="--learn_sigma True --attention_resolutions 32,16 would fit"):
        convert_weights(weights, flags)
    flags = read_flags(
        "--num_channels 32 --num_res_blocks 1 --attention_resolutions 32,16 --learn_sigma True", "improved"
    )
    with pytest.raises(
        ValueError, match="input_blocks.1.1.norm.weight is one more .*: --image_size 32 would fit its keys"
    ):
        convert_weights(weights, flags)


def test_a_missing_key_and_one_too_many_are_named(plain):
    flags = read_flags(FLAGS)
    lacking = {name: weight for name, weight in plain.items() if name != "middle_block.1.proj_out.bias"}
    with pytest.raises(ValueError, match="middle_block.1.proj_out.bias is missing: it is another kind of network"):
        convert_weights(lacking, flags)
    more = {**plain, "input_blocks.9.0.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="input_blocks.9.0.weight is one more than these flags ask for"):
        convert_weights(more, flags)


def test_every_key_without_use_is_reported(plain):
    extra = {"betas": torch.zeros(3), "num_batches": torch.tensor(3)}
    assert convert_weights({**plain, **extra}, read_flags(FLAGS)).unused_keys == ["betas", "num_batches"]


@pytest.mark.parametrize(
    "weights, sentence",
    [
        (
            {"conv_in.weight": (8, 3, 3, 3)},
            "no 2-dimensional time_embed.0.weight, and its first key is conv_in.weight",
        ),
        ({"time_embed.0.weight": (9,)}, "no 2-dimensional time_embed.0.weight"),
        (
            {"time_embed.0.weight": (8, 8), "input_blocks.0.0.weight": (8, 3, 3, 3), "out.0.weight": (8,)},
            "no 4-dimensional output_blocks.0.0.in_layers.2.weight",
        ),
    ],
)
def test_another_kind_of_network_is_a_sentence(weights, sentence, tmp_path):
    save_file({name: torch.zeros(shape) for name, shape in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"`checkpoint` holds no U-Net of .* {sentence}"):
        convert_openai(tmp_path / "model.safetensors", FLAGS)


def test_a_network_for_super_resolution_is_refused(plain, tmp_path):
    weights = {**plain, "input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="`checkpoint` holds a network for super-resolution"):
        convert_openai(tmp_path / "model.safetensors", FLAGS)


# ------------------------------------------------------------------ the script


@pytest.fixture
def convert(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, fails: bool = False) -> str:
        return (script.fails if fails else script.run)("convert_openai", *argv, tiny=False)

    return run


def test_the_script_says_what_it_made_and_its_line_samples_from_it(convert, script, tmp_path):
    flags = f"{FLAGS} --timestep_respacing ddim5"
    shown = convert("--checkpoint", str(PLAIN), "--flags", flags, "--output_dir", "deep/model")
    assert "ClassConditionalUNet2DModel" in shown and "10 classes" in shown and "learned_range" in shown
    assert "guidance is refused" in shown and "Not used" not in shown
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"model"}
    line = next(line for line in shown.splitlines() if "sample.py" in line)
    program, name, *argv = shlex.split(line)
    assert (program, name) == ("python", "train_scripts/sample.py")
    script.run("sample", *argv, "--output", "images.npz", tiny=False)
    assert np.load("images.npz")["arr_0"].shape == (4, 16, 16, 3)


def test_averages_are_found_beside_the_network(convert, plain, tmp_path):
    for name, factor in {"model000500": 1.0, "ema_0.9999_000500": 0.5, "ema_0.99_000500": 0.25}.items():
        torch.save({key: factor * weight for key, weight in plain.items()}, tmp_path / f"{name}.pt")
    arguments = ("--checkpoint", "model000500.pt", "--flags", FLAGS, "--output_dir")
    shown = convert(*arguments, "raw")
    assert "ema_0.9999_000500.pt, an average" in shown and "`--ema 0.99`" in shown
    assert "an average" not in convert(*arguments, "averaged", "--ema", "0.9999")
    weights = load_file(tmp_path / "averaged" / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(weights["conv_out.weight"], 0.5 * plain["out.2.weight"])
    sentence = convert(*arguments, "other", "--ema", "0.5", fails=True)
    assert sentence.startswith("`ema` is 0.5: 0.99, 0.9999 is accepted")


def test_what_was_not_used_is_shown(convert, plain, tmp_path):
    save_file({**plain, "sqrt_alphas_cumprod": torch.zeros(3)}, tmp_path / "model.safetensors")
    shown = convert("--checkpoint", "model.safetensors", "--flags", FLAGS, "--output_dir", "out")
    assert "Not used: sqrt_alphas_cumprod" in shown


MISTAKES = {
    "no checkpoint": (("--output_dir", "out"), "`checkpoint` must be given"),
    "no folder": (("--checkpoint", "@"), "`output_dir` must be given"),
    "a full folder": (("--checkpoint", "@", "--output_dir", "full"), "`output_dir` is full, which exists"),
    "a file": (("--checkpoint", "@", "--output_dir", "full/file/out", "--flags", FLAGS), "not below a file"),
    "library": (("--checkpoint", "@", "--output_dir", "out", "--library", "guidde"), "Did you mean 'guided'?"),
    "no average": (
        ("--checkpoint", "@", "--output_dir", "out", "--ema", "0.9"),
        "`ema` is 0.9, but no average",
    ),
    "no flags": (("--checkpoint", "@", "--output_dir", "out"), "`flags` do not fit the checkpoint"),
    "no network": (("--checkpoint", "full/file", "--output_dir", "out"), "a file that ends in"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(convert, tmp_path, mistake):
    argv, sentence = MISTAKES[mistake]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert sentence in convert(*(str(PLAIN) if text == "@" else text for text in argv), fails=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]


def test_a_disk_that_fails_leaves_nothing_behind(convert, tmp_path, monkeypatch):
    def fail(pipeline: DiffusionPipeline, folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "model_index.json").touch()
        raise OSError("No space left on device")

    monkeypatch.setattr(DiffusionPipeline, "save_pretrained", fail)
    sentence = convert("--checkpoint", str(PLAIN), "--flags", FLAGS, "--output_dir", "out", fails=True)
    assert sentence == "`output_dir` is out, which could not be written: No space left on device."
    assert list(tmp_path.iterdir()) == []
