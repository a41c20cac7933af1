"""q, p, the training losses and their gradients, and the bound's terms are those of OpenAI's code.

One convention differs on purpose. For a network that predicts the posterior mean (`prev` there, `mean` here), ours
clips x_0 and lets the mean follow; the reference takes the mean as it comes and clips only the x_0 that it reports. So
its means and bounds are compared with ours unclipped, and its x_0 with ours clipped.
"""

import math

import pytest
import torch

from ddpm_ext.diffusion import (
    Gaussian,
    Parameterization,
    TrainingLoss,
    discretized_log_likelihood,
    hybrid_loss,
    kl_divergence,
    simple_loss,
    vlb_terms_bpd,
)
from ddpm_ext.diffusion.losses import bound_term_bpd, mean_flat
from ddpm_ext.diffusion.parameterization import clip_to, predict_epsilon
from tests.golden_set import (
    LOG_LIKELIHOOD,
    LOSSES,
    LOSSES_AT_0,
    PREDICTION_TYPES,
    SAMPLES,
    TABLES,
    error,
    golden,
    process_of,
    spec_of,
    toy_model,
)


FILE = golden("losses")
TAGS = [tag for tag in FILE.children() if f"{tag}/t" in FILE]
FIXED = {"fixed_small": "posterior_variance", "fixed_large": "fixed_large_variance"}


def cases(*path: str, depth: int) -> list[tuple[str, ...]]:
    """(tag, the next `depth` parts of the name) for every array below `path` of every process."""
    return list(dict.fromkeys((tag, *rest[:depth]) for tag in TAGS for rest in FILE.paths(tag, "f64", *path)))


def inputs(tag: str, variance: str = "learned"):
    """x_0, noise, t, x_t and the network's output."""
    x_0, noise, output = FILE["x_start"], FILE["noise"], FILE["model_output_2c"]
    if variance.startswith("fixed"):
        output = output[:, : x_0.shape[1]]
    t = FILE[f"{tag}/t"]
    return x_0, noise, t, process_of(tag).add_noise(x_0, noise, t), output


def loss_error(actual, expected, t) -> float:
    """The largest relative error, in units of what is tolerated."""
    tolerated = torch.where(t == 0, LOSSES_AT_0, LOSSES).to(expected)
    return error(expected + (actual - expected) / tolerated.view(-1, *[1] * (expected.ndim - 1)), expected)


@pytest.mark.parametrize("tag", TAGS)
def test_forward_process(tag):
    x_0, _, t, x_t, _ = inputs(tag)
    process = process_of(tag)
    expected = {
        name: FILE[f"{tag}/f64/{name}"] for name in FILE.children(tag, "f64") if name.startswith(("q_", "x_t"))
    }
    noise_variance = 1 - process.table["alphas_cumprod"][t]
    errors = {
        "x_t": error(x_t, expected.pop("x_t"), floor=1),
        "q_posterior_mean": error(process.posterior_mean(x_0, x_t, t), expected.pop("q_posterior_mean"), floor=1),
        "q_variance": error(noise_variance, expected.pop("q_variance")),
        "q_log_variance": error(noise_variance.log(), expected.pop("q_log_variance")),
        "q_posterior_variance": error(process.table["posterior_variance"][t], expected.pop("q_posterior_variance")),
        "q_posterior_log_variance_clipped": error(
            process.posterior(x_0, x_t, t).log_variance.flatten(), expected.pop("q_posterior_log_variance_clipped")
        ),
    }
    assert not expected
    assert max(errors.values()) <= SAMPLES, errors


@pytest.mark.parametrize("tag", TAGS)
def test_prior_term(tag):
    prior = process_of(tag).prior(FILE["x_start"])
    bpd = mean_flat(kl_divergence(prior, Gaussian(torch.zeros_like(prior.mean), 0.0))) / math.log(2)
    assert error(bpd, FILE[f"{tag}/f64/prior_bpd"]) <= LOSSES


@pytest.mark.parametrize(
    "tag, mean, clip", [case for case in cases("p_mean_variance", depth=2) if case[1] in PREDICTION_TYPES]
)
def test_reverse_mean_and_x_0(tag, mean, clip):
    _, _, t, x_t, output = inputs(tag)
    parameterization = Parameterization(PREDICTION_TYPES[mean], "learned")
    limit = clip_to(1.0) if clip == "clip1" else None
    reverse = parameterization.reverse(process_of(tag), output, x_t, t, limit)
    path = f"{tag}/f64/p_mean_variance/{mean}/{clip}"
    assert error(reverse.x_0, FILE[f"{path}/pred_xstart"], floor=1) <= SAMPLES
    if mean == "prev":
        reverse = parameterization.reverse(process_of(tag), output, x_t, t)
    assert error(reverse.distribution.mean, FILE[f"{path}/mean"], floor=1) <= SAMPLES


@pytest.mark.parametrize(
    "tag, variance", [case for case in cases("p_mean_variance", depth=1) if case[1] not in PREDICTION_TYPES]
)
def test_reverse_variance(tag, variance):
    _, _, t, x_t, output = inputs(tag, variance)
    process = process_of(tag)
    distribution = Parameterization("epsilon", variance).reverse(process, output, x_t, t).distribution
    expected = FILE[f"{tag}/f64/p_mean_variance/{variance}/log_variance"]
    log_variance = distribution.log_variance
    assert error(log_variance.flatten() if expected.ndim == 1 else log_variance, expected) <= TABLES
    # The reference also returns a variance, which at t = 0 is not always the exponential of its log_variance.
    actual = process.table[FIXED[variance]][t] if variance in FIXED else log_variance.exp()
    assert error(actual, FILE[f"{tag}/f64/p_mean_variance/{variance}/variance"]) <= TABLES


@pytest.mark.parametrize("tag, mean, variance, loss", cases("training_losses", depth=3))
def test_training_losses(tag, mean, variance, loss):
    """`mse` adds the bound's term once, `rescaled_mse` T/1000 times; `kl` is the term, `rescaled_kl` T times it."""
    x_0, noise, t, x_t, output = inputs(tag, variance)
    process, parameterization = process_of(tag), Parameterization(PREDICTION_TYPES[mean], variance)
    path = f"{tag}/f64/training_losses/{mean}/{variance}/{loss}"
    arguments = (process, parameterization, output, x_0, x_t, noise, t)
    vlb = vlb_terms_bpd(process, parameterization, output, x_0, x_t, t)
    if loss in ("kl", "rescaled_kl"):
        actual = {"loss": vlb * (process.num_timesteps if loss == "rescaled_kl" else 1)}
    else:
        weight = 0.001 if loss == "rescaled_mse" else 1 / process.num_timesteps
        actual = {"mse": simple_loss(*arguments), "loss": simple_loss(*arguments)}
        if parameterization.learns_variance:
            actual |= {"vb": vlb * weight * process.num_timesteps, "loss": hybrid_loss(*arguments, weight)}
    assert set(actual) == set(FILE.children(*path.split("/")))
    errors = {name: loss_error(value, FILE[f"{path}/{name}"], t) for name, value in actual.items()}
    assert max(errors.values()) <= 1, errors
    if "mse" in actual:
        assert error(actual["mse"], FILE[f"{path}/mse"]) <= LOSSES


@pytest.mark.parametrize("tag, mean, variance", cases("vb_terms_clip1", depth=2))
def test_bound_terms_of_the_clipped_x_0(tag, mean, variance):
    x_0, _, t, x_t, output = inputs(tag, variance)
    parameterization = Parameterization(PREDICTION_TYPES[mean], variance)
    actual = vlb_terms_bpd(process_of(tag), parameterization, output, x_0, x_t, t, clip_limit=1.0)
    assert loss_error(actual, FILE[f"{tag}/f64/vb_terms_clip1/{mean}/{variance}"], t) <= 1


@pytest.mark.parametrize("tag, mean, variance, loss", cases("grad", depth=3))
def test_gradients_of_the_training_losses(tag, mean, variance, loss):
    """Per row, relative to the row's largest gradient: an element may be zero but for the reference's lost digits."""
    x_0, noise, t, x_t, output = inputs(tag, variance)
    process, parameterization = process_of(tag), Parameterization(PREDICTION_TYPES[mean], variance)
    output = output.clone().requires_grad_()
    if loss in ("kl", "rescaled_kl"):
        factor = process.num_timesteps if loss == "rescaled_kl" else 1
        total = factor * vlb_terms_bpd(process, parameterization, output, x_0, x_t, t).sum()
    else:
        weight = 0.001 if loss == "rescaled_mse" else 1 / process.num_timesteps
        training_loss = TrainingLoss(process, parameterization, "hybrid", weight)
        total = training_loss(output, x_0, x_t, noise, t).sum()
    (actual,) = torch.autograd.grad(total, output)
    expected = FILE[f"{tag}/f64/grad/{mean}/{variance}/{loss}"]
    for head in (slice(0, x_0.shape[1]), slice(x_0.shape[1], None)):  # the mean's and the variance's
        largest = expected[:, head].flatten(1).abs().amax(1)
        difference = (actual - expected)[:, head].flatten(1).abs().amax(1)
        assert (difference <= torch.where(t == 0, LOSSES_AT_0, LOSSES) * largest).all(), difference / largest


@pytest.mark.parametrize("tag, mean, variance", cases("decoder_ll_t0", depth=2))
def test_decoder(tag, mean, variance):
    x_0, _, t, x_t, output = inputs(tag, variance)
    reverse = Parameterization(PREDICTION_TYPES[mean], variance).reverse(process_of(tag), output, x_t, t)
    actual = discretized_log_likelihood(x_0, reverse.distribution)[t == 0]
    assert (actual - FILE[f"{tag}/f64/decoder_ll_t0/{mean}/{variance}"]).abs().max() <= LOG_LIKELIHOOD


def test_discretized_log_likelihood():
    """In the tails the reference takes the logarithm of a difference that has lost its digits; ours keeps them."""
    x, means, log_scales = (FILE[f"disc_ll/{name}"] for name in ("x", "means", "log_scales"))
    p = Gaussian(means[None, :, None], 2 * log_scales[None, None, :])
    actual = discretized_log_likelihood(x[:, None, None], p)
    assert (actual - FILE["disc_ll/log_probs_f64"]).abs().max() <= LOG_LIKELIHOOD


def test_kl_divergence():
    mean1, logvar1, mean2, logvar2 = (FILE[f"normal_kl/{name}"] for name in ("mean1", "logvar1", "mean2", "logvar2"))
    actual = kl_divergence(Gaussian(mean1, logvar1), Gaussian(mean2, logvar2))
    assert error(actual, FILE["normal_kl/kl"]) <= LOSSES


BPD_CASES = [
    (tag, *names)
    for tag in FILE.children("bpd")
    if f"bpd/{tag}/noise" in FILE
    for names in dict.fromkeys(path[:3] for path in FILE.paths("bpd", tag, "f64"))
    if not (names[0] == "prev" and spec_of(tag))
]


@pytest.mark.parametrize("tag, mean, variance, clip", BPD_CASES)
def test_every_term_of_bits_per_dimension(tag, mean, variance, clip):
    """`prev` on respaced chains is left out: there the reference reads the mean with coefficients of the wrong chain.

    `test_closed_forms.py` says what is right instead.
    """
    process, parameterization = process_of(tag), Parameterization(PREDICTION_TYPES[mean], variance)
    x_0, noise, told = FILE["bpd/x_start"], FILE[f"bpd/{tag}/noise"], FILE[f"bpd/{tag}/model_t"].tolist()
    assert told == process.timesteps.flip(0).double().tolist()
    limit = clip_to(1.0) if clip == "clip1" else None
    terms, errors_of_x_0, errors_of_noise = [], [], []
    for i, t in enumerate(reversed(range(process.num_timesteps))):
        x_t = process.add_noise(x_0, noise[i], t)
        output = toy_model(x_t, told[i], parameterization)
        x_0_hat, distribution = parameterization.reverse(process, output, x_t, t, limit)
        if mean == "prev":
            distribution = parameterization.reverse(process, output, x_t, t).distribution
        terms.append(bound_term_bpd(process, distribution, x_0, x_t, t))
        errors_of_x_0.append(mean_flat((x_0_hat - x_0) ** 2))
        errors_of_noise.append(mean_flat((predict_epsilon(process, x_0_hat, x_t, t) - noise[i]) ** 2))
    path = f"bpd/{tag}/f64/{mean}/{variance}/{clip}"
    rows = torch.arange(process.num_timesteps).flip(0)
    assert loss_error(torch.stack(terms), FILE[f"{path}/vb"].T, rows) <= 1
    assert error(torch.stack(errors_of_x_0, 1), FILE[f"{path}/xstart_mse"]) <= LOSSES
    assert error(torch.stack(errors_of_noise, 1), FILE[f"{path}/mse"]) <= LOSSES
    prior = process.prior(x_0)
    prior_bpd = mean_flat(kl_divergence(prior, Gaussian(torch.zeros_like(x_0), 0.0))) / math.log(2)
    assert error(prior_bpd, FILE[f"{path}/prior_bpd"]) <= LOSSES
    assert error(torch.stack(terms).sum(0) + prior_bpd, FILE[f"{path}/total_bpd"]) <= LOSSES
