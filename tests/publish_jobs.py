"""What a user does with the Hub, in one process that has no other Hub than the tests': `publish_jobs.py FOLDER`."""

import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

import ddpm_ext  # noqa: F401
from tests.training_helpers import TINY, run_main


TOKEN_FLAG = "--hub_token=hf_ofTheTests"


def train(folder: Path, repo_id: str) -> None:
    epochs = ["--train_batch_size", "360", "--save_model_epochs", "1"]  # of four updates
    hub = ["--push_to_hub", "--hub_model_id", repo_id, TOKEN_FLAG, "--hub_license", "mit"]
    run_main("ddpm_ext.train_scripts.train_unconditional", *TINY, *epochs, *hub, "--output_dir", folder)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    train(root / "run", "me/digits")
    train(root / "refused", "me/refused")
    train(root / "cut", "me/cut")
    local = DiffusionPipeline.from_pretrained(root / "run")
    print("address:", local.push_to_hub("me/public", private=False))
    local.push_to_hub("me/edited")
    with torch.no_grad():
        local.unet.conv_in.bias.add_(1)
    local.push_to_hub("me/changed")
    there = DiffusionPipeline.from_pretrained("me/digits")
    images = [
        pipe(batch_size=2, num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="pt").images
        for pipe in (DiffusionPipeline.from_pretrained(root / "run"), there)
    ]
    print("same images:", torch.equal(*images))
