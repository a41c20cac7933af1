"""The forward process: its marginals, its posterior's shape, its reading of `t`, and what it refuses."""

import math

import pytest
import torch

from ddpm_ext.diffusion import (
    BETA_SCHEDULES,
    Gaussian,
    GaussianDiffusion,
    canonical_beta_schedule,
    kl_divergence,
    make_betas,
    rescale_zero_terminal_snr,
)
from ddpm_ext.diffusion.noise_schedules import linear_ends


T = 60
EXACT = 1e-12
PROCESS = GaussianDiffusion(make_betas("cosine", T))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ schedules


@pytest.mark.parametrize("schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("steps", (1, 2, 37, 1000, 4000))
def test_schedules_exist_for_every_length(schedule, steps):
    betas = make_betas(schedule, steps)
    assert betas.dtype == torch.float64 and betas.shape == (steps,)
    assert (betas > 0).all() and (betas < 1).all() and (betas.diff() >= 0).all()
    assert GaussianDiffusion(betas).num_timesteps == steps


@pytest.mark.parametrize("alias, name", (("quad", "scaled_linear"), ("cosine", "squaredcos_cap_v2")))
def test_names_of_the_literature_mean_those_of_diffusers(alias, name):
    assert canonical_beta_schedule(alias) == name
    assert torch.equal(make_betas(alias, T), make_betas(name, T))


@pytest.mark.parametrize("schedule", ("linear", "quad", "sigmoid"))
def test_schedules_with_ends_reach_them(schedule):
    betas = make_betas(schedule, T, 0.001, 0.3)
    ends = (0.001, 0.3)
    if schedule == "sigmoid":  # a logistic curve over [-6, 6] stops short of both
        ends = tuple(0.001 + 0.299 / (1 + math.exp(-x)) for x in (-6, 6))
    assert (float(betas[0]), float(betas[-1])) == pytest.approx(ends, rel=EXACT)


@pytest.mark.parametrize("steps", (100, 250, 1000, 4000))
def test_linear_ends_leave_as_much_signal_as_a_thousand_steps_do(steps):
    start, end = linear_ends(steps)
    assert (start, end) == pytest.approx((0.1 / steps, 20 / steps), rel=EXACT)
    signal = GaussianDiffusion(make_betas("linear", steps, start, end)).table["alphas_cumprod"][-1]
    whole = GaussianDiffusion(make_betas("linear", 1000)).table["alphas_cumprod"][-1]
    assert math.log(signal) == pytest.approx(math.log(whole), rel=0.1)


@pytest.mark.parametrize("schedule", BETA_SCHEDULES)
def test_zero_terminal_snr_leaves_no_signal_and_keeps_the_first_step(schedule):
    betas = make_betas(schedule, T)
    process = GaussianDiffusion(rescale_zero_terminal_snr(betas))
    assert process.table["betas"][-1] == 1 and process.table["alphas_cumprod"][-1] == 0 and process.snr(T - 1) == 0
    assert float(process.table["betas"][0]) == pytest.approx(float(betas[0]), rel=1e-9)
    assert all(column.isfinite().all() for column in process.table.values())


@pytest.mark.parametrize(
    "arguments, sentence",
    (
        (("lineer", 10), r"`beta_schedule` is 'lineer'.*Did you mean 'linear'\?"),
        (("linear", 0), "`num_train_timesteps` is 0"),
        (("linear", 10.0), r"`num_train_timesteps` is 10\.0"),
        (("linear", True), "`num_train_timesteps` is True"),
        (("linear", 10, 0.0), r"`beta_start` is 0\.0"),
        (("sigmoid", 10, 0.1, 1.5), r"`beta_end` is 1\.5"),
        (("quad", 10, float("nan")), "`beta_start` is nan"),
    ),
)
def test_schedules_that_cannot_be_made_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_betas(*arguments)


def test_ends_that_scale_beyond_one_are_refused():
    with pytest.raises(ValueError, match="`num_train_timesteps` is 20"):
        linear_ends(20)


# ------------------------------------------------------------------ the table


def test_marginals_are_the_composition_of_the_steps():
    signal, variance = 1.0, 0.0
    for t, beta in enumerate(PROCESS.table["betas"].tolist()):
        signal, variance = math.sqrt(1 - beta) * signal, (1 - beta) * variance + beta
        x_t = PROCESS.add_noise(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64), t)
        assert float(x_t) == pytest.approx(signal, rel=EXACT)
        noise = PROCESS.add_noise(torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64), t)
        assert float(noise) ** 2 == pytest.approx(variance, rel=EXACT)
        assert float(PROCESS.snr(t)) == pytest.approx(signal**2 / variance, rel=EXACT)


def test_one_step_after_the_other_arrives_at_the_marginal():
    signal, variance, zero, one = torch.ones(1).double(), torch.zeros(1).double(), torch.zeros(1).double(), 1.0
    for t in range(T):
        signal = PROCESS.diffuse(signal, zero, t)
        variance = PROCESS.diffuse(variance.sqrt(), zero, t) ** 2 + PROCESS.diffuse(zero, zero + one, t) ** 2
        assert float(signal) == pytest.approx(float(PROCESS.add_noise(zero + one, zero, t)), rel=EXACT)
        assert float(variance) == pytest.approx(float(PROCESS.add_noise(zero, zero + one, t)) ** 2, rel=EXACT)


def test_the_first_steps_posterior_is_a_point_that_borrows_a_variance():
    x_0, x_t = normal(2, 4, 3)
    first = PROCESS.posterior(x_0, x_t, 0)
    torch.testing.assert_close(first.mean, x_0, rtol=EXACT, atol=EXACT)
    assert PROCESS.table["posterior_variance"][0] == 0
    assert first.log_variance == pytest.approx(float(PROCESS.table["posterior_variance"][1].log()), rel=EXACT)


def test_a_chain_of_one_step_goes_straight_to_the_data():
    process = GaussianDiffusion([0.7])
    x_0, x_t = normal(2, 4, 3)
    torch.testing.assert_close(process.posterior_mean(x_0, x_t, 0), x_0)
    assert all(column.isfinite().all() for column in process.table.values())


def test_prior_is_close_to_pure_noise():
    prior = PROCESS.prior(normal(4, 3).clamp(-1, 1))
    assert (kl_divergence(prior, Gaussian(torch.zeros_like(prior.mean), 0.0)) < 1e-3).all()


# ------------------------------------------------------------------ reading t


@pytest.mark.parametrize("shape", ((T,), (T, 2), (T, 3, 5), (T, 1, 4, 4), (T, 2, 2, 3, 3)))
def test_one_row_per_sample_equals_one_row_for_the_batch(shape):
    """`t` as a LongTensor and as an int, for samples of any shape."""
    x_0, noise = normal(*shape), normal(*shape, seed=1)
    rows = torch.arange(T)
    x_t = PROCESS.add_noise(x_0, noise, rows)
    posterior, snr = PROCESS.posterior(x_0, x_t, rows), PROCESS.snr(rows)
    assert x_t.shape == shape
    for t in (0, 1, T // 2, T - 1):
        one = slice(t, t + 1)
        torch.testing.assert_close(PROCESS.add_noise(x_0[one], noise[one], t), x_t[one], rtol=EXACT, atol=EXACT)
        alone = PROCESS.posterior(x_0[one], x_t[one], t)
        torch.testing.assert_close(alone.mean, posterior.mean[one], rtol=EXACT, atol=EXACT)
        assert float(posterior.log_variance[t]) == pytest.approx(alone.log_variance, rel=EXACT)
        assert PROCESS.snr(t) == snr[t]


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
def test_coefficients_are_rounded_once_and_to_float32_at_least(dtype):
    x = torch.ones(T, 1, dtype=dtype)
    coefficients = PROCESS.coefficient("sqrt_alphas_cumprod", torch.arange(T), x)
    assert coefficients.dtype == torch.float32
    assert torch.equal(coefficients.flatten(), PROCESS.table["sqrt_alphas_cumprod"].float())


def test_fractional_timesteps_lie_between_their_rows():
    """Signal and noise at t are those of the sigma that t stands for, and t comes back from that sigma."""
    like = torch.ones(1, 1, dtype=torch.float64)
    for t in (0.25, 7.5, T - 1.75):
        signal = PROCESS.coefficient("sqrt_alphas_cumprod", t, like)
        noise = PROCESS.coefficient("sqrt_one_minus_alphas_cumprod", t, like)
        assert signal**2 + noise**2 == pytest.approx(1, rel=EXACT)
        assert PROCESS.timestep_of_sigma(noise / signal) == pytest.approx(t, rel=1e-9)
        below, above = (PROCESS.coefficient("sqrt_alphas_cumprod", int(t) + i, like) for i in (1, 0))
        assert below < signal < above


def test_sigmas_of_whole_timesteps_give_them_back():
    abar = PROCESS.table["alphas_cumprod"]
    for t, sigma in enumerate(((1 - abar) / abar).sqrt().float().tolist()):
        found = PROCESS.timestep_of_sigma(sigma)
        assert isinstance(found, int) and found == t


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "betas, sentence",
    (
        ([], r"`betas` has shape \(0,\)"),
        ([[0.1, 0.2]], r"`betas` has shape \(1, 2\)"),
        (0.1, r"`betas` has shape \(\)"),
        ([0.1, 0.0, 0.2], "`betas` holds 0 at step 1"),
        ([0.1, -0.5], "`betas` holds -0.5 at step 1"),
        ([0.1, 1.5], r"`betas` holds 1.5 at step 1: every variance must lie in \(0, 1\]"),
        ([float("nan"), 0.1], "`betas` holds nan at step 0"),
        ([0.1, 1e-20, 0.1], "`betas` leaves alphas_cumprod at 0.9 at step 1: it must decrease"),
        ([0.1, 1.0, 0.5], "`betas` leaves alphas_cumprod at 0 at step 2: it must decrease"),
    ),
)
def test_betas_that_make_no_chain_are_refused(betas, sentence):
    with pytest.raises(ValueError, match=sentence):
        GaussianDiffusion(betas)
