"""What people use today, for the benchmarks: other trainings of the same network, one update per `next`."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from datasets import load_dataset
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import transforms
from tqdm.auto import tqdm


def diffusers_steps(
    config: dict[str, object], images: Path, batch_size: int, device: str, mixed_precision: str, total: int
) -> Iterator[None]:
    """The loop of diffusers' `train_unconditional.py`, written from its description, with its defaults."""
    accelerator = _fresh_accelerator(device, mixed_precision)
    unet = UNet2DModel(**config)
    ema = EMAModel(unet.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    channels = config["in_channels"]
    augment = transforms.Compose(
        [
            transforms.Resize(config["sample_size"], interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.RandomCrop(config["sample_size"]),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    data = load_dataset("imagefolder", data_dir=str(images), split="train")
    mode = "RGB" if channels == 3 else "L"
    data.set_transform(lambda rows: {"input": [augment(image.convert(mode)) for image in rows["image"]]})
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    lr_scheduler = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=total)
    unet, optimizer, loader, lr_scheduler = accelerator.prepare(unet, optimizer, loader, lr_scheduler)
    ema.to(accelerator.device)
    bar = tqdm(total=total, disable=None)
    while True:
        unet.train()
        for batch in loader:
            clean = batch["input"]
            noise = torch.randn(clean.shape, device=clean.device)
            t = torch.randint(0, 1000, (len(clean),), device=clean.device).long()
            noisy = scheduler.add_noise(clean, noise, t)
            with accelerator.accumulate(unet):
                loss = functional.mse_loss(unet(noisy, t).sample.float(), noise.float())
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(unet.parameters(), 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                ema.step(unet.parameters())
                bar.update(1)
            bar.set_postfix(loss=loss.detach().item(), lr=lr_scheduler.get_last_lr()[0])
            yield


class _ForLucidrains(nn.Module):
    """A UNet2DModel as `denoising_diffusion_pytorch.GaussianDiffusion` wants its network."""

    self_condition = False

    def __init__(self, config: dict[str, object]) -> None:
        super().__init__()
        self.unet = UNet2DModel(**config)
        self.channels = self.out_dim = config["in_channels"]

    def forward(self, x: Tensor, t: Tensor, self_condition: None = None) -> Tensor:
        return self.unet(x, t).sample


def lucidrains_diffusion(config: dict[str, object], **options: object) -> nn.Module:
    """`GaussianDiffusion` of denoising-diffusion-pytorch around a UNet2DModel."""
    from denoising_diffusion_pytorch import GaussianDiffusion

    return GaussianDiffusion(
        _ForLucidrains(config),
        image_size=config["sample_size"],
        timesteps=1000,
        objective="pred_noise",
        beta_schedule="linear",
        **options,
    )


def denoising_diffusion_pytorch_steps(
    config: dict[str, object],
    images: Path,
    batch_size: int,
    device: str,
    mixed_precision: str,
    total: int,
    folder: Path,
) -> Iterator[None]:
    """`Trainer` of denoising-diffusion-pytorch, with its defaults."""
    from denoising_diffusion_pytorch import Trainer

    _fresh_accelerator(device, mixed_precision)
    trainer = Trainer(
        lucidrains_diffusion(config),
        str(images),
        train_batch_size=batch_size,
        train_num_steps=0,
        save_and_sample_every=10 * total,
        results_folder=str(folder),
        amp=mixed_precision != "no",
        mixed_precision_type="bf16" if mixed_precision == "no" else mixed_precision,
        calculate_fid=False,
    )
    while True:
        trainer.train_num_steps += 1
        with redirect_stdout(None):  # it says after each call that it is complete
            trainer.train()
        yield


def _fresh_accelerator(device: str, mixed_precision: str) -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision)
