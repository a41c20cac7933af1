"""What a network makes of each step of the process, measured on real images at some of the steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_ext.diffusion import FlowMatching
from ddpm_ext.diffusion.losses import bound_term_bpd, simple_loss
from ddpm_ext.diffusion.parameterization import clip_to, variance_fraction
from ddpm_ext.randomness import generator_for

from .reported_model import RealImages, ReportedModel


_MOST_PIXELS = 4096  # at each timestep, of which a learned variance is looked at


@dataclass(frozen=True)
class Steps:
    """S timesteps, rising, of N images: the terms of the bound, bits/dim, and the losses of what the network predicts,
    (S, N), and of a learned variance M values: `fractions` between its bounds (`learned_range`) or `log_variances`
    (`learned`), (S, M)."""

    timesteps: list[int]
    terms_bpd: Tensor
    losses: Tensor
    fractions: Tensor | None
    log_variances: Tensor | None


def network_of(model: ReportedModel, labels: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The network's output for x_t and t, told the labels where the model is class-conditional."""
    arguments = () if labels is None else (labels,)
    return lambda x_t, t: model.pipeline.unet(x_t, t, *arguments).sample


def x_0_predictor(model: ReportedModel, labels: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The x_0 that the network predicts from x_t at t, clipped as in sampling."""
    scheduler, process, network = model.scheduler, model.process, network_of(model, labels)

    @torch.no_grad()
    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        if isinstance(process, FlowMatching):
            return process.predict_x_0(network(x_t, t), x_t, t)
        reverse = scheduler.parameterization.reverse(process, network(x_t, t), x_t, t, scheduler.clip)
        return reverse.x_0

    return predict


def chosen_timesteps(num_timesteps: int) -> list[int]:
    """About fifty, rising from 0 to T-1: half of them evenly spaced, half of them denser towards the image."""
    evenly = torch.linspace(0, num_timesteps - 1, 26, dtype=torch.float64)
    denser = torch.logspace(0, math.log10(num_timesteps), 26, dtype=torch.float64) - 1
    return torch.cat([evenly, denser]).round().long().unique().tolist()


@torch.no_grad()
def measure_steps(model: ReportedModel, images: RealImages, seed: int) -> Steps:
    """The steps of the training chain at `chosen_timesteps`, with fresh noise at each."""
    scheduler, x_0 = model.scheduler, images.x_0
    process, parameterization = scheduler.process, scheduler.parameterization
    network = network_of(model, images.labels)
    timesteps = chosen_timesteps(process.num_timesteps)
    terms, losses, variances = [], [], []
    for timestep in timesteps:
        noise = torch.randn(x_0.shape, generator=generator_for(seed, "report", timestep)).to(x_0.device)
        t = torch.full((len(x_0),), timestep, device=x_0.device)
        x_t = process.add_noise(x_0, noise, timestep)
        output = network(x_t, t)
        reverse = parameterization.reverse(process, output, x_t, timestep, clip_to(1.0)).distribution
        terms.append(bound_term_bpd(process, reverse, x_0, x_t, timestep).cpu())
        losses.append(simple_loss(process, parameterization, output, x_0, x_t, noise, t).cpu())
        _, variance = parameterization.split(output, x_t)
        if variance is not None:
            values = variance.flatten().cpu()
            variances.append(values[:: -(-len(values) // _MOST_PIXELS)])
    learned = torch.stack(variances) if variances else None
    is_range = parameterization.variance_type == "learned_range"
    return Steps(
        timesteps,
        torch.stack(terms),
        torch.stack(losses),
        variance_fraction(learned) if learned is not None and is_range else None,
        learned if not is_range else None,
    )
