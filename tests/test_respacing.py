"""Shorter chains: which steps they visit, and that their marginals are the training chain's."""

import random

import pytest
import torch

from ddpm_ext.diffusion import GaussianDiffusion, make_betas
from ddpm_ext.diffusion.respacing import TIMESTEP_SPACINGS, space_timesteps
from ddpm_ext.schedulers import ImprovedDDPMScheduler


T = 97
PROCESS = GaussianDiffusion(make_betas("cosine", T))


def assert_same_marginals(respaced: GaussianDiffusion, training: GaussianDiffusion) -> None:
    """To float64's rounding: the respaced table is made from betas, as the reference's is."""
    expected = training.table["alphas_cumprod"][respaced.timesteps]
    torch.testing.assert_close(respaced.table["alphas_cumprod"], expected, rtol=1e-12, atol=1e-15)
    composed = (1 - respaced.table["betas"]).cumprod(0)
    torch.testing.assert_close(composed, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
def test_respacing_keeps_the_marginals(spacing):
    for count in range(1, T + 1):
        assert_same_marginals(PROCESS.respace(space_timesteps(T, count, spacing)), PROCESS)


def test_respacing_to_any_subset_keeps_the_marginals():
    draw = random.Random(0)
    for count in range(1, T + 1):
        subset = draw.sample(range(T), count)
        respaced = PROCESS.respace(subset)
        assert respaced.timesteps.tolist() == sorted(subset)
        assert_same_marginals(respaced, PROCESS)


def test_respacing_a_respaced_chain_starts_from_the_training_chain():
    once, twice = PROCESS.respace([3, 50, 96]), PROCESS.respace(range(0, T, 2)).respace([3, 50, 96])
    assert all(torch.equal(once.table[name], twice.table[name]) for name in once.table)
    assert twice.training_chain is PROCESS


def test_visiting_every_step_is_the_training_chain():
    assert PROCESS.respace(torch.arange(T)) is PROCESS


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
@pytest.mark.parametrize("steps", (1, 2, 10, 97, 400, 1000))
def test_chains_of_every_length_start_at_the_noisiest_step(spacing, steps):
    for count in range(1, steps + 1):
        kept = space_timesteps(steps, count, spacing)
        assert len(kept) == count and kept[-1] == steps - 1 and kept[0] >= 0
        assert (kept.diff() > 0).all()
        if spacing == "linspace" and count > 1:
            assert kept[0] == 0


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
def test_the_steps_of_every_chain_tile_the_training_chain(spacing):
    """Each step goes from t to the t of the next, without gap or overlap, and the last to the data."""
    scheduler = ImprovedDDPMScheduler(num_train_timesteps=T, timestep_spacing=spacing)
    for count in range(1, T + 1):
        scheduler.set_timesteps(count)
        spans = [(scheduler.previous_timestep(t) + 1, int(t) + 1) for t in scheduler.timesteps]
        tiles = [step for start, end in reversed(spans) for step in range(start, end)]
        assert tiles == list(range(T)), count


def test_steps_are_spread_evenly():
    for count in range(2, T + 1):
        gaps = space_timesteps(T, count).diff()
        assert int(gaps.max() - gaps.min()) <= 1, count


@pytest.mark.parametrize(
    "steps, spec",
    ((100, "10,15,25"), (103, "10,0,5,1"), (T, "ddim10"), (1000, "ddim50"), (10, "3"), (7, "7"), (9, "1, 2, 3")),
)
def test_sections_keep_as_many_steps_as_they_say(steps, spec):
    kept = space_timesteps(steps, spec)
    expected = int(spec[4:]) if spec.startswith("ddim") else sum(int(part) for part in spec.split(","))
    assert len(kept) == expected and kept[0] >= 0 and kept[-1] < steps and (kept.diff() > 0).all()


@pytest.mark.parametrize(
    "spec, sentence",
    (
        (0, "`num_inference_steps` is 0"),
        (-1, "`num_inference_steps` is -1"),
        (T + 1, f"`num_inference_steps` is {T + 1}: a whole number from 1 to {T}"),
        (10.0, r"`num_inference_steps` is 10\.0"),
        (True, "`num_inference_steps` is True"),
        (None, "`num_inference_steps` is None"),
        ("", "`num_inference_steps` is ''"),
        ("ten", "`num_inference_steps` is 'ten'"),
        ("10,,5", "`num_inference_steps` is '10,,5'"),
        ("-5", "`num_inference_steps` is '-5'"),
        ("0", "`num_inference_steps` is '0': at least one step"),
        ("10,60", "`num_inference_steps` is '10,60': section 2 has 48 of the 97 steps"),
        ("98", "section 1 has 97 of the 97 steps, so it cannot keep 98"),
        ("ddim", "`num_inference_steps` is 'ddim'"),
        ("ddim60", "`num_inference_steps` is 'ddim60': no whole stride visits exactly 60 of 97 steps"),
        ("ddim0", "`num_inference_steps` is 'ddim0'"),
        ("ddim-5", "`num_inference_steps` is 'ddim-5'"),
    ),
)
def test_impossible_numbers_of_steps_are_refused(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        space_timesteps(T, spec)


@pytest.mark.parametrize(
    "timesteps, sentence",
    (
        ([], r"`timesteps` has shape \(0,\)"),
        ([[1, 2]], r"`timesteps` has shape \(1, 2\)"),
        ([3, 5, 3], "`timesteps` holds 3 more than once"),
        ([0, T], f"`timesteps` holds {T}: this chain has the timesteps 0 to {T - 1}"),
        ([-1, 5], "`timesteps` holds -1"),
        ([1.5, 2.0], r"`timesteps` holds 1\.5: whole numbers are accepted"),
        ([float("nan")], "`timesteps` holds nan"),
        (range(T + 1), f"`timesteps` holds {T}"),
    ),
)
def test_timesteps_that_make_no_chain_are_refused(timesteps, sentence):
    with pytest.raises(ValueError, match=sentence):
        PROCESS.respace(timesteps)
