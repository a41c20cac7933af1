"""Bits per dimension: OpenAI's numbers, Gaussian data whose likelihood is known, and an error bar to be believed."""

import math

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss

from ddpm_ext.diffusion import (
    BitsPerDimEstimate,
    GaussianDiffusion,
    Parameterization,
    discretized_log_likelihood,
    estimate_bits_per_dim,
    exact_bits_per_dim,
    make_betas,
    prior_bits_per_dim,
    probability_flow_bits_per_dim,
    rescale_zero_terminal_snr,
)
from ddpm_ext.diffusion.likelihood import _antithetic
from tests.gaussian_data import GaussianData
from tests.golden_set import LOSSES, LOSSES_AT_0, PREDICTION_TYPES, error, golden, process_of, spec_of, toy_model


FILE = golden("losses")
BPD_CASES = [
    (tag, *names)
    for tag in FILE.children("bpd")
    if f"bpd/{tag}/noise" in FILE
    for names in dict.fromkeys(path[:3] for path in FILE.paths("bpd", tag, "f64"))
]
DATA = GaussianData(mean=0.1, deviation=0.2)


@pytest.mark.parametrize("tag, mean, variance, clip", BPD_CASES)
def test_exact_bits_per_dim_are_openais(tag, mean, variance, clip):
    """Where the network predicts a mean, the reference clips the x_0 that it reports and not the mean that it uses;
    and it reads the mean with the coefficients of the respaced chain, as ours does for a network trained on that."""
    process, parameterization = process_of(tag), Parameterization(PREDICTION_TYPES[mean], variance)
    told = process.timesteps.tolist()
    if mean == "prev" and spec_of(tag):
        process = GaussianDiffusion(process.table["betas"])
    noise = FILE[f"bpd/{tag}/noise"].flip(0)

    def predict(x_t, timestep):
        row = process.timesteps.tolist().index(int(timestep[0]))
        return toy_model(x_t, told[row], parameterization)

    def exact(clip_limit):
        return exact_bits_per_dim(
            process, parameterization, predict, FILE["bpd/x_start"], noise_for=noise.__getitem__, clip_limit=clip_limit
        )

    reported = exact(1.0 if clip == "clip1" else None)
    bound = exact(None) if mean == "prev" else reported
    expected = {
        name: FILE[f"bpd/{tag}/f64/{mean}/{variance}/{clip}/{name}"]
        for name in ("vb", "xstart_mse", "mse", "prior_bpd", "total_bpd")
    }
    terms = bound.terms.flip(1)
    assert error(terms[:, :-1], expected["vb"][:, :-1]) <= LOSSES
    assert error(terms[:, -1], expected["vb"][:, -1]) <= LOSSES_AT_0
    assert error(reported.x_0_mse.flip(1), expected["xstart_mse"]) <= LOSSES
    assert error(reported.noise_mse.flip(1), expected["mse"]) <= LOSSES
    assert error(bound.prior, expected["prior_bpd"]) <= LOSSES
    assert error(bound.total, expected["total_bpd"]) <= LOSSES_AT_0


def perfect(process, parameterization):
    """The perfect network for `DATA` as a function of the timestep that it is told."""
    row_of = {timestep: row for row, timestep in enumerate(process.timesteps.tolist())}

    def predict(x_t, timestep):
        rows = torch.tensor([row_of[one] for one in timestep.tolist()])
        return DATA.perfect_output(process, parameterization, x_t, rows)

    return predict


def expected_bits_per_dim(process, parameterization, x_0):
    """The bound averaged over the noise, (B,), for `x_0` (B, C): by quadrature, and by hand for every t > 0."""
    nodes, weights = hermegauss(80)
    weights = weights / weights.sum()
    abar, t = process.table["alphas_cumprod"], torch.arange(process.num_timesteps)
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    output = DATA.perfect_output(process, parameterization, torch.zeros(len(t), 1, dtype=torch.float64), t)
    variance_output = parameterization.split(output, output[:, :1])[1]
    log_variance = parameterization.log_variance(process, variance_output, output[:, :1], t).flatten()
    posterior_log_variance = process.table["posterior_log_variance"]
    _, variance = DATA.marginal(abar)
    gain = abar.sqrt() * DATA.deviation**2 / variance
    # x_0 minus its estimate is affine in the noise: (1 - gain sqrt(abar)) (x_0 - mean) - gain sqrt(1 - abar) noise
    squared = ((x_0 - DATA.mean)[..., None] * (1 - gain * abar.sqrt())) ** 2 + gain**2 * (1 - abar)
    weight_of_x_0 = (1 - abar / before) * before.sqrt() / (1 - abar)
    nats = 0.5 * (
        log_variance
        - posterior_log_variance
        - 1
        + (posterior_log_variance - log_variance).exp()
        + weight_of_x_0**2 * squared * (-log_variance).exp()
    )
    decoder = torch.zeros_like(x_0)
    for node, weight in zip(nodes, weights, strict=True):
        x_t = process.add_noise(x_0, torch.full_like(x_0, float(node)), 0)
        output = DATA.perfect_output(process, parameterization, x_t, torch.zeros(len(x_0), dtype=torch.int64))
        p = parameterization.reverse(process, output, x_t, 0).distribution
        decoder -= weight * discretized_log_likelihood(x_0, p)
    return (nats[..., 1:].sum(-1) + decoder).mean(1) / math.log(2) + prior_bits_per_dim(process, x_0)


PROCESSES = {
    "linear": GaussianDiffusion(make_betas("linear", 200, 5e-4, 0.1)),
    "cosine": GaussianDiffusion(make_betas("cosine", 200)),
    "respaced": GaussianDiffusion(make_betas("cosine", 1000)).respace(range(4, 1000, 20)),
    "zero_snr": GaussianDiffusion(rescale_zero_terminal_snr(make_betas("linear", 200, 5e-4, 0.1))),
}
CASES = [
    ("linear", "epsilon", "fixed_small"),
    ("cosine", "v_prediction", "learned_range"),
    ("cosine", "mean", "fixed_large"),
    ("respaced", "sample", "learned_range"),
    ("respaced", "mean", "fixed_small"),
    ("zero_snr", "v_prediction", "fixed_small"),
]
_draws = DATA.mean + DATA.deviation * torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
IMAGES = (_draws * 127.5 + 127.5).round().clamp(0, 255) / 127.5 - 1


@pytest.mark.parametrize("name, prediction_type, variance_type", CASES)
def test_exact_bits_per_dim_average_to_the_closed_form(name, prediction_type, variance_type):
    process, parameterization = PROCESSES[name], Parameterization(prediction_type, variance_type)
    copies = 50
    x_0 = IMAGES.double().repeat_interleave(copies, 0)
    exact = exact_bits_per_dim(
        process,
        parameterization,
        perfect(process, parameterization),
        x_0,
        torch.Generator().manual_seed(0),
        None,
        None,
    )
    assert exact.terms.shape == exact.x_0_mse.shape == exact.noise_mse.shape == (len(x_0), process.num_timesteps)
    totals = exact.total.view(-1, copies)
    deviations = (totals.mean(1) - expected_bits_per_dim(process, parameterization, IMAGES.double())) / (
        totals.std(1) / copies**0.5
    )
    assert deviations.abs().max() < 4


@pytest.mark.parametrize("name, prediction_type, variance_type", CASES)
def test_the_estimate_is_unbiased_and_its_error_bar_right(name, prediction_type, variance_type):
    process, parameterization = PROCESSES[name], Parameterization(prediction_type, variance_type)
    copies, group, num_evaluations = 500, 25, 16
    calls = []

    def predict(x_t, timestep):
        calls.append(timestep)
        return predict_perfectly(x_t, timestep)

    predict_perfectly = perfect(process, parameterization)
    estimate = estimate_bits_per_dim(
        process,
        parameterization,
        predict,
        IMAGES.double().repeat_interleave(copies, 0),
        torch.Generator().manual_seed(1),
        num_evaluations,
        clip_limit=None,
    )
    assert len(calls) == estimate.num_evaluations == 14  # the most in 16: two halves of an odd number
    truth = expected_bits_per_dim(process, parameterization, IMAGES.double())
    per_image, variance = estimate.per_image.view(-1, copies), estimate.variance.view(-1, copies)
    deviations = (per_image.mean(1) - truth) / (per_image.std(1) / copies**0.5)
    assert deviations.abs().max() < 4
    assert float(variance.mean() / per_image.var(1).mean()) == pytest.approx(1, abs=0.2)
    # As a user sees it: of 80 estimates of 25 images each, how many standard errors is each away from the truth?
    groups = [
        BitsPerDimEstimate(*parts, num_evaluations)
        for parts in zip(estimate.per_image.split(group), estimate.variance.split(group), strict=True)
    ]
    scores = torch.tensor(
        [(one.mean - float(truth[i * group // copies])) / one.standard_error for i, one in enumerate(groups)]
    )
    assert 0.75 < float(scores.square().mean().sqrt()) < 1.25


def test_the_error_bar_shrinks_with_evaluations_and_with_images():
    process, parameterization = PROCESSES["cosine"], Parameterization("epsilon", "learned_range")
    x_0 = IMAGES.double().repeat(40, 1)

    def estimate(num_evaluations, seed=0):
        generator = torch.Generator().manual_seed(seed)
        predict = perfect(process, parameterization)
        return estimate_bits_per_dim(process, parameterization, predict, x_0, generator, num_evaluations)

    assert estimate(50).standard_error < 0.5 * estimate(10).standard_error
    many = BitsPerDimEstimate.joined([estimate(10, seed) for seed in range(4)])
    assert len(many.per_image) == 4 * len(x_0)
    assert many.standard_error == pytest.approx(estimate(10).standard_error / 2, rel=0.25)


@pytest.mark.parametrize("dimensions", (1, 3, 64, 3072))
def test_antithetic_noise_is_normal_and_as_long_as_the_other_is_short(dimensions):
    noise = torch.randn(2000, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = _antithetic(noise)
    shape = torch.full((2000,), dimensions / 2, dtype=torch.float64)
    shorter, longer = (torch.special.gammainc(shape, x.square().sum(1) / 2) for x in (noise, other))
    torch.testing.assert_close(shorter + longer, torch.ones_like(shape), rtol=0, atol=1e-9)
    cosine = torch.nn.functional.cosine_similarity(noise, other)
    torch.testing.assert_close(cosine, -torch.ones_like(shape), rtol=0, atol=1e-12)


def levels_of_the_data():
    """All 256 levels and how often `DATA`, rounded to them, has each; the entropy in bits."""
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    edges = torch.cat([torch.tensor([-math.inf]), levels[:-1] + 1 / 255, torch.tensor([math.inf])]).double()
    share = torch.special.ndtr((edges - DATA.mean) / DATA.deviation).diff()
    return levels, share, float(-torch.special.xlogy(share, share).sum() / math.log(2))


def test_bits_per_dim_come_near_the_entropy_of_the_data():
    """From above, as a bound must, by the chain and by the flow."""
    process, parameterization = (
        GaussianDiffusion(make_betas("cosine", 1000)),
        Parameterization("epsilon", "learned_range"),
    )
    levels, share, entropy = levels_of_the_data()
    x_0, generator = levels[:, None].expand(-1, 8).contiguous(), torch.Generator().manual_seed(0)
    estimate = estimate_bits_per_dim(process, parameterization, perfect(process, parameterization), x_0, generator)
    by_the_chain = float((share * estimate.per_image).sum())
    flow = probability_flow_bits_per_dim(
        process, Parameterization(), flow_network(process, "epsilon"), x_0, generator, 20, dequantize=True
    )
    assert entropy < by_the_chain < entropy + 0.05
    assert float((share * flow.bits_per_dim).sum()) == pytest.approx(entropy, abs=0.01)


COVARIANCE = torch.tensor([[0.3, 0.2], [0.2, 0.25]], dtype=torch.float64)
CENTER = torch.tensor([0.3, -0.2], dtype=torch.float64)


def flow_network(process, prediction_type, covariance=None, center=None):
    """The perfect network between the rows too, for N(center, covariance), or `DATA` in every dimension."""
    log_sigmas = -0.5 * process.snr(torch.arange(process.num_timesteps)).clamp(min=2.0**-24).log()

    def predict(x, timestep):
        row = float(torch.searchsorted(process.timesteps.double(), timestep[0].double(), right=True)) - 1
        below = int(min(row, process.num_timesteps - 2))
        start, end = process.timesteps[below : below + 2].tolist()
        log_sigma = torch.lerp(
            log_sigmas[below], log_sigmas[below + 1], (timestep[0].double() - start) / (end - start)
        )
        sigma = float(log_sigma.exp())
        signal, noise = 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)
        if covariance is None:
            gain = signal * DATA.deviation**2 / (signal**2 * DATA.deviation**2 + noise**2)
            x_0 = DATA.mean + gain * (x - signal * DATA.mean)
        else:
            of_x = signal**2 * covariance + noise**2 * torch.eye(2, dtype=torch.float64)
            x_0 = center + (x - signal * center) @ torch.linalg.solve(of_x, signal * covariance)
        if prediction_type == "sample":
            return x_0
        if prediction_type == "epsilon":
            return (x - signal * x_0) / noise
        return (signal * x - x_0) / noise

    return predict


def flow_log_density(process, x_0):
    """log of the density that N(0, I) becomes along the ODE, which for N(center, covariance) is a linear map; where
    nothing is left of the data at the end of the chain, N(x_0; center, covariance + sigma_0^2 I)."""
    abar = process.table["alphas_cumprod"][[0, -1]].clamp(min=2.0**-24)  # where the log of sigma ends
    eigenvalues, axes = torch.linalg.eigh(COVARIANCE)
    start, end = ((eigenvalues * a + 1 - a) for a in abar)
    stretch = (end / start).sqrt()
    at_the_end = abar[1].sqrt() * CENTER @ axes + stretch * abar[0].sqrt() * ((x_0 - CENTER) @ axes)
    normal = -0.5 * (at_the_end**2 + math.log(2 * math.pi)).sum(1)
    return normal + stretch.log().sum() + abar[0].log()


FLOWS = [
    ("linear", "epsilon"),
    ("cosine", "epsilon"),
    ("cosine", "v_prediction"),
    ("cosine", "sample"),
    ("respaced", "v_prediction"),
    ("zero_snr", "v_prediction"),
]


@pytest.mark.parametrize("name, prediction_type", FLOWS)
def test_the_flows_likelihood_is_the_closed_form(name, prediction_type):
    process = PROCESSES[name]
    x_0 = torch.tensor([[0.3, -0.2], [0.9, 0.4], [-0.5, 0.8], [1.0, -1.0]], dtype=torch.float64)
    predict = flow_network(process, prediction_type, COVARIANCE, CENTER)
    found = probability_flow_bits_per_dim(process, Parameterization(prediction_type), predict, x_0, num_probes=0)
    torch.testing.assert_close(found.log_density, flow_log_density(process, x_0), rtol=0, atol=2e-4)
    torch.testing.assert_close(
        found.bits_per_dim, -found.log_density / (2 * math.log(2)) + math.log2(127.5), rtol=0, atol=1e-12
    )
    if name == "cosine":  # no signal is left at its end, so this is the density of the data
        sigma_0 = 1 / float(process.snr(0))
        data = torch.distributions.MultivariateNormal(CENTER, COVARIANCE + sigma_0 * torch.eye(2, dtype=torch.float64))
        torch.testing.assert_close(found.log_density, data.log_prob(x_0), rtol=0, atol=1e-3)


def test_hutchinsons_divergence_is_unbiased():
    process, copies = PROCESSES["cosine"], 1500
    x_0 = torch.tensor([[0.9, 0.4]], dtype=torch.float64)
    predict = flow_network(process, "v_prediction", COVARIANCE, CENTER)
    arguments = (process, Parameterization("v_prediction"), predict)
    exact = probability_flow_bits_per_dim(*arguments, x_0, num_steps=10, num_probes=0).log_density
    generator = torch.Generator().manual_seed(0)
    spread = {}
    for num_probes in (1, 4):
        found = probability_flow_bits_per_dim(*arguments, x_0.repeat(copies, 1), generator, 10, num_probes).log_density
        spread[num_probes] = float(found.std())
        assert abs(float(found.mean() - exact)) < 4 * spread[num_probes] / copies**0.5
    assert spread[4] == pytest.approx(spread[1] / 2, rel=0.1)


def test_bad_input_gets_one_sentence():
    process = PROCESSES["cosine"]
    arguments = (process, Parameterization(), flow_network(process, "epsilon"), IMAGES)
    for count in (9, 200):
        with pytest.raises(ValueError, match=f"^`num_evaluations` is {count}: from 10 to 199"):
            estimate_bits_per_dim(*arguments, num_evaluations=count)
    for name in ("num_steps", "num_probes"):
        with pytest.raises(ValueError, match=f"^`{name}` is -1"):
            probability_flow_bits_per_dim(*arguments, **{name: -1})
