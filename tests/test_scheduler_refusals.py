"""What ImprovedDDPMScheduler refuses: one sentence that names the argument, what came and what is accepted."""

import pytest
import torch

from ddpm_ext.schedulers import ImprovedDDPMScheduler


X = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    "arguments, sentence",
    (
        ({"beta_schedule": "cosinus"}, r"`beta_schedule` is 'cosinus'.*Did you mean 'cosine'\?"),
        ({"prediction_type": "eps"}, "`prediction_type` is 'eps': one of"),
        ({"variance_type": "learned_rnge"}, r"`variance_type` is 'learned_rnge'.*Did you mean 'learned_range'\?"),
        ({"timestep_spacing": "even"}, "`timestep_spacing` is 'even': one of linspace, trailing is accepted"),
        ({"steps_offset": 1}, "`steps_offset` is 1: only 0 is accepted"),
        ({"num_train_timesteps": 0}, "`num_train_timesteps` is 0"),
        ({"beta_end": 2.0}, r"`beta_end` is 2\.0"),
        ({"trained_betas": [0.1, 0.2]}, "`trained_betas` holds 2 variances: `num_train_timesteps` = 1000 needs"),
        ({"num_train_timesteps": 2, "trained_betas": [0.1, 1.2]}, "`betas` holds 1.2 at step 1"),
        (
            {"rescale_betas_zero_snr": True},
            "`rescale_betas_zero_snr` is True with `prediction_type` 'epsilon': at T-1 there is no signal left",
        ),
    ),
)
def test_configurations(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ImprovedDDPMScheduler(**arguments)


@pytest.mark.parametrize(
    "arguments, sentence",
    (
        ({}, "Exactly one of `num_inference_steps` and `timesteps`"),
        ({"num_inference_steps": 5, "timesteps": [1]}, "Exactly one of `num_inference_steps` and `timesteps`"),
        ({"num_inference_steps": 101}, "`num_inference_steps` is 101: a whole number from 1 to 100"),
        ({"num_inference_steps": 0}, "`num_inference_steps` is 0"),
        ({"num_inference_steps": 2.5}, r"`num_inference_steps` is 2\.5"),
        ({"num_inference_steps": "60,60"}, "`num_inference_steps` is '60,60': section 1 has 50 of the 100 steps"),
        ({"timesteps": [100, 5]}, "`timesteps` holds 100: this chain has the timesteps 0 to 99"),
        ({"timesteps": [5, 5]}, "`timesteps` holds 5 more than once"),
        ({"timesteps": [0.5, 5]}, r"`timesteps` holds 0\.5: whole numbers"),
        ({"timesteps": []}, "`timesteps` has shape"),
    ),
)
def test_chains(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ImprovedDDPMScheduler(100).set_timesteps(**arguments)


@pytest.mark.parametrize("timestep", (98, 0.5, -1, 100, torch.tensor(98), float("nan")))
def test_a_timestep_that_the_chain_does_not_visit(timestep):
    scheduler = ImprovedDDPMScheduler(100)
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="`timestep` is .* does not visit: its 10 steps run from 99 to 0"):
        scheduler.step(X, timestep, X)
    with pytest.raises(ValueError, match="`timestep` is .*which this chain does not visit"):
        scheduler.previous_timestep(timestep)


def test_a_timestep_per_image():
    with pytest.raises(ValueError, match=r"`timestep` has shape \(2,\): one timestep for the batch is accepted"):
        ImprovedDDPMScheduler(100).step(X, torch.tensor([5, 6]), X)


def test_a_step_after_the_last():
    scheduler = ImprovedDDPMScheduler(3)
    for _ in range(3):
        scheduler.step(X, None, X)
    with pytest.raises(ValueError, match="`step` was called after the last of 3 steps: call `set_timesteps` first"):
        scheduler.step(X, None, X)


@pytest.mark.parametrize("variance_type, channels", (("fixed_small", 6), ("learned_range", 3), ("learned", 4)))
def test_an_output_with_the_wrong_number_of_channels(variance_type, channels):
    with pytest.raises(ValueError, match=rf"`model_output` has shape \(2, {channels}, 4, 4\)"):
        ImprovedDDPMScheduler(variance_type=variance_type).step(torch.zeros(2, channels, 4, 4), 5, X)


@pytest.mark.parametrize("name", ("add_noise", "get_velocity"))
@pytest.mark.parametrize(
    "timesteps, sentence",
    (
        (torch.tensor([0.5, 5.0]), "`timesteps` is of dtype torch.float32: whole numbers are accepted"),
        (torch.tensor([5, 100]), "`timesteps` holds 100: the training chain's are 0 to 99"),
        (torch.tensor([-1, 5]), "`timesteps` holds -1"),
        (torch.tensor([1, 2, 3]), "`timesteps` holds 3 timesteps: 1 or 2, one per sample"),
    ),
)
def test_timesteps_to_noise_to(name, timesteps, sentence):
    with pytest.raises(ValueError, match=sentence):
        getattr(ImprovedDDPMScheduler(100), name)(X, X, timesteps)


@pytest.mark.parametrize("eta", (-0.1, 1.5, float("nan")))
def test_an_eta_outside_0_to_1(eta):
    with pytest.raises(ValueError, match=f"`eta` is {eta}: a number from 0"):
        ImprovedDDPMScheduler(100).step(X, 5, X, eta=eta)
