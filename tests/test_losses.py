"""Training losses beyond the golden terms: the whole bound, and weights by the signal-to-noise ratio."""

import itertools

import pytest
import torch

from ddpm_ext.diffusion import (
    P2,
    PREDICTION_TYPES,
    GaussianDiffusion,
    MinSNR,
    Parameterization,
    TrainingLoss,
    make_betas,
    rescale_zero_terminal_snr,
    simple_loss,
    snr_weight,
    vlb_loss,
)
from ddpm_ext.diffusion.parameterization import predict_epsilon, predict_velocity
from tests.golden_set import LOSSES, LOSSES_AT_0, error, golden, process_of
from tests.golden_set import PREDICTION_TYPES as GOLDEN_NAMES


FILE = golden("losses")
T = 400
BETAS = {schedule: make_betas(schedule, T) for schedule in ("linear", "cosine")}
BETAS["zero_snr"] = rescale_zero_terminal_snr(BETAS["linear"])
WEIGHTINGS = (MinSNR(), MinSNR(1.0), P2(), P2(gamma=0.5, k=2.0))
STEPS = torch.tensor([0, 1, 10, T // 2, T - 2, T - 1])

GOLDEN_BOUNDS = [
    (tag, mean, variance)
    for tag in FILE.children()
    for mean, variance, loss, term in FILE.paths(tag, "f64", "training_losses")
    if (loss, term) == ("rescaled_kl", "loss")
]


@pytest.mark.parametrize("tag, mean, variance", GOLDEN_BOUNDS)
def test_the_bound_as_a_loss_and_its_gradient_are_openais(tag, mean, variance):
    parameterization = Parameterization(GOLDEN_NAMES[mean], variance)
    t, x_0, noise = FILE[f"{tag}/t"], FILE["x_start"], FILE["noise"]
    output = FILE["model_output_2c"][:, : parameterization.output_channels(x_0.shape[1])].clone().requires_grad_()
    loss_of = TrainingLoss(process_of(tag), parameterization, "vlb")
    loss = loss_of(output, x_0, FILE[f"{tag}/f64/x_t"], noise, t)
    expected = FILE[f"{tag}/f64/training_losses/{mean}/{variance}/rescaled_kl/loss"]
    assert error(loss.detach()[t > 0], expected[t > 0]) <= LOSSES
    assert error(loss.detach()[t == 0], expected[t == 0]) <= LOSSES_AT_0
    loss.sum().backward()
    gradient = f"{tag}/f64/grad/{mean}/{variance}/rescaled_kl"
    if gradient in FILE:
        expected = FILE[gradient][:, : output.shape[1]]
        torch.testing.assert_close(output.grad, expected, rtol=1e-5, atol=LOSSES * float(expected.abs().max()))


def random_batch() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, len(STEPS), 2, 3, dtype=torch.float64, generator=generator).clamp(-1, 1).unbind()


def output_for(prediction_type, process, x_0_hat, x_t):
    """The output that stands for `x_0_hat`."""
    if prediction_type == "epsilon":
        return predict_epsilon(process, x_0_hat, x_t, STEPS)
    if prediction_type == "v_prediction":
        return predict_velocity(process, x_0_hat, x_t, STEPS)
    return process.posterior_mean(x_0_hat, x_t, STEPS, "trained") if prediction_type == "mean" else x_0_hat


@pytest.mark.parametrize(
    "schedule, prediction_type",
    [pair for pair in itertools.product(BETAS, PREDICTION_TYPES) if pair != ("zero_snr", "epsilon")],
)
@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=str)
@pytest.mark.parametrize("respaced", (False, True))
def test_weighted_losses_and_gradients_are_those_of_x_0_for_every_prediction_type(
    schedule, prediction_type, weighting, respaced
):
    process = GaussianDiffusion(BETAS[schedule])
    if respaced:  # a chain of 400 of 1,200 steps, which for a mean has other coefficients than it was trained with
        longer = make_betas("cosine", 3 * T) if schedule == "cosine" else make_betas("linear", 3 * T, 4e-5, 0.007)
        longer = rescale_zero_terminal_snr(longer) if schedule == "zero_snr" else longer
        process = GaussianDiffusion(longer).respace(range(2, 3 * T, 3))
    x_0, noise, guess = random_batch()
    x_t = process.add_noise(x_0, noise, STEPS)
    x_0_hat = guess.clone().requires_grad_()
    output = output_for(prediction_type, process, x_0_hat, x_t)
    loss_of = TrainingLoss(process, Parameterization(prediction_type), weighting=weighting)
    loss = loss_of(output, x_0, x_t, noise, STEPS)
    loss.sum().backward()

    weight = weighting.weight_of_x_0(process.snr(STEPS))
    expected = weight * ((x_0 - guess) ** 2).flatten(1).mean(1)
    gradient = 2 * weight.view(-1, 1, 1) * (guess - x_0) / x_0[0].numel()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(x_0_hat.grad, gradient, rtol=1e-7, atol=1e-12)


def test_weights_are_the_published_ones():
    """Hang et al. 2023, section 3.4, for noise and velocity; Choi et al. 2022, eq. 8, for noise."""
    process = GaussianDiffusion(BETAS["cosine"])
    snr = process.snr(STEPS)

    def weights(prediction_type, weighting):
        return snr_weight(process, Parameterization(prediction_type), STEPS, weighting)

    close = {"rtol": 1e-12, "atol": 0.0}
    torch.testing.assert_close(weights("epsilon", MinSNR(5.0)), snr.clamp(max=5) / snr, **close)
    torch.testing.assert_close(weights("sample", MinSNR(5.0)), snr.clamp(max=5), **close)
    torch.testing.assert_close(weights("v_prediction", MinSNR(5.0)), snr.clamp(max=5) / (snr + 1), **close)
    torch.testing.assert_close(weights("epsilon", P2(0.5, 2.0)), (2 + snr) ** -0.5, **close)
    for prediction_type in PREDICTION_TYPES:
        assert torch.equal(weights(prediction_type, None), torch.ones_like(snr))
    assert float(snr_weight(process, Parameterization(), 10, MinSNR(5.0))) == pytest.approx(5 / float(process.snr(10)))


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=str)
def test_weights_are_finite_where_no_signal_is_left(weighting):
    process = GaussianDiffusion(BETAS["zero_snr"])
    for prediction_type in ("sample", "v_prediction", "mean"):
        weight = snr_weight(process, Parameterization(prediction_type), torch.arange(T), weighting)
        assert torch.isfinite(weight).all() and weight[-1] == 0 and (weight[:-1] > 0).all()
    with pytest.raises(ValueError, match="^`prediction_type` is 'epsilon' and the chain ends without any signal"):
        snr_weight(process, Parameterization(), torch.arange(T), weighting)


def test_a_weighting_leaves_the_bound_in_the_hybrid_loss_alone():
    process, parameterization = GaussianDiffusion(BETAS["cosine"]), Parameterization("v_prediction", "learned_range")
    x_0, noise, guess = random_batch()
    x_t, output = process.add_noise(x_0, noise, STEPS), torch.cat([guess, noise], 1)
    arguments = (output, x_0, x_t, noise, STEPS)
    weighted = TrainingLoss(process, parameterization, "hybrid", 0.001, MinSNR())(*arguments)
    plain = TrainingLoss(process, parameterization, "hybrid", 0.001)(*arguments)
    simple = simple_loss(process, parameterization, *arguments)
    weight = snr_weight(process, parameterization, STEPS, MinSNR())
    torch.testing.assert_close(weighted - plain, (weight - 1) * simple, rtol=1e-9, atol=1e-12)


def test_losses_keep_the_dtype_of_the_output():
    process, x_0 = GaussianDiffusion(BETAS["cosine"]), torch.zeros(len(STEPS), 2, 3)
    for loss_of in (
        TrainingLoss(process, Parameterization(), "simple", weighting=P2()),
        TrainingLoss(process, Parameterization(), "vlb"),
        TrainingLoss(process, Parameterization("sample", "learned"), "hybrid", weighting=MinSNR()),
    ):
        output = torch.ones(len(STEPS), loss_of.parameterization.output_channels(2), 3)
        loss = loss_of(output, x_0, x_0 + 0.1, x_0 + 0.1, STEPS)
        assert loss.dtype == torch.float32 and loss.shape == STEPS.shape


def test_the_bound_trains_mean_and_variance():
    process, parameterization = GaussianDiffusion(BETAS["cosine"]), Parameterization("epsilon", "learned_range")
    x_0, noise, guess = random_batch()
    output = torch.cat([guess, noise], 1).requires_grad_()
    vlb_loss(process, parameterization, output, x_0, process.add_noise(x_0, noise, STEPS), STEPS).sum().backward()
    assert (output.grad[1:].flatten(1).abs().sum(1) > 0).all() and (output.grad.abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: MinSNR(0.0), "^`gamma` is 0.0"),
        (lambda: P2(-1.0), "^`gamma` is -1.0"),
        (lambda: P2(1.0, 0.0), "`k` 0.0"),
        (lambda: TrainingLoss(GaussianDiffusion(BETAS["linear"]), Parameterization(), "vbl"), "Did you mean 'vlb'"),
        (
            lambda: TrainingLoss(GaussianDiffusion(BETAS["linear"]), Parameterization(), "vlb", weighting=P2()),
            "^`weighting` is P2\\(gamma=1.0, k=1.0\\) and `loss` 'vlb'",
        ),
    ],
)
def test_bad_input_gets_one_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
