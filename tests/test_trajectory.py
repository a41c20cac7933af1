"""What a pipeline tells of its steps, the recorder that keeps it, and the pictures of it."""

import numpy as np
import pytest
import torch

from ddpm_ext.evaluation.generate import Sampling, generate
from ddpm_ext.evaluation.trajectory import images_side_by_side, record_trajectory
from ddpm_ext.schedulers.samplers import SAMPLERS, make_sampler
from ddpm_ext.schedulers.stock import sampler_for
from ddpm_ext.visualization import (
    Trajectory,
    TrajectoryRecorder,
    telling_moments,
    trajectory_frames,
    trajectory_grid,
)
from ddpm_ext.visualization.grids import to_bytes
from tests.conftest import tiny_pipeline


TOLERANCE = {"rtol": 0, "atol": 1e-4}  # float32 through a few steps


def noise() -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Kept:
    """A callback that keeps all it is told."""

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, pipeline, step, timestep, tensors):
        self.calls.append((pipeline, step, timestep, tensors))
        return tensors


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_tells_x_t_and_the_x_0_predicted_from_it(pipeline, sampler):
    pipeline.scheduler = make_sampler(sampler, pipeline.scheduler)
    kept, generator = Kept(), torch.Generator().manual_seed(1)
    told = pipeline(2, generator, 6, noise=noise(), output_type="pt", callback_on_step_end=kept).images
    untold = pipeline(2, torch.Generator().manual_seed(1), 6, noise=noise(), output_type="pt").images
    assert torch.equal(told, untold)

    assert [step for _, step, _, _ in kept.calls] == list(range(pipeline.num_timesteps))
    assert all(told_by is pipeline for told_by, _, _, _ in kept.calls)
    timesteps = [timestep for _, _, timestep, _ in kept.calls]
    assert timesteps == sorted(timesteps, reverse=True) and timesteps[0] > 990 and timesteps[-1] >= 0
    torch.testing.assert_close(kept.calls[0][3]["sample"], noise(), rtol=0, atol=0.01)  # x_T, of unit variance
    final = kept.calls[-1][3]["prev_sample"]
    torch.testing.assert_close((final / 2 + 0.5).clamp(0, 1), told, **TOLERANCE)

    model = sampler_for(make_sampler("ddpm", pipeline.scheduler))
    for _, _, timestep, tensors in kept.calls:
        t = torch.full((2,), timestep)
        output = pipeline.unet(tensors["sample"], t).sample.detach()
        expected = model.parameterization.predict_x_0(model.process, output, tensors["sample"], timestep).clamp(-1, 1)
        torch.testing.assert_close(tensors["pred_original_sample"], expected, rtol=0, atol=1e-3)


def test_a_class_conditional_pipeline_tells_the_guided_prediction(class_conditional):
    predictions = []
    for guidance_scale in (1.0, 3.0):
        kept = Kept()
        class_conditional([0, 1], guidance_scale, None, 3, noise=noise(), eta=0.0, callback_on_step_end=kept)
        predictions.append(kept.calls[0][3]["pred_original_sample"])
    assert not torch.allclose(*predictions)


def test_a_sample_that_the_callback_returns_replaces_the_next(pipeline):
    def start_again(pipeline, step, timestep, tensors):
        return {"prev_sample": torch.zeros_like(tensors["prev_sample"])} if step == 2 else None

    images = [
        pipeline(
            1, torch.Generator().manual_seed(seed), 4, 0.0, output_type="pt", callback_on_step_end=callback
        ).images
        for seed in (0, 1)
        for callback in (start_again, None)
    ]
    assert torch.equal(images[0], images[2]) and not torch.equal(images[1], images[3])


# ------------------------------------------------------------------ recording


def test_a_recorder_keeps_evenly_spaced_moments_and_the_sample(pipeline):
    recorder = TrajectoryRecorder(num_frames=6, num_samples=1)
    images = pipeline(2, noise=noise(), num_inference_steps=21, output_type="pt", callback_on_step_end=recorder).images
    trajectory = recorder.trajectory()
    assert trajectory.timesteps == [999, 749, 499, 250, 0, -1]
    assert trajectory.samples.shape == trajectory.predictions.shape == (6, 1, 1, 8, 8)
    assert torch.equal(trajectory.samples[0], noise()[:1])
    torch.testing.assert_close((trajectory.samples[-1] / 2 + 0.5).clamp(0, 1), images[:1], **TOLERANCE)
    torch.testing.assert_close(trajectory.predictions[-2], trajectory.samples[-1], **TOLERANCE)  # row 0: the mean
    assert trajectory.labels()[:2] == ["t = 999", "t = 749"] and trajectory.labels()[-1] == "sample"


def test_a_recorder_starts_anew_with_every_call(pipeline):
    recorder = TrajectoryRecorder()
    for steps in (7, 3):
        pipeline(1, num_inference_steps=steps, callback_on_step_end=recorder)
        assert len(recorder.trajectory().timesteps) == steps + 1


def test_a_recorder_that_was_not_used_says_so():
    with pytest.raises(ValueError, match="nothing was recorded"):
        TrajectoryRecorder().trajectory()
    with pytest.raises(ValueError, match="`num_frames` is 1"):
        TrajectoryRecorder(1)


def test_a_recorded_trajectory_ends_in_the_images_that_are_generated(class_conditional):
    sampling = Sampling(seed=3, num_inference_steps=4, guidance_scale=2.0)
    images = generate(class_conditional, 4, sampling, [2, 0, 1, 2])
    ended = record_trajectory(class_conditional, 2, sampling, [2, 0, 1, 2]).samples[-1]
    assert (to_bytes(ended).int() - images[:2].int()).abs().max() <= 1  # the size of the batch rounds otherwise


@pytest.mark.parametrize("size, count", [((8, 8), 10), ((64, 64), 10), ((16, 128), 5), ((16, 1024), 1)])
def test_large_images_are_shown_in_smaller_numbers(size, count):
    assert images_side_by_side(tiny_pipeline(sample_size=size), 10) == count


# ------------------------------------------------------------------ pictures


def trajectory(moments: int = 5, samples: int = 2, channels: int = 1) -> Trajectory:
    values = torch.linspace(-1, 1, moments).view(-1, 1, 1, 1, 1).expand(moments, samples, channels, 16, 16)
    return Trajectory([*range(100 * (moments - 2), -1, -100), -1], values, -values)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_trajectory_as_a_grid_has_two_rows_for_each_sample(channels):
    grid = np.asarray(trajectory_grid(trajectory(channels=channels), columns=3))
    left, top = grid.shape[1] - 3 * 68 + 4, grid.shape[0] - 4 * 68 + 4 - 8
    values = [grid[top + row * 68 + row // 2 * 8 + 32, left + 32 :: 68, 0].tolist() for row in range(4)]
    assert values == [[0, 128, 255], [255, 128, 0]] * 2


def test_a_trajectory_as_frames_has_one_for_each_moment():
    frames = trajectory_frames(trajectory(), ["zero", "one"])
    assert len(frames) == 5 and len({frame.size for frame in frames}) == 1
    middles = [frame.getpixel((frame.width - 32, frame.height - 32))[0] for frame in frames]
    assert middles == [255, 191, 128, 64, 0]


def test_telling_moments_keep_both_ends_and_crowd_where_samples_emerge():
    chosen = telling_moments(51)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 50, 6)
    gaps = [after - before for before, after in zip(chosen, chosen[1:], strict=False)]
    assert gaps == sorted(gaps, reverse=True)
    assert telling_moments(2) == [0, 1]


def test_a_thinned_trajectory_keeps_both_ends():
    assert trajectory(9).thinned(3).timesteps == [700, 300, -1]
    assert trajectory(3).thinned(10).timesteps == [100, 0, -1]
