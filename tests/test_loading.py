"""What opening a model that is not in order says: one sentence, and nothing of it is run."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

from ddpm_ext import ImprovedDDPMPipeline
from ddpm_ext.models import unet_config
from ddpm_ext.pipelines.loading import load_pipeline
from tests.conftest import tiny_pipeline


INDEX = "model_index.json"
WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")
PICKLE = WEIGHTS.with_suffix(".bin")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of a pipeline's folder, to be damaged."""
    return shutil.copytree(saved("unconditional"), tmp_path / "model")


def refusal(folder: Path) -> str:
    """What is said of `folder`, without its name."""
    with pytest.raises(ValueError) as raised:
        load_pipeline(str(folder))
    sentence = str(raised.value)
    assert sentence.startswith(f"`model` is {folder}, ") and sentence.endswith(".") and "\n" not in sentence
    return sentence.removeprefix(f"`model` is {folder}, ")


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


# ------------------------------------------------------------------ weights


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_a_truncated_weight_file_is_named(folder, keep):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:keep])
    assert refusal(folder) == f"whose {WEIGHTS} is truncated or corrupted: copy or download it again."


def test_a_corrupted_weight_file_is_named(folder):
    (folder / WEIGHTS).write_bytes(b"\xff" * 8 + (folder / WEIGHTS).read_bytes()[8:])
    assert refusal(folder) == f"whose {WEIGHTS} is truncated or corrupted: copy or download it again."


def test_missing_weights_are_not_replaced_by_random_ones(folder):
    """Plain diffusers warns and leaves them as they were initialised."""
    change_weights(folder, lambda weights: [weights.pop("conv_out.weight"), weights.pop("conv_in.bias")])
    assert refusal(folder) == f"whose {WEIGHTS} lacks conv_in.bias and 1 more, unlike the network in config.json."


def test_weights_of_another_network_are_not_ignored(folder):
    change_weights(folder, lambda weights: weights.update(extra=torch.zeros(2)))
    assert refusal(folder) == f"whose {WEIGHTS} has extra, unlike the network in config.json."
    change_weights(folder, lambda weights: [weights.pop("extra"), weights.update({"conv_in.bias": torch.zeros(5)})])
    assert "could not be loaded: Cannot load because conv_in.bias expected shape" in refusal(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / WEIGHTS).unlink()
    assert refusal(folder) == f"whose {WEIGHTS} is missing."


class MakesAFolder:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "protocol, what", [(2, r"wants to run code (posix.mkdir)"), (4, "is damaged, or holds more than weights")]
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_a_pickle_that_wants_to_run_code_is_not_opened(folder, tmp_path, protocol, what):
    weights = {**load_file(folder / WEIGHTS), "more": MakesAFolder(tmp_path / "it ran")}
    (folder / WEIGHTS).unlink()
    (folder / PICKLE).write_bytes(pickle.dumps(weights, protocol))
    if protocol == 2:
        torch.save(weights, folder / PICKLE)
    assert refusal(folder) == f"whose {PICKLE} is a pickle that {what}: weights alone are accepted."
    assert not (tmp_path / "it ran").exists()


def test_a_pickle_of_weights_alone_is_opened(folder):
    weights = load_file(folder / WEIGHTS)
    torch.save(weights, folder / PICKLE)
    (folder / WEIGHTS).unlink()
    opened = load_pipeline(str(folder)).unet.state_dict()
    assert all(torch.equal(opened[name], weight) for name, weight in weights.items())
    (folder / PICKLE).write_bytes((folder / PICKLE).read_bytes()[:-500])
    assert refusal(folder) == f"whose {PICKLE} is truncated or corrupted: copy or download it again."


def test_old_names_of_attention_weights_are_understood(tmp_path):
    """google/ddpm-cifar10-32 and its like were saved when diffusers named them otherwise."""
    unet = UNet2DModel(**unet_config((8, 8), 1, block_out_channels=(8, 16), attention_resolutions=(8,))).eval()
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(tmp_path / WEIGHTS)
    renamed = {}
    for name, weight in weights.items():
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        renamed[name] = weight
    assert renamed.keys() != weights.keys()
    save_file(renamed, tmp_path / WEIGHTS)
    opened = load_pipeline(str(tmp_path)).unet.state_dict()
    assert all(torch.equal(opened[name], weight) for name, weight in weights.items())


def test_the_first_models_of_diffusers_have_all_files_in_one_folder(folder):
    """google/ddpm-cifar10-32 is one."""
    expected = load_pipeline(str(folder)).unet.state_dict()
    change_json(folder / INDEX, _class_name="DDPMPipeline", scheduler=["diffusers", "DDPMScheduler"])
    for part in ("unet", "scheduler"):
        for path in (folder / part).iterdir():
            path.rename(folder / path.name)
        (folder / part).rmdir()
    opened = load_pipeline(str(folder)).unet.state_dict()
    assert all(torch.equal(opened[name], weight) for name, weight in expected.items())
    (folder / WEIGHTS.name).write_bytes(b"")
    assert refusal(folder) == f"whose {WEIGHTS.name} is truncated or corrupted: copy or download it again."


# ------------------------------------------------------------------ configurations


@pytest.mark.parametrize("part", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_config_from_a_newer_diffusers_says_what_is_not_known(folder, part):
    change_json(folder / part, _diffusers_version="99.1.0", new_thing=3)
    said = refusal(folder)
    assert "is configured with `new_thing`, which " in said
    assert "does not know: it was saved by diffusers 99.1.0, so that an upgrade from " in said
    assert said.startswith(f"whose {part.partition('/')[0]} ")
    change_json(folder / part, new_thing=None)  # not used
    load_pipeline(str(folder))


def test_a_scheduler_of_a_newer_ddpm_ext_is_recognised(folder):
    change_json(folder / "scheduler/scheduler_config.json", new_thing=3)
    assert refusal(folder) == (
        "whose scheduler is configured with `new_thing`, which ddpm_ext 0.1.0 does not know: a newer one may."
    )
    change_json(
        folder / "scheduler/scheduler_config.json", new_thing=None, predictor_order=2
    )  # carried over from a stock one
    load_pipeline(str(folder))


def test_keys_that_diffusers_no_longer_knows_do_not_matter(folder):
    change_json(folder / "unet/config.json", _diffusers_version="0.1.0", former_thing=3)
    load_pipeline(str(folder))


@pytest.mark.parametrize(
    "part, values, sentence",
    [
        (
            "model_index.json",
            {"unet": ["ddpm_ext", "NewUNet"]},
            "whose unet is a NewUNet, which ddpm_ext 0.1.0 does not have.",
        ),
        (
            "model_index.json",
            {"unet": ["somewhere", "UNet"]},
            "whose unet is a UNet of somewhere: classes of ddpm_ext and diffusers are accepted, and in Python those of"
            " modules that have been imported (`import somewhere`).",
        ),
        ("model_index.json", {"unet": ["json", "UNet"]}, "whose unet is a UNet, which json does not have."),
        ("model_index.json", {"unet": ["json", "JSONDecoder"]}, "is a JSONDecoder, which json does not have."),
        ("model_index.json", {"_class_name": ["pipeline", "Own"]}, "which needs code that it brings along"),
        ("model_index.json", {"_class_name": None}, "whose model_index.json names no pipeline."),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "flow"},
            "could not be loaded: `prediction_type` is 'flow'",
        ),
        (
            "unet/config.json",
            {"_diffusers_version": "99.0", "down_block_types": ["NewBlock", "DownBlock2D"]},
            "could not be loaded: NewBlock does not exist: it was saved by diffusers 99.0",
        ),
    ],
)
def test_what_this_installation_does_not_have_is_named(folder, part, values, sentence):
    change_json(folder / part, **values)
    assert sentence in refusal(folder)


def test_a_pipeline_of_a_newer_ddpm_ext_is_recognised(saved, tmp_path):
    folder = shutil.copytree(saved("class_conditional"), tmp_path / "model")
    change_json(folder / INDEX, _class_name="NewPipeline")
    assert refusal(folder).startswith("a NewPipeline, which ddpm_ext 0.1.0 does not have: ")
    change_json(folder / INDEX, unet=["diffusers", "A"], scheduler=["diffusers", "B"])
    assert refusal(folder) == "a NewPipeline: image pipelines of ddpm_ext and DDPMPipeline are accepted."


@pytest.mark.parametrize("part", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_config_that_is_none_is_named(folder, part, content):
    (folder / part).write_bytes(content.encode("latin-1"))
    assert refusal(folder) == f"whose {part} is missing or no JSON object."


@pytest.mark.parametrize("part", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_config_that_is_missing_is_named(folder, part):
    (folder / part).unlink()
    assert refusal(folder) == f"whose {part} is missing or no JSON object."


# ------------------------------------------------------------------ what is opened


def test_what_opens_is_what_diffusers_opens(saved):
    for name in ("unconditional", "rgb", "class_conditional"):
        ours, theirs = load_pipeline(str(saved(name))), DiffusionPipeline.from_pretrained(saved(name))
        assert type(ours) is type(theirs) and not ours.unet.training
        assert dict(ours.config).keys() == dict(theirs.config).keys()
        for weight, expected in zip(ours.unet.parameters(), theirs.unet.parameters(), strict=True):
            assert torch.equal(weight, expected)


@pytest.mark.parametrize("name", ["nowhere/at/all", "/no/such/folder", "./model", "my model", "x" * 200])
def test_what_can_be_no_repository_is_not_looked_for(name):
    with pytest.raises(ValueError, match="which is no folder here, nor a name that a repository could have"):
        load_pipeline(name)


def test_a_file_is_no_pipeline(folder):
    assert refusal(folder / WEIGHTS) == "which holds no pipeline: a folder with a model_index.json is accepted."


def test_pipelines_save_and_open_in_half_precision(tmp_path):
    pipeline = tiny_pipeline().to(torch.bfloat16)
    pipeline.save_pretrained(tmp_path)
    assert type(load_pipeline(str(tmp_path))) is ImprovedDDPMPipeline
