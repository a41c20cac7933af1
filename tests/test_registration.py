import json
import subprocess
import sys

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from diffusers.pipelines import pipeline_loading_utils

import ddpm_ext
from ddpm_ext.registration import register
from tests.conftest import tiny_class_conditional


PIPELINES = (ddpm_ext.ClassConditionalDDPMPipeline, ddpm_ext.ImprovedDDPMPipeline)


def test_diffusers_still_keeps_the_two_private_spots():
    """A release of diffusers that moves them fails here first, and by name."""
    assert isinstance(pipeline_loading_utils.LOADABLE_CLASSES, dict)
    assert "ddpm_ext" in pipeline_loading_utils.LOADABLE_CLASSES
    for pipeline in PIPELINES:
        assert pipeline_loading_utils._get_pipeline_class(DiffusionPipeline, {"_class_name": pipeline.__name__}) is (
            pipeline
        )


def test_the_package_shows_what_a_saved_index_is_resolved_with():
    assert ddpm_ext.ModelMixin is diffusers.ModelMixin
    assert ddpm_ext.SchedulerMixin is diffusers.SchedulerMixin
    for name in ddpm_ext.__all__:
        assert hasattr(ddpm_ext, name)


@pytest.mark.parametrize(
    "lines",
    [
        "from diffusers import DiffusionPipeline; import diffusers, ddpm_ext",
        "import diffusers; import ddpm_ext; diffusers.DDPMPipeline",
        "from ddpm_ext import ImprovedDDPMPipeline; import diffusers",
    ],
)
def test_the_order_of_imports_does_not_matter(lines):
    """The second: as soon as diffusers has any pipeline, it has ours."""
    check = "; assert diffusers.ImprovedDDPMPipeline is ddpm_ext.ImprovedDDPMPipeline"
    subprocess.run([sys.executable, "-c", f"{lines}; import ddpm_ext{check}"], check=True, timeout=120)


def test_importing_the_package_alone_imports_nothing_heavy():
    check = "import ddpm_ext, sys; assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)


def test_help_needs_neither_torch_nor_diffusers():
    check = (
        "import sys; sys.argv = ['x', '--help']\n"
        "from ddpm_ext.train_scripts.train_unconditional import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120, stdout=subprocess.DEVNULL)


def test_registering_twice_changes_nothing():
    before = dict(pipeline_loading_utils.LOADABLE_CLASSES)
    register(*PIPELINES)
    assert pipeline_loading_utils.LOADABLE_CLASSES == before


def test_a_saved_index_names_the_package_and_the_class(saved):
    index = json.loads((saved("class_conditional") / "model_index.json").read_text())
    assert index["_class_name"] == "ClassConditionalDDPMPipeline"
    assert index["unet"] == ["ddpm_ext", "ClassConditionalUNet2DModel"]
    assert index["scheduler"] == ["ddpm_ext", "ImprovedDDPMScheduler"]
    index = json.loads((saved("unconditional") / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DModel"]


def test_a_loaded_pipeline_saves_the_same_index(saved, tmp_path):
    DiffusionPipeline.from_pretrained(saved("class_conditional")).save_pretrained(tmp_path)
    original = json.loads((saved("class_conditional") / "model_index.json").read_text())
    copy = json.loads((tmp_path / "model_index.json").read_text())
    assert {**copy, "_name_or_path": None} == {**original, "_name_or_path": None}


LOAD = """
import sys, torch, ddpm_ext
from diffusers import DiffusionPipeline
for folder, labels in ((sys.argv[1], {}), (sys.argv[2], {"class_labels": ["bird", 0]})):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    batch = {} if labels else {"batch_size": 2}
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    images = pipeline(**labels, **batch, generator=generators, num_inference_steps=4, output_type="pt").images
    torch.save((type(pipeline).__name__, images), folder + ".pt")
"""


def test_importing_the_package_is_all_that_from_pretrained_needs_and_another_process_draws_the_same(saved, tmp_path):
    folders = {name: saved(name) for name in ("unconditional", "class_conditional")}
    subprocess.run([sys.executable, "-c", LOAD, *map(str, folders.values())], check=True, cwd=tmp_path, timeout=120)
    for name, folder in folders.items():
        class_name, images = torch.load(f"{folder}.pt")
        pipeline = DiffusionPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        assert class_name == type(pipeline).__name__
        what = {"class_labels": ["bird", 0]} if name == "class_conditional" else {"batch_size": 2}
        generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
        torch.testing.assert_close(
            pipeline(**what, generator=generators, num_inference_steps=4, output_type="pt").images, images
        )


def test_a_class_conditional_folder_also_opens_as_a_stock_unet(tmp_path):
    pipeline = tiny_class_conditional()
    pipeline.save_pretrained(tmp_path)
    stock = UNet2DModel.from_pretrained(tmp_path / "unet").eval()
    assert type(stock) is UNet2DModel
    x, t, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 10, 999]), torch.tensor([0, 2, 3])
    torch.testing.assert_close(stock(x, t, labels).sample, pipeline.unet(x, t, labels).sample, rtol=0, atol=0)
