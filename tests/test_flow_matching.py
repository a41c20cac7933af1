"""The straight path from data to noise, its velocity, and which times training looks at."""

import pytest
import torch

from ddpm_ext.diffusion import FlowMatching, LogitNormalTimes, UniformTimes


PATH = FlowMatching(1000)
SHAPES = [(6, 2), (6, 1, 4, 4)]


def data_and_noise(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1, torch.randn(
        shape, generator=generator, dtype=dtype
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_ends_of_the_path_are_data_and_noise(shape):
    x_0, noise = data_and_noise(shape)
    for start, end in ((0, 1000), (0.0, 1000.0), (torch.zeros(6), torch.full((6,), 1000.0))):
        assert torch.equal(PATH.add_noise(x_0, noise, start), x_0)
        assert torch.equal(PATH.add_noise(x_0, noise, end), noise)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_target_is_the_derivative_of_the_path(shape):
    x_0, noise = data_and_noise(shape)
    s = torch.rand(6, dtype=torch.float64, requires_grad=True)
    x_s = PATH.add_noise(x_0, noise, s * 1000).flatten(1)
    for column, target in zip(x_s.unbind(1), PATH.target(x_0, noise).flatten(1).unbind(1), strict=True):
        (derivative,) = torch.autograd.grad(column.sum(), s, retain_graph=True)
        torch.testing.assert_close(derivative, target, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [0, 1, 500.5, 1000, torch.tensor([0, 1, 10, 500, 999, 1000])])
def test_the_data_follow_from_the_velocity(t):
    x_0, noise = data_and_noise((6, 1, 4, 4))
    x_t, velocity = PATH.add_noise(x_0, noise, t), PATH.target(x_0, noise)
    torch.testing.assert_close(PATH.predict_x_0(velocity, x_t, t), x_0, rtol=0, atol=1e-14)


def test_the_path_stays_in_float32_where_the_samples_are():
    x_0, noise = data_and_noise((6, 2), torch.float32)
    t = torch.linspace(0.0, 1000.0, 6)
    x_t = PATH.add_noise(x_0, noise, t)
    assert x_t.dtype == PATH.loss(x_t, x_0, x_t, noise, t).dtype == torch.float32


def test_the_loss_is_the_mean_squared_error_of_each_sample():
    x_0, noise = data_and_noise((6, 1, 4, 4))
    t, error = torch.full((6,), 300.0), torch.arange(6.0, dtype=torch.float64).view(6, 1, 1, 1)
    x_t = PATH.add_noise(x_0, noise, t)
    loss = PATH.loss(noise - x_0 + error, x_0, x_t, noise, t)
    torch.testing.assert_close(loss, torch.arange(6.0, dtype=torch.float64) ** 2)
    with pytest.raises(ValueError, match=r"`model_output` has shape \(6, 2, 4, 4\): .* \(6, 1, 4, 4\) has the same"):
        PATH.loss(torch.zeros(6, 2, 4, 4), x_0, x_t, noise, t)


@pytest.mark.parametrize("s", [0.1, 0.5, 0.9])
def test_the_least_loss_for_gaussian_data_is_that_of_the_velocity_of_its_marginals(s):
    """Marginals N((1 - s) m, w), w = (1 - s)^2 d^2 + s^2, move by v(x) = -m + w' / (2 w) (x - (1 - s) m)."""
    mean, deviation, count = 0.3, 0.5, 400_000
    generator = torch.Generator().manual_seed(0)
    x_0 = mean + deviation * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    x_t = PATH.add_noise(x_0, noise, s * 1000)
    fitted = torch.linalg.lstsq(torch.cat([torch.ones_like(x_t), x_t], dim=1), PATH.target(x_0, noise)).solution
    variance = (1 - s) ** 2 * deviation**2 + s**2
    slope = (s - (1 - s) * deviation**2) / variance
    expected = torch.tensor([[-mean - slope * (1 - s) * mean], [slope]], dtype=torch.float64)
    torch.testing.assert_close(fitted, expected, rtol=0, atol=0.02)  # six standard errors of 400,000


GRID = (torch.arange(10_000, dtype=torch.float64) / 10_000).float()


def test_uniform_times_are_evenly_spread_from_just_above_data_to_noise():
    t, weight = UniformTimes(1000).sample(GRID)
    assert t.dtype == torch.float32 and bool((weight == 1).all())
    torch.testing.assert_close(t.sort().values, torch.linspace(0.1, 1000, 10_000), rtol=0, atol=1e-3)
    assert float(t.min()) > 0 and float(t.max()) == 1000


def test_logits_of_logit_normal_times_are_standard_normal():
    t, weight = LogitNormalTimes(1000).sample(GRID)
    assert bool((weight == 1).all()) and float(t.max()) == 1000 and float(t.min()) > 0
    logits = (t[1:].double() / 1000).logit()
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(normal.cdf(logits).float(), 1 - GRID[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("times", [UniformTimes, LogitNormalTimes])
def test_times_are_drawn_without_a_state(times):
    sampler = times(1000)
    assert not sampler.learns_from_losses and sampler.state_dict() == {}
    sampler.update(torch.ones(3), torch.ones(3))
    sampler.load_state_dict({})
