"""The tables of whole and respaced chains, and the steps that are kept, are OpenAI's."""

import pytest
import torch

from ddpm_ext.diffusion.respacing import space_timesteps
from tests.golden_set import TABLES, error, golden, process_of, spec_of


COLUMNS = {
    "betas": "betas",
    "alphas_cumprod": "alphas_cumprod",
    "posterior_variance": "posterior_variance",
    "posterior_log_variance_clipped": "posterior_log_variance",
    "posterior_mean_coef1": "posterior_mean_coef_x_0",
    "posterior_mean_coef2": "posterior_mean_coef_x_t",
    "fixed_large_variance": "fixed_large_variance",
    "fixed_large_log_variance": "fixed_large_log_variance",
}

SCHEDULES = golden("schedules")
SAMPLING = golden("sampling")
RESPACED = [tag for tag in SAMPLING.children() if spec_of(tag)]
SPACINGS = [(int(steps), spec) for steps, spec in SAMPLING.paths("space_timesteps")]


@pytest.mark.parametrize("tag", SCHEDULES.children())
def test_tables_of_whole_chains(tag):
    table = process_of(tag).table
    errors = {name: error(table[COLUMNS[name]], SCHEDULES[f"{tag}/{name}"]) for name in SCHEDULES.children(tag)}
    assert errors and max(errors.values()) <= TABLES, errors


@pytest.mark.parametrize("tag", RESPACED)
def test_tables_of_respaced_chains(tag):
    process = process_of(tag)
    assert process.timesteps.tolist() == SAMPLING[f"{tag}/use_timesteps"].tolist()
    names = [name for name in SAMPLING.children(tag) if name in COLUMNS]
    errors = {name: error(process.table[COLUMNS[name]], SAMPLING[f"{tag}/{name}"]) for name in names}
    assert errors and max(errors.values()) <= TABLES, errors


@pytest.mark.parametrize("steps, spec", SPACINGS)
def test_the_steps_kept_are_openais(steps, spec):
    assert space_timesteps(steps, spec).tolist() == SAMPLING[f"space_timesteps/{steps}/{spec}"].tolist()


@pytest.mark.parametrize("steps, spec", [case for case in SPACINGS if case[1].isdecimal() and int(case[1]) > 1])
def test_a_number_of_steps_spaced_by_linspace_equals_openais_striding(steps, spec):
    """A single step is the exception: OpenAI's "1" keeps t = 0, where nothing is left to remove; our 1 keeps T-1."""
    assert torch.equal(space_timesteps(steps, int(spec)), SAMPLING[f"space_timesteps/{steps}/{spec}"])
