"""Whole trajectories, ancestral and DDIM, on full and respaced chains, are those of OpenAI's code.

They go through the scheduler, as a user's samples do, with the set's noise in place of drawn noise. For networks that
predict the posterior mean (`prev`) the reference is wrong in one thing and different in another. Under respacing it
reads the mean with the coefficients of the respaced chain, which is wrong: those trajectories are left out, and
`test_closed_forms.py` says what is right. And its clipping does not reach the mean: its ancestral trajectories are
compared with ours unclipped.
"""

import pytest
import torch

from ddpm_ext.diffusion import Parameterization
from ddpm_ext.diffusion.parameterization import clip_to, predict_epsilon
from ddpm_ext.schedulers import ImprovedDDPMScheduler, scheduling_improved_ddpm
from tests.golden_set import (
    PREDICTION_TYPES,
    SAMPLES,
    error,
    golden,
    process_of,
    schedule_arguments,
    spec_of,
    toy_model,
)


FILE = golden("sampling")
TAGS = [tag for tag in FILE.children() if f"{tag}/x_T" in FILE]
LABELS = [(tag, label) for tag in TAGS for label in FILE.children(tag, "f64")]
SAMPLED = [(tag, label) for tag, label in LABELS if "reverse" not in label and not ("_prev" in label and spec_of(tag))]


@pytest.mark.parametrize("tag, label", SAMPLED)
def test_trajectory(tag, label, monkeypatch):
    sampler, mean, *rest = label.split("_")
    variance = "_".join(word for word in rest if word in ("fixed", "learned", "small", "large", "range"))
    eta = None if sampler == "anc" else float(f"{sampler[4]}.{sampler[5:] or 0}")  # "ddim05" is eta = 0.5
    rescaled, is_raw_mean = "rescaled" in rest, mean == "prev" and eta is None
    scheduler = ImprovedDDPMScheduler(
        **schedule_arguments(tag),
        prediction_type=PREDICTION_TYPES[mean],
        variance_type=variance or "fixed_small",
        clip_sample="noclip" not in rest and not is_raw_mean,
    )
    scheduler.set_timesteps(spec_of(tag) or len(scheduler))
    x, noise = FILE[f"{tag}/x_T"], FILE[f"{tag}/noise"]
    told = FILE[f"{tag}/model_t{'_rescaled' * rescaled}"].tolist()  # rescaled ones are rounded to float32 there
    assert told == pytest.approx((scheduler.timesteps * (1000 / len(scheduler) if rescaled else 1)).tolist(), rel=1e-6)
    snapshots = {step: i for i, step in enumerate(FILE[f"{tag}/snap_steps"].tolist())}
    samples, x_0 = FILE[f"{tag}/f64/{label}/samples"], FILE[f"{tag}/f64/{label}/pred_xstart"]
    for i, t in enumerate(scheduler.timesteps.tolist()):
        monkeypatch.setattr(scheduling_improved_ddpm, "randn_tensor", lambda *_, i=i, **__: noise[i])
        output = toy_model(x, told[i], scheduler.parameterization)
        step = scheduler.step(output, t, x, eta=eta)
        x, estimate = step.prev_sample, step.pred_original_sample
        if i in snapshots:
            assert error(x, samples[snapshots[i]], floor=1) <= SAMPLES, f"x after step {i}"
            estimate = estimate.clamp(-1, 1) if is_raw_mean else estimate
            assert error(estimate, x_0[snapshots[i]], floor=1) <= SAMPLES, f"x_0 at step {i}"


@pytest.mark.parametrize(
    "tag, label", [(tag, label) for tag, label in LABELS if "reverse" in label and "prev" not in label]
)
def test_encoding_by_ddim(tag, label):
    """Deterministic DDIM run from data to noise: x_0 is estimated at t and noised to t + 1 with its own noise."""
    process = process_of(tag)
    parameterization = Parameterization(PREDICTION_TYPES[label.removeprefix("ddim_reverse_")])
    x, found = 0.5 * FILE[f"{tag}/x_T"], []
    for t, told in enumerate(process.timesteps.tolist()):
        x_0 = clip_to(1.0)(parameterization.predict_x_0(process, toy_model(x, told, parameterization), x, t))
        noise = predict_epsilon(process, x_0, x, t)
        x = process.add_noise(x_0, noise, t + 1) if t + 1 < process.num_timesteps else noise
        found.append(x)
    expected = FILE[f"{tag}/f64/{label}/samples"]
    assert error(torch.stack(found[-len(expected) :]), expected, floor=1) <= SAMPLES
