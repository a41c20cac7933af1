"""Timesteps by importance: OpenAI's numbers, its order of events, and what several processes must agree on."""

from collections import deque

import pytest
import torch

from ddpm_ext.diffusion import LossSecondMomentTimesteps, UniformTimesteps
from tests.golden_set import golden


FILE = golden("resample")
EXACT = 1e-12


def golden_sampler() -> LossSecondMomentTimesteps:
    return LossSecondMomentTimesteps(
        int(FILE["num_timesteps"]), int(FILE["history_per_term"]), float(FILE["uniform_prob"])
    )


def fed(sampler: LossSecondMomentTimesteps, batches: int = 40, size: int = 16) -> LossSecondMomentTimesteps:
    """The sampler after losses that grow with t."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(batches):
        t = torch.randint(sampler.num_timesteps, (size,), generator=generator)
        sampler.update(t, (1.0 + t) * torch.rand(size, dtype=torch.float64, generator=generator))
    return sampler


def test_weights_history_and_samples_are_openais():
    sampler = golden_sampler()
    for t, losses, weights, warmed_up in zip(
        FILE["ts"], FILE["losses"], FILE["weights"], FILE["warmed_up"], strict=True
    ):
        sampler.update(t, losses)
        torch.testing.assert_close(sampler.weights(), weights, rtol=EXACT, atol=0)
        assert sampler.warmed_up == bool(warmed_up)
    state = sampler.state_dict()
    torch.testing.assert_close(state["losses"], FILE["final_loss_history"], rtol=0, atol=0)
    assert state["counts"].tolist() == FILE["final_loss_counts"].tolist()
    t, weight = sampler.sample(FILE["sample_u"])
    assert t.tolist() == FILE["sample_indices"].tolist()
    torch.testing.assert_close(weight, FILE["sample_weights"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", (1, 7, 60))
def test_only_the_last_losses_of_a_timestep_count_in_the_order_they_came(size):
    """Against one queue per timestep; 60 losses of 4 timesteps are more than a history of 3 holds."""
    sampler, queues = LossSecondMomentTimesteps(4, history_per_term=3), [deque(maxlen=3) for _ in range(4)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        t = torch.randint(4, (size,), generator=generator)
        losses = torch.rand(size, dtype=torch.float64, generator=generator)
        sampler.update(t, losses)
        for step, loss in zip(t.tolist(), losses.tolist(), strict=True):
            queues[step].append(loss)
        state = sampler.state_dict()
        assert [row[:count].tolist() for row, count in zip(*state.values(), strict=True)] == list(map(list, queues))


def test_processes_with_batches_of_different_sizes_agree_with_one_process():
    """Each pads its batch to the largest with t = -1, and all see the concatenation."""
    alone, gathered = LossSecondMomentTimesteps(5, 2), LossSecondMomentTimesteps(5, 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        t, losses = torch.randint(5, (9,), generator=generator), torch.rand(9, generator=generator)
        alone.update(t, losses)
        padded = [torch.nn.functional.pad(part, (0, 4 - len(part)), value=-1) for part in t.split([4, 2, 3])]
        values = [torch.nn.functional.pad(p, (0, 4 - len(p)), value=torch.nan) for p in losses.split([4, 2, 3])]
        gathered.update(torch.cat(padded), torch.cat(values))
    assert alone.warmed_up
    torch.testing.assert_close(gathered.weights(), alone.weights(), rtol=0, atol=0)


def test_the_weight_keeps_the_loss_unbiased():
    sampler = fed(LossSecondMomentTimesteps(10))
    assert sampler.warmed_up
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    t, weight = sampler.sample(u)
    assert t[0] == 0 and t[-1] == 9 and (t.diff() >= 0).all()
    per_step = torch.randn(10, generator=torch.Generator().manual_seed(0))
    assert float((weight * per_step[t]).mean()) == pytest.approx(float(per_step.mean()), abs=1e-4)
    probabilities = sampler.weights() / sampler.weights().sum()
    assert probabilities[-1] > 3 * probabilities[0] > 0
    torch.testing.assert_close(weight.double(), 1 / (10 * probabilities[t]), rtol=1e-6, atol=0)


def test_until_every_timestep_has_a_history_all_are_alike():
    sampler = LossSecondMomentTimesteps(4, history_per_term=2)
    u = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    sampler.update(torch.tensor([0, 0, 1, 1, 2, 2, 3]), torch.arange(7.0))
    assert not sampler.warmed_up
    t, weight = sampler.sample(u)
    assert torch.equal(t, UniformTimesteps(4).sample(u)[0]) and torch.equal(weight, torch.ones(64))
    sampler.update(torch.tensor([3]), torch.ones(1))
    assert sampler.warmed_up and float(sampler.weights()[0]) < float(sampler.weights()[2])


def test_a_sampler_goes_on_from_its_state():
    ours, resumed = fed(LossSecondMomentTimesteps(6, 4), batches=3), LossSecondMomentTimesteps(6, 4)
    resumed.load_state_dict(ours.state_dict())
    for sampler in (ours, resumed):
        fed(sampler, batches=5, size=7)
    torch.testing.assert_close(resumed.weights(), ours.weights(), rtol=EXACT, atol=0)
    assert all(map(torch.equal, resumed.state_dict().values(), ours.state_dict().values()))


def test_bad_input_gets_one_sentence():
    for arguments, name in (((0,), "num_timesteps"), ((4, 0), "history_per_term"), ((4, 2, 1.5), "uniform_prob")):
        with pytest.raises(ValueError, match=f"^`{name}` is "):
            LossSecondMomentTimesteps(*arguments)
    sampler = LossSecondMomentTimesteps(4, 2)
    with pytest.raises(ValueError, match="^`losses` has shape"):
        sampler.update(torch.zeros(3, dtype=torch.int64), torch.zeros(2))
    with pytest.raises(ValueError, match="^`state` holds losses of shape \\(4, 3\\)"):
        sampler.load_state_dict(LossSecondMomentTimesteps(4, 3).state_dict())
