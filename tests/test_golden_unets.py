"""Converted networks compute what OpenAI's code does, and their samples are those of its formulas."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from ddpm_ext import ClassConditionalUNet2DModel, ImprovedDDPMPipeline, ImprovedUNet2DModel
from ddpm_ext.models.unet_2d_improved import Sinusoids
from ddpm_ext.schedulers import scheduling_improved_ddpm
from ddpm_ext.sharing.convert_openai import convert_openai, convert_weights
from ddpm_ext.sharing.openai_command_line import read_flags
from tests.formula_weights import formula_images, formula_weights
from tests.golden_set import FOLDER, SAMPLES, golden, spec_of


SINGLE, DOUBLE = 2e-4, 1e-9
CASES = [
    (folder, model["tag"], model["library"].split("/")[1].split("-")[0], model["equivalent_flags"])
    for folder in sorted(path.parent for path in (FOLDER / "unet").glob("*/config.json"))
    for model in json.loads((folder / "config.json").read_text())["models"]
]


def command_line(flags: dict[str, object], **changes: object) -> str:
    return " ".join(f"--{name} {value}" for name, value in {**flags, **changes}.items())


def largest(actual: Tensor, expected: Tensor) -> float:
    return (actual.double() - expected.double()).abs().max().item()


@pytest.mark.parametrize("folder, tag, library, flags", CASES, ids=[f"{case[0].name}-{case[1]}" for case in CASES])
@torch.no_grad()
def test_network(folder, tag, library, flags):
    arrays = np.load(folder / "io.npz").items()
    file = {name: torch.from_numpy(array) for name, array in arrays if array.dtype.kind != "U"}
    converted = convert_openai(folder / "model.safetensors", command_line(flags), library)
    unet, x, labels = converted.pipeline.unet, file["x"], file["y"]
    assert converted.unused_keys == []
    assert largest(unet(x, file["timesteps_int"], labels).sample, file[f"{tag}/out_int"]) <= SINGLE
    if f"{tag}/out_float" in file:
        assert largest(unet(x, file["timesteps_float"], labels).sample, file[f"{tag}/out_float"]) <= SINGLE
    if f"{tag}/out_int_f64" in file:
        output = unet.double()(x.double(), file["timesteps_int"], labels).sample
        assert largest(output, file[f"{tag}/out_int_f64"]) <= DOUBLE


@pytest.mark.parametrize("folder", sorted({case[0] for case in CASES}), ids=lambda folder: folder.name)
def test_timestep_embedding(folder):
    file = np.load(folder / "io.npz")
    if "timestep_embedding/t" not in file:
        pytest.skip("this set has none")
    embed = Sinusoids(int(file["timestep_embedding/dim"]), flip_sin_to_cos=True, freq_shift=0)
    t = torch.from_numpy(file["timestep_embedding/t"])
    assert largest(embed(t.float()), torch.from_numpy(file["timestep_embedding/f32"])) <= SINGLE
    assert largest(embed(t.double()), torch.from_numpy(file["timestep_embedding/f64"])) <= DOUBLE


class Options:
    """The networks of unet_options.npz, by name."""

    def __init__(self) -> None:
        self._file = np.load(Path(__file__).parent / "golden" / "unet_options.npz")

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self._file[name])

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def text(self, name: str) -> str:
        return str(self._file[name])

    def shapes(self, case: str) -> dict[str, tuple[int, ...]]:
        shapes = (tuple(map(int, shape.split("x"))) for shape in self._file[f"{case}/shapes"])
        return dict(zip(self._file[f"{case}/keys"].tolist(), shapes, strict=True))


OPTIONS = Options()


@pytest.mark.parametrize(
    "case, kind",
    [
        ("heads_of_many_widths", ImprovedUNet2DModel),
        ("wide_first_level", ClassConditionalUNet2DModel),
        ("stock", UNet2DModel),
        ("additive_updown", ClassConditionalUNet2DModel),
    ],
)
@torch.no_grad()
def test_option(case, kind):
    flags = read_flags(OPTIONS.text(f"{case}/flags"), OPTIONS.text(f"{case}/library"))
    converted = convert_weights(formula_weights(OPTIONS.shapes(case)), flags)
    pipeline, t = converted.pipeline, OPTIONS[f"{case}/timesteps"]
    x = formula_images((len(t), 3, flags.image_size, flags.image_size))
    labels = (OPTIONS[f"{case}/labels"],) if f"{case}/labels" in OPTIONS else ()

    def outputs(dtype: torch.dtype) -> Tensor:
        return pipeline.unet.to(dtype)(x.to(dtype), t, *labels).sample[:, :, ::4, ::4]

    assert type(pipeline.unet) is kind and converted.unused_keys == []
    assert largest(outputs(torch.float32), OPTIONS[f"{case}/out"]) <= SINGLE
    if kind is not UNet2DModel:  # whose sinusoids stay in float32
        assert largest(outputs(torch.float64), OPTIONS[f"{case}/out"]) <= DOUBLE
    betas = pipeline.scheduler.process.table["betas"]
    ends = betas[[0, 1, len(betas) // 2, -2, -1]]
    assert largest(ends, OPTIONS[f"{case}/betas"]) <= 1e-12


@pytest.mark.parametrize("case, channels", [("deepinv_small", 128), ("deepinv_large", 256)])
def test_deepinvs_networks_have_the_keys_that_its_flags_ask_for(case, channels):
    weights = {name: torch.empty(shape, device="meta") for name, shape in OPTIONS.shapes(case).items()}
    converted = convert_weights(weights, read_flags("", "deepinv", channels))
    assert type(converted.pipeline.unet) is UNet2DModel
    assert converted.unused_keys == ["sqrt_1m_alphas_cumprod", "sqrt_alphas_cumprod"]  # its table of noise levels


def test_deepinvs_network_computes_the_same():
    deepinv = pytest.importorskip("deepinv")
    theirs = deepinv.models.DiffUNet(pretrained=None).eval()
    theirs.load_state_dict(formula_weights(OPTIONS.shapes("deepinv_small")))
    ours = convert_weights(theirs.state_dict(), read_flags("", "deepinv", 128)).pipeline.unet
    x, t = formula_images((2, 3, 32, 32)).float(), torch.tensor([3, 900])
    with torch.no_grad():
        assert largest(ours(x, t).sample, theirs(x, t, type_t="timestep")) <= SINGLE


RESPACED = [
    tag for tag in golden("sampling").children() if spec_of(tag) and f"{tag}/use_timesteps" in golden("sampling")
]


@pytest.mark.parametrize("tag", RESPACED)
@torch.no_grad()
def test_network_and_scheduler_take_openais_steps(tag, monkeypatch):
    """Ancestral steps with a learned range on the set's tables, written out, with a network that is told rescaled
    timesteps; each from where ours has come to, since a random network soon magnifies rounding."""
    schedule, steps = tag.split("_")[:2]
    folder, _, library, flags = CASES[0]

    def convert(rescale: bool) -> ImprovedDDPMPipeline:
        changes = {"diffusion_steps": steps, "noise_schedule": schedule, "rescale_timesteps": rescale}
        pipeline = convert_openai(folder / "model.safetensors", command_line(flags, **changes), library).pipeline
        pipeline.unet.double()
        return pipeline

    names = ("use_timesteps", "betas", "alphas_cumprod", "posterior_log_variance_clipped")
    names += ("posterior_mean_coef1", "posterior_mean_coef2")
    table = {name: golden("sampling")[f"{tag}/{name}"] for name in names}
    pipeline, network = convert(rescale=True), convert(rescale=False).unet
    pipeline.scheduler.set_timesteps(spec_of(tag))
    assert pipeline.scheduler.timesteps.tolist() == table["use_timesteps"].flip(0).tolist()
    noise = formula_images((1, 3, flags["image_size"], flags["image_size"]))
    monkeypatch.setattr(scheduling_improved_ddpm, "randn_tensor", lambda *_, **__: noise)
    x, labels = noise, torch.tensor([1])
    for row in reversed(range(0, len(table["betas"]), 3)):
        t = table["use_timesteps"][row]
        eps, v = network(x, t.double() * 1000 / int(steps), labels).sample.chunk(2, dim=1)
        alpha_bar = table["alphas_cumprod"][row]
        x_0 = ((x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()).clamp(-1, 1)
        mean = table["posterior_mean_coef1"][row] * x_0 + table["posterior_mean_coef2"][row] * x
        low, high = table["posterior_log_variance_clipped"][row], table["betas"][row].log()
        log_variance = (v + 1) / 2 * high + (1 - v) / 2 * low
        expected = mean + (0.5 * log_variance).exp() * noise if row else mean
        x = pipeline.scheduler.step(pipeline.unet(x, t, labels).sample, t, x).prev_sample
        assert largest(x, expected) <= SAMPLES, f"at timestep {t}"
