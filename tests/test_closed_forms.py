"""Gaussian data, whose perfect denoiser is known: sampling recovers the data, and gradients and variances agree.

Each reverse step is then affine with Gaussian noise, so the mean and the variance of the samples follow exactly,
without drawing any.
"""

import itertools
import math

import pytest
import torch

from ddpm_ext.diffusion import (
    PREDICTION_TYPES,
    VARIANCE_TYPES,
    Gaussian,
    GaussianDiffusion,
    Parameterization,
    discretized_log_likelihood,
    make_betas,
    rescale_zero_terminal_snr,
    simple_loss,
    vlb_terms_bpd,
)
from ddpm_ext.diffusion.parameterization import ddim_distribution, predict_epsilon, predict_velocity
from ddpm_ext.diffusion.respacing import space_timesteps
from ddpm_ext.schedulers import ImprovedDDPMScheduler
from tests.gaussian_data import GaussianData, expected_moments, sampled_moments


T = 1000
DATA = GaussianData(mean=0.3, deviation=0.5)
SCHEDULES = ("linear", "quad", "cosine", "sigmoid", "zero_snr")
EXACT = 1e-9  # float64; x_0 from epsilon has lost up to five digits where little is left of the signal

_betas = {schedule: make_betas(schedule, T) for schedule in SCHEDULES[:4]}
_betas["zero_snr"] = rescale_zero_terminal_snr(_betas["linear"])
PROCESSES = {schedule: GaussianDiffusion(betas) for schedule, betas in _betas.items()}


def affine_steps(process, parameterization, eta=None) -> list[tuple[float, float, float]]:
    """(slope, intercept, variance) of every reverse step of the perfect network, in the order of sampling."""
    t = torch.arange(process.num_timesteps)
    means = []
    for value in (0.0, 1.0):
        x_t = torch.full((len(t), 1), value, dtype=torch.float64)
        output = DATA.perfect_output(process, parameterization, x_t, t)
        x_0, distribution = parameterization.reverse(process, output, x_t, t)
        if eta is not None:
            distribution = ddim_distribution(process, x_0, x_t, t, eta)
        means.append(distribution.mean.flatten())
    variances = distribution.log_variance.exp().flatten()
    variances[0] = 0  # the last step returns its mean
    return list(zip((means[1] - means[0]).tolist(), means[0].tolist(), variances.tolist(), strict=True))[::-1]


@pytest.mark.parametrize(
    "schedule, prediction_type, variance_type",
    [
        (schedule, *types)
        for schedule, *types in itertools.product(SCHEDULES, PREDICTION_TYPES, VARIANCE_TYPES)
        if (schedule, types[0]) != ("zero_snr", "epsilon")  # without signal the noise says nothing of x_0
    ],
)
def test_ancestral_sampling_recovers_mean_and_variance(schedule, prediction_type, variance_type):
    """For 1 to T steps, to the last digits; what a fixed variance loses in few steps is known and is in it."""
    parameterization = Parameterization(prediction_type, variance_type)
    for count in (1, 2, 10, 50, T):
        process = PROCESSES[schedule].respace(space_timesteps(T, count))
        abar = process.table["alphas_cumprod"]
        start = [float(moment) for moment in DATA.marginal(abar[-1])]
        found = sampled_moments(affine_steps(process, parameterization), *start)
        # A respaced table is made from betas; one of nearly 1 keeps few digits of the alphas_cumprod that it leaves.
        tolerance = EXACT + (2e-16 / float(abar[-1]) if prediction_type == "epsilon" else 0.0)
        assert found == pytest.approx(expected_moments(DATA, abar, variance_type), rel=tolerance), f"{count} steps"
        if parameterization.learns_variance:
            _, last = DATA.x_0_given_x_t(abar[0], torch.zeros(()))
            assert found == pytest.approx((DATA.mean, DATA.deviation**2 - float(last)), rel=tolerance), (
                f"{count} steps"
            )
    assert math.sqrt(found[1]) == pytest.approx(DATA.deviation, rel=0.01)  # all T steps, whatever the variance


@pytest.mark.parametrize("schedule", SCHEDULES[:4])
def test_sampling_from_pure_noise_recovers_the_data(schedule):
    """N(0, 1) is not quite q(x_T): what is left of the image at T-1 is all that is lost."""
    process = PROCESSES[schedule]
    mean, variance = sampled_moments(affine_steps(process, Parameterization("epsilon", "learned")), 0.0, 1.0)
    signal_left = float(process.table["sqrt_alphas_cumprod"][-1])
    assert abs(mean - DATA.mean) <= signal_left
    assert math.sqrt(variance) == pytest.approx(DATA.deviation, abs=0.001 + signal_left)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("count", (5, 50))
def test_a_predicted_mean_is_read_with_the_training_chains_coefficients(schedule, count):
    """A network trained to predict the mean knows the mean of *its* chain, also when fewer steps are visited.

    OpenAI's code inverts it with the coefficients of the respaced chain and takes the raw output as the respaced mean,
    which is why its respaced `prev` trajectories are not among the golden tests: here they miss the data by far.
    """
    parameterization = Parameterization("mean", "learned_range")
    process = PROCESSES[schedule].respace(space_timesteps(T, count))
    start = [float(moment) for moment in DATA.marginal(process.table["alphas_cumprod"][-1])]
    expected = expected_moments(DATA, process.table["alphas_cumprod"], "learned_range")
    steps = affine_steps(process, parameterization)
    assert sampled_moments(steps, *start) == pytest.approx(expected, rel=EXACT)

    t = torch.arange(count)
    raw = [
        DATA.perfect_output(process, Parameterization("mean"), torch.full((count, 1), x).double(), t) for x in (0, 1)
    ]
    as_it_comes = zip((raw[1] - raw[0]).flatten().tolist(), raw[0].flatten().tolist(), strict=True)
    wrong = [(*mean, step[2]) for mean, step in zip(list(as_it_comes)[::-1], steps, strict=True)]
    assert abs(sampled_moments(wrong, *start)[1] ** 0.5 - DATA.deviation) > 0.1


def expected_ddim_variance(alphas_cumprod: torch.Tensor, eta: float) -> float:
    """x_{t-1} is made of E[x_0 | x_t], E[noise | x_t] and new noise, with the coefficients of the marginal."""
    abar = alphas_cumprod.tolist()
    _, variance = DATA.marginal(abar[-1])
    for t in reversed(range(len(abar))):
        before = abar[t - 1] if t else 1.0
        _, here = DATA.marginal(abar[t])
        added = eta**2 * (1 - abar[t] / before) * (1 - before) / (1 - abar[t])
        signal = math.sqrt(before * abar[t]) * DATA.deviation**2
        slope = (signal + math.sqrt((1 - before - added) * (1 - abar[t]))) / here
        variance = slope**2 * variance + added
    return variance


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", (0.0, 0.5, 1.0))
def test_ddim_recovers_mean_and_deviation(schedule, eta):
    for count in (2, 10, 50, T):
        process = PROCESSES[schedule].respace(space_timesteps(T, count))
        abar = process.table["alphas_cumprod"]
        start = [float(moment) for moment in DATA.marginal(abar[-1])]
        found = sampled_moments(affine_steps(process, Parameterization("v_prediction"), eta), *start)
        assert found == pytest.approx((DATA.mean, expected_ddim_variance(abar, eta)), rel=EXACT), f"{count} steps"
        if eta == 1:
            assert found == pytest.approx(expected_moments(DATA, abar, "fixed_small"), rel=EXACT), f"{count} steps"
    assert math.sqrt(found[1]) == pytest.approx(DATA.deviation, rel=0.01)


@pytest.mark.parametrize("prediction_type, variance_type", itertools.product(PREDICTION_TYPES, VARIANCE_TYPES))
def test_drawn_samples_have_the_moments(prediction_type, variance_type):
    """The scheduler's own loop with drawn noise, 20,000 samples: within five standard errors."""
    size = 20_000
    scheduler = ImprovedDDPMScheduler(
        beta_schedule="cosine", prediction_type=prediction_type, variance_type=variance_type, clip_sample=False
    )
    scheduler.set_timesteps(8)
    chain, generator = scheduler.chain, torch.Generator().manual_seed(0)
    mean, variance = DATA.marginal(chain.table["alphas_cumprod"][-1])
    x = mean + variance.sqrt() * torch.randn(size, 1, generator=generator, dtype=torch.float64)
    for t in scheduler.timesteps:
        row = torch.full((size,), int((chain.timesteps == t).nonzero()))
        output = DATA.perfect_output(chain, scheduler.parameterization, x, row)
        x = scheduler.step(output, t, x, generator=generator).prev_sample
    mean, variance = expected_moments(DATA, chain.table["alphas_cumprod"], variance_type)
    assert abs(float(x.mean()) - mean) <= 5 * math.sqrt(variance / size)
    assert abs(float(x.var()) - variance) <= 5 * variance * math.sqrt(2 / size)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("count", (2, 7, T))
def test_posterior_matches_bayes_rule(schedule, count):
    """q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0): precisions add."""
    process = PROCESSES[schedule].respace(space_timesteps(T, count))
    t = torch.arange(1, count)
    abar, before = process.table["alphas_cumprod"][t, None], process.table["alphas_cumprod"][t - 1, None]
    alpha = abar / before
    x_0, x_t = torch.randn(2, len(t), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    precision = 1 / (1 - before) + alpha / (1 - alpha)
    mean = (before.sqrt() * x_0 / (1 - before) + alpha.sqrt() * x_t / (1 - alpha)) / precision
    posterior = process.posterior(x_0, x_t, t)
    torch.testing.assert_close(posterior.mean, mean, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(posterior.log_variance.exp(), 1 / precision, rtol=EXACT, atol=0.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_posterior_of_gaussian_data_averages_to_the_reverse_process(schedule):
    """E[x_{t-1} | x_t] is the posterior mean at E[x_0 | x_t]; the variance is the posterior's and its mean's."""
    process = PROCESSES[schedule]
    t = torch.arange(1, T)
    abar, before = process.table["alphas_cumprod"][t, None], process.table["alphas_cumprod"][t - 1, None]
    x_t = torch.linspace(-2, 2, T - 1, dtype=torch.float64)[:, None]
    x_0, variance_of_x_0 = DATA.x_0_given_x_t(abar, x_t)
    mean, variance = DATA.previous_given_x_t(abar, before, x_t)
    posterior = process.posterior(x_0, x_t, t)
    coefficient = process.coefficient("posterior_mean_coef_x_0", t, x_t)
    torch.testing.assert_close(posterior.mean, mean, rtol=EXACT, atol=EXACT)
    total = posterior.log_variance.exp() + coefficient**2 * variance_of_x_0
    torch.testing.assert_close(total, variance, rtol=EXACT, atol=0.0)


def converted(prediction_type, process, x_0_hat, x_t, t):
    """The output that stands for `x_0_hat`, and the factor from an error of x_0 to one of the output."""
    abar = process.table["alphas_cumprod"][t]
    if prediction_type == "epsilon":
        return predict_epsilon(process, x_0_hat, x_t, t), (abar / (1 - abar)).sqrt()
    if prediction_type == "v_prediction":
        return predict_velocity(process, x_0_hat, x_t, t), 1 / (1 - abar).sqrt()
    if prediction_type == "mean":
        return process.posterior_mean(x_0_hat, x_t, t), process.table["posterior_mean_coef_x_0"][t]
    return x_0_hat, torch.ones_like(abar)


@pytest.mark.parametrize("schedule", SCHEDULES[:4])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("loss", ("simple", "bound"))
def test_gradients_agree_across_parametrizations_once_weights_are_converted(schedule, prediction_type, loss):
    """L_simple of each type is that of x_0 times the squared factor between the errors; the bound needs no weight."""
    process = PROCESSES[schedule]
    t = torch.tensor([0, 1, 10, T // 2, T - 2, T - 1])
    generator = torch.Generator().manual_seed(0)
    x_0, noise, guess = torch.randn(3, len(t), 3, 2, dtype=torch.float64, generator=generator).clamp(-1, 1)
    x_t = process.add_noise(x_0, noise, t)

    def gradient(kind: str) -> torch.Tensor:
        x_0_hat = guess.clone().requires_grad_()
        output, factor = converted(kind, process, x_0_hat, x_t, t)
        parameterization = Parameterization(kind)
        if loss == "bound":
            values = vlb_terms_bpd(process, parameterization, output, x_0, x_t, t)
        else:
            values = simple_loss(process, parameterization, output, x_0, x_t, noise, t) / factor**2
        return torch.autograd.grad(values.sum(), x_0_hat)[0]

    torch.testing.assert_close(gradient(prediction_type), gradient("sample"), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("count", (2, 50, T))
def test_learned_range_runs_from_the_posterior_variance_to_beta(schedule, count):
    process = PROCESSES[schedule].respace(space_timesteps(T, count))
    t = torch.arange(count)
    x_t = torch.zeros(count, 1, dtype=torch.float64)
    for v, column in ((-1.0, "posterior_log_variance"), (1.0, "log_betas")):
        output = torch.cat([x_t, torch.full_like(x_t, v)], 1)
        reverse = Parameterization("sample", "learned_range").reverse(process, output, x_t, t)
        torch.testing.assert_close(reverse.distribution.log_variance.flatten(), process.table[column])


@pytest.mark.parametrize("dtype, tolerance", ((torch.float64, 1e-12), (torch.float32, 1e-5)))
@pytest.mark.parametrize("log_variance", (-12.0, -7.0, -2.0, 3.0))
def test_probabilities_of_all_levels_sum_to_one(dtype, tolerance, log_variance):
    x = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).to(dtype)
    for mean in (-1.5, -1.0, -0.2, 0.0, 0.7, 1.0, 3.0):
        p = Gaussian(torch.full((1,), mean, dtype=dtype), log_variance)
        total = discretized_log_likelihood(x, p, log_floor=None).double().exp().sum()
        assert float(total) == pytest.approx(1, abs=tolerance), mean


@pytest.mark.parametrize("log_variance", (-18.0, -12.0, -7.0, -2.0, 1.0))
def test_likelihood_falls_towards_the_tails_in_float32(log_variance):
    """Where the difference of two distribution functions is 0 or has no digits left; gradients stay finite too."""
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).float()
    inner = levels[1:-1]  # the outermost levels own their whole tail
    for place in (0, 100, len(inner) - 1):
        mean = inner[place].clone().requires_grad_()
        value = discretized_log_likelihood(inner, Gaussian(mean, torch.tensor(log_variance)), log_floor=None)
        assert value.isfinite().all()
        assert (value[place:].diff() < 0).all() and (value[: place + 1].diff() > 0).all()
        assert torch.autograd.grad(value.sum(), mean)[0].isfinite()


@pytest.mark.parametrize("deviation", (0.02, 0.1, 1.0))
def test_likelihood_is_that_of_the_normal_distribution(deviation):
    """The distribution function is approximated to 2e-4 (Page 1977), so each level's probability to 4e-4."""
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    edges = torch.cat([torch.tensor([-math.inf]).double(), x[:-1] + 1 / 255, torch.tensor([math.inf]).double()])
    cdf = 0.5 * (1 + torch.erf((edges - 0.1) / (deviation * math.sqrt(2))))
    p = Gaussian(torch.tensor(0.1, dtype=torch.float64), 2 * math.log(deviation))
    assert (discretized_log_likelihood(x, p).exp() - cdf.diff()).abs().max() <= 4e-4
