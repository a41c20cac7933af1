"""What a network's output means: conversions, variances, clipping, DDIM, and which shapes are refused."""

import itertools

import pytest
import torch

from ddpm_ext.diffusion import (
    PREDICTION_TYPES,
    VARIANCE_TYPES,
    GaussianDiffusion,
    Parameterization,
    TrainingLoss,
    make_betas,
    rescale_zero_terminal_snr,
)
from ddpm_ext.diffusion.parameterization import (
    clip_to,
    ddim_distribution,
    dynamic_threshold,
    predict_epsilon,
    predict_velocity,
)


T = 50
EXACT = 1e-9
_whole = GaussianDiffusion(make_betas("linear", T, 0.002, 0.3))
_zero_snr = GaussianDiffusion(rescale_zero_terminal_snr(_whole.table["betas"]))
PROCESSES = {"whole": _whole, "respaced": _whole.respace(range(0, T, 7)), "zero_snr": _zero_snr}
TYPES = [
    (chain, prediction_type)
    for chain, prediction_type in itertools.product(PROCESSES, PREDICTION_TYPES)
    if (chain, prediction_type) != ("zero_snr", "epsilon")
]


def every_row(process: GaussianDiffusion):
    """t, x_0 in [-1, 1], noise and x_t: one sample per row of the table."""
    t = torch.arange(process.num_timesteps)
    x_0, noise = torch.randn(2, len(t), 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_0 = x_0.clamp(-1, 1)
    return t, x_0, noise, process.add_noise(x_0, noise, t)


@pytest.mark.parametrize("chain, prediction_type", TYPES)
def test_a_perfect_output_stands_for_x_0(chain, prediction_type):
    process, parameterization = PROCESSES[chain], Parameterization(prediction_type)
    t, x_0, noise, x_t = every_row(process)
    target = parameterization.target(process, x_0, noise, x_t, t)
    found = parameterization.predict_x_0(process, target, x_t, t)
    torch.testing.assert_close(found, x_0, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("chain, prediction_type", TYPES)
def test_a_perfect_output_gives_the_posterior(chain, prediction_type):
    """Also on a respaced chain, of which the network knows nothing."""
    process, parameterization = PROCESSES[chain], Parameterization(prediction_type)
    t, x_0, noise, x_t = every_row(process)
    output = parameterization.target(process, x_0, noise, x_t, t)
    reverse, posterior = parameterization.reverse(process, output, x_t, t), process.posterior(x_0, x_t, t)
    torch.testing.assert_close(reverse.distribution.mean, posterior.mean, rtol=EXACT, atol=EXACT)
    assert torch.equal(reverse.distribution.log_variance, posterior.log_variance)


@pytest.mark.parametrize("chain, prediction_type", TYPES)
def test_the_mean_follows_from_the_clipped_x_0(chain, prediction_type):
    """Whatever is predicted: two networks that stand for the same x_0 sample the same."""
    process, parameterization = PROCESSES[chain], Parameterization(prediction_type)
    t, x_0, noise, x_t = every_row(process)
    output = parameterization.target(process, 3 * x_0, noise, x_t, t)
    if prediction_type in ("epsilon", "v_prediction"):  # the targets are those of x_t made of x_0, not of 3 x_0
        convert = predict_epsilon if prediction_type == "epsilon" else predict_velocity
        output = convert(process, 3 * x_0, x_t, t)
    reverse = parameterization.reverse(process, output, x_t, t, clip_to(1.0))
    clipped = (3 * x_0).clamp(-1, 1)
    torch.testing.assert_close(reverse.x_0, clipped, rtol=EXACT, atol=EXACT)
    expected = process.posterior_mean(clipped, x_t, t)
    torch.testing.assert_close(reverse.distribution.mean, expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("prediction_type, variance_type", itertools.product(PREDICTION_TYPES, VARIANCE_TYPES))
def test_one_row_per_sample_equals_one_row_for_the_batch(prediction_type, variance_type):
    process, parameterization = PROCESSES["respaced"], Parameterization(prediction_type, variance_type)
    t, _, noise, x_t = every_row(process)
    output = torch.cat([noise, 0.3 * x_t], 1)[:, : parameterization.output_channels(3)]
    many = parameterization.reverse(process, output, x_t, t)
    for row in t.tolist():
        one = slice(row, row + 1)
        alone = parameterization.reverse(process, output[one], x_t[one], row)
        torch.testing.assert_close(alone.x_0, many.x_0[one], rtol=EXACT, atol=EXACT)
        torch.testing.assert_close(alone.distribution.mean, many.distribution.mean[one], rtol=EXACT, atol=EXACT)
        log_variance = torch.as_tensor(alone.distribution.log_variance, dtype=torch.float64)
        expected = many.distribution.log_variance[one]
        torch.testing.assert_close(log_variance.expand_as(expected), expected, rtol=EXACT, atol=EXACT)


def test_learned_range_is_not_clamped():
    process = PROCESSES["whole"]
    t, x_0, _, x_t = every_row(process)
    v = torch.full_like(x_0, 3.0)
    log_variance = Parameterization("sample", "learned_range").log_variance(process, v, x_t, t)
    log_betas, smallest = (process.coefficient(name, t, x_t) for name in ("log_betas", "posterior_log_variance"))
    torch.testing.assert_close(log_variance, (2 * log_betas - smallest).expand_as(v))


def test_the_second_half_of_the_channels_is_the_variance():
    x_t = torch.zeros(2, 3, 4)
    output = torch.arange(2 * 6 * 4).reshape(2, 6, 4).float()
    mean, variance = Parameterization("sample", "learned").split(output, x_t)
    assert torch.equal(mean, output[:, :3]) and torch.equal(variance, output[:, 3:])
    mean, variance = Parameterization("sample", "fixed_large").split(x_t, x_t)
    assert mean is x_t and variance is None


# ------------------------------------------------------------------ DDIM


@pytest.mark.parametrize("chain", PROCESSES)
def test_ddim_with_eta_1_is_ancestral_sampling_with_the_posterior_variance(chain):
    process = PROCESSES[chain]
    t, x_0, _, x_t = every_row(process)
    ddim = ddim_distribution(process, x_0, x_t, t, eta=1.0)
    posterior = process.posterior(x_0, x_t, t)
    torch.testing.assert_close(ddim.mean, posterior.mean, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(ddim.log_variance[1:], posterior.log_variance[1:], rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("chain", PROCESSES)
@pytest.mark.parametrize("eta", (0.0, 0.3, 1.0))
def test_ddim_keeps_x_t_on_the_marginal(chain, eta):
    """With the true x_0, x_{t-1} has the signal of x_0 and, with its new noise, the variance of q(x_{t-1} | x_0)."""
    process = PROCESSES[chain]
    t, x_0, noise, x_t = every_row(process)
    before = process.coefficient("alphas_cumprod_prev", t, x_t)
    ddim = ddim_distribution(process, x_0, x_t, t, eta)
    kept = (1 - before - ddim.log_variance.exp()).clamp(min=0).sqrt()
    torch.testing.assert_close(ddim.mean, before.sqrt() * x_0 + kept * noise, rtol=EXACT, atol=EXACT)
    for row in (0, 1, process.num_timesteps - 1):
        one = slice(row, row + 1)
        alone = ddim_distribution(process, x_0[one], x_t[one], row, eta)
        torch.testing.assert_close(alone.mean, ddim.mean[one], rtol=EXACT, atol=EXACT)
        assert alone.log_variance == pytest.approx(float(ddim.log_variance[row]), rel=EXACT)
        assert torch.equal(alone.sample(torch.ones_like(x_0[one])).isfinite(), torch.ones_like(x_0[one]).bool())


@pytest.mark.parametrize("chain", PROCESSES)
def test_noise_and_velocity_follow_from_x_0(chain):
    process = PROCESSES[chain]
    t, x_0, noise, x_t = every_row(process)
    torch.testing.assert_close(predict_epsilon(process, x_0, x_t, t), noise, rtol=EXACT, atol=EXACT)
    velocity = Parameterization("v_prediction").target(process, x_0, noise, x_t, t)
    torch.testing.assert_close(predict_velocity(process, x_0, x_t, t), velocity, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("prediction_type", ("epsilon", "sample", "v_prediction"))
def test_conversions_agree_between_two_timesteps(prediction_type):
    """At the fractional timesteps of Karras grids."""
    process = PROCESSES["whole"]
    x_0, noise = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (0.4, 20.5, T - 1.01):
        signal = process.coefficient("sqrt_alphas_cumprod", t, x_0)
        x_t = signal * x_0 + process.coefficient("sqrt_one_minus_alphas_cumprod", t, x_0) * noise
        output = {
            "epsilon": noise,
            "sample": x_0,
            "v_prediction": predict_velocity(process, x_0, x_t, t),
        }[prediction_type]
        found = Parameterization(prediction_type).predict_x_0(process, output, x_t, t)
        torch.testing.assert_close(found, x_0, rtol=EXACT, atol=EXACT)
        torch.testing.assert_close(predict_epsilon(process, found, x_t, t), noise, rtol=EXACT, atol=EXACT)


# ------------------------------------------------------------------ clipping


def test_dynamic_threshold_divides_by_each_samples_own_quantile():
    """Samples within [-1, 1] are left alone; others are squeezed into it, however large they are."""
    small = torch.linspace(-0.9, 0.8, 101).reshape(1, 1, 101)
    large = 5 * small
    found = dynamic_threshold(0.9, largest=10.0)(torch.cat([small, large]))
    torch.testing.assert_close(found[0], small[0])
    bound = large.abs().flatten().quantile(0.9)
    torch.testing.assert_close(found[1], (large / bound).clamp(-1, 1)[0])
    capped = dynamic_threshold(0.9, largest=2.0)(large)
    torch.testing.assert_close(capped, large.clamp(-2, 2) / 2)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("channels", (1, 3, 4))
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
def test_outputs_with_the_wrong_number_of_channels_are_refused(channels, variance_type):
    """A learned variance with a network of fixed variance, the reverse, and anything else."""
    parameterization = Parameterization("epsilon", variance_type)
    x_t = torch.zeros(2, channels, 4, 4)
    right = parameterization.output_channels(channels)
    parameterization.split(torch.zeros(2, right, 4, 4), x_t)
    for wrong in {channels, 2 * channels, channels + 1, 3 * channels} - {right}:
        sentence = (
            rf"`model_output` has shape \(2, {wrong}, 4, 4\): .* '{variance_type}' .*\(2, {right}, 4, 4\) is accepted"
        )
        with pytest.raises(ValueError, match=sentence):
            parameterization.reverse(_whole, torch.zeros(2, wrong, 4, 4), x_t, 0)


def test_outputs_of_another_batch_or_image_size_are_refused():
    for shape in ((1, 3, 4, 4), (2, 3, 4, 5), (2, 3, 4)):
        with pytest.raises(ValueError, match="`model_output` has shape"):
            Parameterization().reverse(_whole, torch.zeros(shape), torch.zeros(2, 3, 4, 4), 0)


@pytest.mark.parametrize(
    "arguments, sentence",
    (
        (("eps",), "`prediction_type` is 'eps': one of epsilon, sample, v_prediction, mean is accepted"),
        (("v-prediction",), r"Did you mean 'v_prediction'\?"),
        (("epsilon", "fixed"), "`variance_type` is 'fixed': one of fixed_small, fixed_large, learned, learned_range"),
        (("epsilon", "learned_rage"), r"Did you mean 'learned_range'\?"),
    ),
)
def test_unknown_types_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Parameterization(*arguments)


def test_a_hybrid_loss_without_learned_variance_is_refused():
    with pytest.raises(ValueError, match="`loss` is 'hybrid' and `variance_type` 'fixed_small'"):
        TrainingLoss(_whole, Parameterization(), "hybrid")
    with pytest.raises(ValueError, match=r"`loss` is 'hybird'.*Did you mean 'hybrid'\?"):
        TrainingLoss(_whole, Parameterization(), "hybird")
