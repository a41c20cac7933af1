"""What the guide says of a loop and of a network of one's own: its code runs, and what it trains is a model as any."""

import importlib
import runpy
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from ddpm_ext.diffusion import hybrid_loss
from ddpm_ext.pipelines import ImprovedDDPMPipeline
from ddpm_ext.pipelines.loading import load_pipeline
from tests.training_helpers import Script, largest_difference, weights


GUIDE = Path(__file__).parents[1] / "docs" / "your_own.md"
FEW = "--num_train_timesteps 20 --num_inference_steps 2 --train_batch_size 4 --eval_batch_size 2".split()


def block(beginning: str) -> str:
    """The block of Python in the guide that begins so."""
    found = [part for part in GUIDE.read_text().split("```python")[1:] if part.startswith(beginning)]
    assert len(found) == 1
    return found[0].split("```")[0].partition("\n")[2]


def test_the_loop_of_ones_own_lowers_the_loss_and_leaves_a_pipeline(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    code = block("\nimport torch\nfrom diffusers import UNet2DModel").replace("range(200)", "range(25)")
    exec(code.replace("block_out_channels=(32, 64)", "block_out_channels=(32, 32)"), names)
    process, parameterization, x_0 = names["process"], names["parameterization"], names["images"][:200]
    noise, t = torch.randn_like(x_0), torch.randint(process.num_timesteps, (200,))
    x_t = process.add_noise(x_0, noise, t)
    pipeline = ImprovedDDPMPipeline.from_pretrained("own-loop")
    with torch.no_grad():
        loss = hybrid_loss(process, parameterization, pipeline.unet(x_t, t).sample, x_0, x_t, noise, t)
    first = float(capsys.readouterr().out.split("loss ")[1].split()[0])
    assert loss.mean() < first / 2
    assert load_pipeline("own-loop")(batch_size=2, num_inference_steps=2, output_type="pt").images.shape == (
        2,
        1,
        8,
        8,
    )


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The two files of the guide, in the working directory; runs the second with flags."""
    (tmp_path / "own_network.py").write_text(block(' title="own_network.py"'))
    (tmp_path / "train_own.py").write_text(block(' title="train_own.py"'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def train(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["train_own.py", *FEW, *flags])
        runpy.run_path("train_own.py", run_name="__main__")

    yield train
    sys.modules.pop("own_network", None)


@pytest.mark.parametrize("average", [[], ["--use_ema"]])
def test_a_network_of_ones_own_is_trained_resumed_and_opened(own, average):
    flags = ["--variance_type", "learned_range", "--checkpointing_steps", "2", *average]
    own(*flags, "--max_train_steps", "4", "--output_dir", "whole")
    own(*flags, "--max_train_steps", "2", "--output_dir", "parts")
    own(*flags, "--max_train_steps", "4", "--output_dir", "parts", "--resume")
    assert largest_difference(weights(Path("whole")), weights(Path("parts"))) == 0
    assert "A network (`OwnNetwork`) of " in Path("whole/README.md").read_text()

    network = sys.modules["own_network"].OwnNetwork
    for pipeline in (load_pipeline("whole"), DiffusionPipeline.from_pretrained("whole")):
        assert type(pipeline.unet) is network
        assert pipeline(batch_size=2, num_inference_steps=2, output_type="pt").images.shape == (2, 1, 8, 8)


def test_before_its_module_is_imported_the_sentence_says_so(own, script: Script):
    own("--max_train_steps", "1", "--output_dir", "whole")
    del sys.modules["own_network"]
    sentence = script.fails("sample", "--model", "whole", tiny=False)
    assert sentence == (
        "`model` is whole, whose unet is a OwnNetwork of own_network: classes of ddpm_ext and diffusers are accepted, "
        "and in Python those of modules that have been imported (`import own_network`)."
    )
    importlib.import_module("own_network")
    load_pipeline("whole")
