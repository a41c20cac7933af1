"""Power-function averages: their mathematics, their snapshots, resuming with them, and the widths made from them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from ddpm_ext.training import ema as ema_module
from ddpm_ext.training.ema import SNAPSHOTS_PER_RUN, PowerEMA, SnapshotWriter, list_snapshots
from ddpm_ext.training.post_hoc_ema import (
    Profile,
    fit,
    gamma_from_sigma_rel,
    nearest_reachable,
    share_of_newest,
    sigma_rel_from_gamma,
)
from ddpm_ext.training.run import Run
from tests.training_helpers import TINY, Script, largest_difference, run_main, weights


TRACKS = ["--ema_sigma_rel", "0.05", "0.10"]


def shares(sigma_rel: float, updates: int) -> np.ndarray:
    """What each update's weights contribute to the average, by the definition."""
    times = np.arange(updates + 1) / updates
    return np.diff(times ** (gamma_from_sigma_rel(sigma_rel) + 1))


def random_walk(steps: int) -> torch.Tensor:
    return torch.randn(steps, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)


@pytest.mark.parametrize("sigma_rel", [0.005, 0.05, 0.1, 0.2, 0.28])
def test_gamma_and_sigma_rel_are_inverse(sigma_rel):
    assert sigma_rel_from_gamma(gamma_from_sigma_rel(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-12)


def test_widths_of_the_paper():
    """Karras et al. (2024), section 3.2: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94."""
    assert [round(gamma_from_sigma_rel(sigma_rel), 2) for sigma_rel in (0.05, 0.10)] == [16.97, 6.94]


def test_sigma_rel_is_the_standard_deviation_of_the_shares():
    x, p = (np.arange(100_000) + 0.5) / 100_000, shares(0.07, 100_000)
    assert np.sqrt(p @ x**2 - (p @ x) ** 2) == pytest.approx(0.07, rel=1e-8)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.28])
def test_the_running_average_is_the_weighted_sum_of_all_weights(sigma_rel):
    walk, network = random_walk(300), nn.Linear(500, 1, bias=False, dtype=torch.float64)
    ema = PowerEMA(network, [sigma_rel])
    for step in walk:
        network.weight.data[0] = step
        ema.update(network.parameters())
    expected = torch.from_numpy(shares(sigma_rel, 300)) @ walk
    torch.testing.assert_close(ema.average(sigma_rel)["weight"][0], expected, rtol=0, atol=1e-12 * walk.abs().max())


def test_the_share_of_the_newest_is_exact_late_in_a_run():
    assert share_of_newest(16.0, 10**9) == pytest.approx(17e-9, rel=1e-7)


def test_the_error_of_a_fit_is_the_distance_of_the_densities():
    stored = [Profile(sigma_rel, updates) for updates in (300, 700, 1000) for sigma_rel in (0.05, 0.10)]
    wanted = Profile(0.12, 1000)
    solution = fit(stored, wanted)
    x = (np.arange(200_000) + 0.5) / 200

    def density(profile: Profile) -> np.ndarray:
        gamma = gamma_from_sigma_rel(profile.sigma_rel)
        return np.where(x < profile.updates, (gamma + 1) / profile.updates * (x / profile.updates) ** gamma, 0)

    fitted = sum(c * density(profile) for c, profile in zip(solution.coefficients, stored, strict=True))
    distance = np.linalg.norm(fitted - density(wanted)) / np.linalg.norm(density(wanted))
    assert solution.error == pytest.approx(distance, rel=1e-4)  # the sum has 200,000 terms, and jumps at 300 and 700
    assert solution.coefficients.sum() == pytest.approx(1, abs=1e-12)


def test_a_stored_average_is_its_own_reconstruction():
    stored = [Profile(sigma_rel, updates) for updates in (50, 100) for sigma_rel in (0.05, 0.10)]
    solution = fit(stored, stored[3])
    assert solution.error < 1e-7  # the square root of float64's rounding
    np.testing.assert_allclose(solution.coefficients, [0, 0, 0, 1], atol=1e-7)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.15, 0.2])
def test_snapshots_of_a_run_meet_the_widths_that_they_promise(sigma_rel):
    times = range(1, SNAPSHOTS_PER_RUN + 1)
    stored = [Profile(width, 1000 * time) for time in times for width in (0.05, 0.10)]
    assert fit(stored, Profile(sigma_rel, 1000 * SNAPSHOTS_PER_RUN)).error < 0.012


@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.15, 0.25])
def test_a_reconstruction_is_within_its_error_of_the_average_that_was_really_run(sigma_rel):
    """Cauchy and Schwarz bound the difference: the integral of (fitted - wanted density) (weights - a constant)."""
    steps, walk = 960, random_walk(960)
    network = nn.Linear(500, 1, bias=False, dtype=torch.float64)
    ema, stored, snapshots = PowerEMA(network, [0.05, 0.10, sigma_rel]), [], []
    for step, current in enumerate(walk, 1):
        network.weight.data[0] = current
        ema.update(network.parameters())
        if step % 30 == 0:
            stored += [Profile(width, step) for width in (0.05, 0.10)]
            snapshots += [ema.average(width)["weight"][0].clone() for width in (0.05, 0.10)]
    solution = fit(stored, Profile(sigma_rel, steps))
    reconstructed = torch.from_numpy(solution.coefficients) @ torch.stack(snapshots)
    gamma = gamma_from_sigma_rel(sigma_rel)
    length_of_density = (gamma + 1) / (steps * (2 * gamma + 1)) ** 0.5
    bound = solution.error * length_of_density * (walk - walk.mean(0)).norm(dim=0)
    difference = (reconstructed - ema.average(sigma_rel)["weight"][0]).abs()
    assert (difference <= bound).all()
    others = (ema.average(0.05)["weight"][0] - ema.average(0.10)["weight"][0]).abs()
    assert difference.mean() < 0.05 * others.mean()


def test_too_few_snapshots_say_which_width_they_reach():
    stored = [Profile(0.05, 100), Profile(0.10, 100)]
    nearest = nearest_reachable(stored, Profile(0.2, 100))
    assert 0.10 < nearest < 0.13
    assert fit(stored, Profile(nearest, 100)).error <= 0.05 < fit(stored, Profile(nearest + 0.001, 100)).error


@pytest.mark.parametrize("total_steps", [5, 32, 1500, 100_001])
def test_a_run_keeps_a_bounded_number_of_snapshots_and_its_last(total_steps, tmp_path):
    writer = SnapshotWriter(tmp_path, total_steps)
    due = [step for step in range(1, total_steps + 1) if writer.is_due(step)]
    assert due[-1] == total_steps and min(total_steps, 17) <= len(due) <= SNAPSHOTS_PER_RUN


# ---------------------------------------------------------------------- in a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 64 steps with three widths, of which the snapshots of one are put aside."""
    folder = tmp_path_factory.mktemp("ema") / "run"
    argv = ["--output_dir", str(folder), "--max_train_steps", "64", "--checkpointing_steps", "32"]
    argv += ["--checkpoints_total_limit", "1", "--learning_rate", "1e-2", "--ema_sigma_rel", "0.05", "0.07", "0.10"]
    run_main("ddpm_ext.train_scripts.train_unconditional", *TINY, *argv)
    for path in (folder / "ema_snapshots").glob("sigma_rel-0.070-*"):
        path.unlink()
    return folder


def test_the_limit_on_checkpoints_leaves_the_snapshots(trained):
    assert [path.name for path in (trained / "checkpoints").iterdir()] == ["checkpoint-64"]
    assert [snapshot.step for snapshot in list_snapshots(trained / "ema_snapshots")] == [
        step for step in range(2, 65, 2) for _ in range(2)
    ]


def test_the_script_reconstructs_the_average_that_was_really_run(trained, script: Script, tmp_path):
    output = tmp_path / "made"
    argv = ["--run", str(trained), "--sigma_rel", "0.07", "--output", str(output)]
    said = script.run("reconstruct_ema", *argv, tiny=False)
    assert "64 snapshots (sigma_rel 0.05, 0.1; steps 2 to 64); error of the fit: 0.10%" in said
    made, tracks = weights(output), trained / "checkpoints" / "checkpoint-64" / "ema"
    really = load_file(tracks / "sigma_rel-0.070.safetensors")
    other = load_file(tracks / "sigma_rel-0.100.safetensors")
    # The fit's error is 0.1 % of the density's length, and the densities of 0.07 and 0.10 differ by 28 % of it.
    assert largest_difference(made, really) < 0.01 * largest_difference(other, really)
    pipeline = DiffusionPipeline.from_pretrained(output)
    assert pipeline(batch_size=1, num_inference_steps=2).images[0].size == (8, 8)


def test_the_script_reconstructs_an_earlier_step(trained, script: Script, tmp_path):
    argv = ["--run", str(trained), "--sigma_rel", "0.1", "--step", "32", "--output", str(tmp_path)]
    assert "at step 32, from 32 snapshots" in script.run("reconstruct_ema", *argv, tiny=False)
    stored = load_file(trained / "ema_snapshots" / "sigma_rel-0.100-step-0000032.safetensors")
    # The fit of a stored density is exact to the square root of float64's rounding, in weights of size one.
    assert largest_difference(weights(tmp_path), stored) < 1e-6


class Killed(Exception):
    pass


def test_resumed_averages_equal_the_uninterrupted_ones(script: Script, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    argv = [*TRACKS, "--max_train_steps", "8", "--use_ema"]
    script.run("train_unconditional", "--output_dir", str(whole), *argv)
    update = Run.update

    def killed_at_step_7(run: Run, *args):
        if run.step == 7:
            raise Killed
        update(run, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "update", killed_at_step_7)
        with pytest.raises(Killed):
            script.run("train_unconditional", "--output_dir", str(broken), *argv)
    (broken / "ema_snapshots" / ".partial-sigma_rel-0.050-step-0000008.safetensors").write_text("half of it")
    script.run("train_unconditional", "--output_dir", str(broken), "--resume", *argv)
    for folder in ("checkpoints/checkpoint-8/ema", "ema_snapshots"):
        files = sorted(path.name for path in (whole / folder).iterdir())
        assert files == sorted(path.name for path in (broken / folder).iterdir())
        for name in files:
            assert largest_difference(load_file(whole / folder / name), load_file(broken / folder / name)) == 0
    both = [list_snapshots(run / "ema_snapshots") for run in (whole, broken)]
    assert [(s.profile, s.step) for s in both[0]] == [(s.profile, s.step) for s in both[1]]


@pytest.mark.parametrize("widths", [[], TRACKS], ids=["none", "fewer"])
def test_a_run_resumes_only_with_the_widths_it_was_started_with(widths, trained, script: Script):
    sentence = script.fails("train_unconditional", "--output_dir", str(trained), "--resume", *widths)
    assert "trained with ema_sigma_rel = [0.05, 0.07, 0.1]" in sentence


def write_snapshots(folder: Path, start: int, total_steps: int) -> set[int]:
    """Every step from `start` on, as a run would; returns the steps with snapshots."""
    network = nn.Linear(2, 2)
    ema, writer = PowerEMA(network), SnapshotWriter(folder, total_steps)
    writer.start = start
    for step in range(start + 1, total_steps + 1):
        ema.update(network.parameters())
        writer.write(ema, step)
    return {snapshot.step for snapshot in list_snapshots(folder)}


def test_another_end_of_a_run_leaves_no_snapshots_of_the_former(tmp_path):
    assert write_snapshots(tmp_path, start=0, total_steps=9) == set(range(1, 10))
    assert write_snapshots(tmp_path, start=5, total_steps=7) == set(range(1, 8))
    assert write_snapshots(tmp_path, start=0, total_steps=2) == {1, 2}


def test_a_full_disk_costs_a_snapshot_and_not_the_run(tmp_path, monkeypatch, capsys):
    def disk_is_full(tensors, path, metadata):
        if "-step-0000003" in str(path):
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata)

    monkeypatch.setattr(ema_module, "save_file", disk_is_full)
    assert write_snapshots(tmp_path, start=0, total_steps=5) == {1, 2, 4, 5}
    assert "snapshots of step 3 could not be written ([Errno 28] No space left on device)" in capsys.readouterr().out


# ---------------------------------------------------------------------- bad input

BAD_INPUT = {
    "no run": (["--sigma_rel", "0.07", "--output", "made"], "`run` must be given"),
    "no width": (["--run", "@", "--output", "made"], "`sigma_rel` must be given"),
    "no output": (["--run", "@", "--sigma_rel", "0.07"], "`output` must be given"),
    "no such run": (["--run", "nowhere", "--sigma_rel", "0.07", "--output", "made"], "holds no ema_snapshots"),
    "too wide": (["--run", "@", "--sigma_rel", "0.3", "--output", "made"], "`sigma_rel` is 0.3: a number from 0.005"),
    "no number": (["--run", "@", "--sigma_rel", "wide", "--output", "made"], "`sigma_rel`"),
    "out of reach": (["--run", "@", "--sigma_rel", "0.01", "--output", "made"], "is the nearest width"),
    "no such step": (["--run", "@", "--sigma_rel", "0.07", "--step", "70", "--output", "made"], "64 is the nearest"),
    "output is taken": (["--run", "@", "--sigma_rel", "0.07", "--output", "@"], "which exists"),
    "unknown flag": (["--sigmarel", "0.07"], "did you mean `--sigma_rel`"),
}


@pytest.mark.parametrize("mistake", BAD_INPUT)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(mistake, trained, script: Script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv, fragment = BAD_INPUT[mistake]
    argv = [str(trained) if text == "@" else text for text in argv]
    assert fragment in script.fails("reconstruct_ema", *argv, tiny=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_snapshot_is_named(script: Script, tmp_path):
    (tmp_path / "ema_snapshots").mkdir()
    (tmp_path / "ema_snapshots" / "sigma_rel-0.050-step-0000001.safetensors").write_text("no")
    argv = ["--run", str(tmp_path), "--sigma_rel", "0.07", "--output", str(tmp_path / "made")]
    sentence = script.fails("reconstruct_ema", *argv, tiny=False)
    assert "sigma_rel-0.050-step-0000001.safetensors, which is no snapshot" in sentence


@pytest.mark.parametrize("widths", [["0.3"], ["0.05", "0.0501"], ["0"], ["wide"]], ids=" ".join)
def test_widths_to_train_with_are_checked(widths, script: Script, tmp_path):
    argv = ["--output_dir", str(tmp_path / "run"), "--ema_sigma_rel", *widths]
    assert "`ema_sigma_rel`" in script.fails("train_unconditional", *argv)
    assert not (tmp_path / "run").exists()
