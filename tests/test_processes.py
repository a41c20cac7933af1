"""What several processes promise: the same network, the same images, one voice. Two real processes, joined by gloo."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from diffusers import UNet2DModel
from safetensors.torch import load_file

from ddpm_ext.data.images import load_images
from ddpm_ext.evaluation.records import read_measurements
from ddpm_ext.training import processes
from tests.parquet_files import noise, write
from tests.training_helpers import Script, largest_difference, run_main, weights


ROOT = Path(__file__).parents[1]
CONFIGURATIONS = ROOT / "docs" / "accelerate"
# Twenty updates, with the average; small steps, as Adam makes of the rounding of a gradient near zero a share of one.
TWENTY = (
    "--block_out_channels 8 16 --layers_per_block 1 --attention_head_dim 8 --max_train_steps 20 --lr_warmup_steps 2 "
    "--learning_rate 1e-4 "
    "--checkpointing_steps 10 --logging_steps 4 --save_images_steps 100 --num_inference_steps 5 --eval_batch_size 5 "
    "--random_flip --ema_sigma_rel 0.05 0.1 --logger none"
).split()
MEASURED = "--eval_steps 20 --eval_images 100 --eval_fid pixels --eval_fid_images 70 --keep_best fid".split()
ONE, TWO = ["--train_batch_size", "8"], ["--train_batch_size", "4"]
HALVES = [*TWO, "--gradient_accumulation_steps", "2"]
SAMPLE = "--num_images 7 --num_inference_steps 3 --batch_size 2".split()
EVALUATE = "--dataset_name digits --features pixels --metrics fid kid precision_recall class_accuracy".split()
SCRIPTS = "ddpm_ext.train_scripts"
BITS_PER_DIM = ("held_out_bits_per_dim", "held_out_bits_per_dim_standard_error")


def launch(script: Path, *argv: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` with two processes on the CPU, as docs/distributed.md says it; statistics go to `cache`."""
    configuration = str(CONFIGURATIONS / "two_processes_on_cpu.yaml")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", configuration]
    command += ["--main_process_port", "0"]  # any that is free
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["HF_ASSETS_CACHE"] = str(cache)
    return subprocess.run(
        [*command, str(script), *argv], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddpm_ext.training.sample_distance.default_cache", lambda: folder / "alone-cache")
        yield folder


@pytest.fixture(scope="module")
def streamed(folder) -> list[str]:
    """Arguments of a run that streams an epoch and a half in windows of a few row groups, of one file."""
    argv = "--resolution 8 --streaming --shuffle_window 30 --max_train_steps 24 --test_split train".split()
    return ["--train_data_dir", write(folder / "noise", noise(120), shards=1), *argv]


@pytest.fixture(scope="module")
def alone(folder, streamed) -> Path:
    """The folder of a run of one process with a global batch of 8, and its float64 twin beside it."""
    train = f"{SCRIPTS}.train_unconditional"
    for name, division in (("streamed_alone64", ONE), ("streamed_halves64", HALVES)):
        run_main("tests.train_in_float64", *TWENTY, *streamed, *division, "--output_dir", folder / name)
    run_main(train, *TWENTY, *MEASURED, *ONE, "--output_dir", folder / "alone")
    run_main("tests.train_in_float64", *TWENTY, *ONE, "--output_dir", folder / "alone64")
    run_main(train, *TWENTY, *HALVES, "--output_dir", folder / "halves")
    run_main("tests.train_in_float64", *TWENTY, *HALVES, "--output_dir", folder / "halves64")
    run_main(f"{SCRIPTS}.sample", "--model", folder / "alone", *SAMPLE, "--output", folder / "alone.npz")
    data = load_images("digits", show_progress=False)
    first = torch.arange(333)
    images = data.integers(first).permute(0, 2, 3, 1).numpy()
    np.savez(folder / "real.npz", arr_0=images, arr_1=data.labels[first].numpy())
    evaluate = ["--model", folder / "real.npz", *EVALUATE, "--reference_cache", folder / "alone-cache"]
    run_main(f"{SCRIPTS}.evaluate", *evaluate, "--output", folder / "alone-evaluation")
    return folder / "alone"


@pytest.fixture(scope="module")
def pair(folder, alone, streamed) -> Path:
    """Everything that two processes do in one launch; the folder of their run."""
    checkpoint, finished = (alone / "checkpoints" / f"checkpoint-{step}" for step in (10, 20))
    train = f"{SCRIPTS}.train_unconditional"
    jobs = [
        {"module": train, "argv": ["--output_dir", "pair", *MEASURED]},
        {"module": "tests.train_in_float64", "argv": ["--output_dir", "pair64"]},
        {"module": train, "argv": ["--output_dir", "resumed", "--resume_from_checkpoint", str(checkpoint)]},
        {"module": train, "argv": ["--output_dir", "stopped"], "signal_at": 7},
        {"module": train, "argv": ["--output_dir", "adapted", "--timestep_sampler", "loss_second_moment"]},
        {"module": train, "argv": ["--output_dir", "sharded"], "sharded": True},
        {
            "module": train,
            "argv": ["--output_dir", "resharded", "--resume_from_checkpoint", str(checkpoint)],
            "sharded": True,
        },
        {"module": "tests.train_in_float64", "argv": ["--output_dir", "streamed_pair64", *streamed]},
        {
            "module": train,
            "argv": ["--output_dir", "measured", "--resume_from_checkpoint", str(finished), *MEASURED],
        },
    ]
    for job in jobs:
        job["argv"] = [*TWENTY, *TWO, job["argv"][0], str(folder / job["argv"][1]), *job["argv"][2:]]
    sample = ["--model", str(alone), *SAMPLE, "--output", str(folder / "pair.npz")]
    jobs.append({"module": f"{SCRIPTS}.sample", "argv": sample})
    for time in range(2):  # with the statistics of the reference to be made, and with them to be read
        evaluate = ["--model", str(folder / "real.npz"), *EVALUATE, "--reference_cache", str(folder / "pair-cache")]
        evaluate += ["--output", str(folder / f"pair-evaluation-{time}")]
        jobs.append({"module": f"{SCRIPTS}.evaluate", "argv": evaluate})
    mistake = ["--train_batch_size", "800", "--output_dir", str(folder / "mistaken")]
    jobs.append({"module": train, "argv": [*TWENTY, *mistake], "ends_launch": True})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    ended = launch(ROOT / "tests" / "run_jobs.py", str(folder / "jobs.json"), cache=folder / "pair-assets")
    assert (folder / "codes-1.json").is_file(), ended.stderr[-3000:]
    assert ended.returncode != 0  # of the last job, a mistake
    (folder / "printed").write_text(ended.stderr)
    resume = ["--resume_from_checkpoint", folder / "sharded" / "checkpoints" / "checkpoint-10"]
    run_main(train, *TWENTY, *ONE, "--output_dir", folder / "gathered", *resume)
    return folder / "pair"


def output_on_fixed_input(folder: Path) -> torch.Tensor:
    unet = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return unet(x, torch.arange(0, 1000, 63)).sample


@pytest.mark.parametrize("division", ["pair", "halves", "resumed", "sharded", "resharded", "gathered"])
def test_a_global_batch_trains_the_same_network_however_it_is_divided(division, pair, alone, folder):
    """`resumed`: 10 updates by one process, then 10 by two. `sharded`: each process holds half of the network, from
    the first update or (`resharded`) from the 11th, or (`gathered`) up to the 10th. What is left is float32's order of
    summation."""
    for subfolder in ("unet", "checkpoints/checkpoint-20/unet_raw"):
        assert largest_difference(weights(alone, subfolder), weights(folder / division, subfolder)) < 2e-5
    for width in ("0.050", "0.100"):
        file = f"checkpoints/checkpoint-20/ema/sigma_rel-{width}.safetensors"
        assert largest_difference(load_file(alone / file), load_file(folder / division / file)) < 2e-5
    assert output_on_fixed_input(alone).abs().mean() > 1e-3  # it has learned something
    difference = output_on_fixed_input(folder / division) - output_on_fixed_input(alone)
    assert difference.abs().max() < 1e-5


@pytest.mark.parametrize("division", ["pair64", "halves64", "streamed_pair64", "streamed_halves64"])
def test_in_float64_the_division_leaves_nothing(division, pair, folder):
    whole = "streamed_alone64" if division.startswith("streamed") else "alone64"
    one, other = (torch.load(folder / name / "float64.pt") for name in (whole, division))
    assert all(tensor.dtype == torch.float64 for tensor in one.values())
    assert largest_difference(one, other) < 1e-13


def test_the_processes_log_what_one_would(pair, alone):
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (pair, alone)]
    assert [row["step"] for row in rows[0]] == [4, 8, 10, 12, 16, 20, 20]
    assert rows[0][-2]["images_seen"] == 160
    for name in BITS_PER_DIM:
        assert rows[0][-1][name] == pytest.approx(rows[1][-1][name], rel=1e-4)
    for two, one in zip(rows[0][:-1], rows[1][:-1], strict=True):
        for name in ("loss", "loss_quarter_1", "gradient_norm", "learning_rate", "epoch"):
            assert two[name] == pytest.approx(one[name], rel=1e-4)


def test_two_processes_measure_a_checkpoint_of_one_alike(pair, alone, folder):
    rows = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (folder / "measured", alone)]
    assert rows[0].keys() == rows[1].keys() == {"step", "held_out_fid", *BITS_PER_DIM}
    for name, value in rows[0].items():
        assert value == pytest.approx(rows[1][name], rel=1e-5)  # of the six digits that are written
    best = [json.loads((run / "best" / "best.json").read_text()) for run in (folder / "measured", alone)]
    assert best[0]["value"] == pytest.approx(best[1]["value"], rel=1e-9)
    assert best[0]["step"] == best[1]["step"] == 20 and best[0]["protocol"] == best[1]["protocol"]


def test_a_signal_to_one_process_stops_both_with_a_checkpoint(pair, folder):
    codes = [json.loads((folder / f"codes-{rank}.json").read_text()) for rank in (0, 1)]
    assert codes[0] == codes[1] == [0, 0, 0, 75, 0, 0, 0, 0, 0, 0, 0, 0]
    assert [path.name for path in (folder / "stopped" / "checkpoints").iterdir()] == ["checkpoint-10"]


def test_two_processes_sample_the_images_of_one(pair, folder):
    one, two = (np.load(folder / f"{name}.npz")["arr_0"] for name in ("alone", "pair"))
    assert one.shape == (7, 8, 8, 1)
    assert np.abs(one.astype(int) - two.astype(int)).max() <= 1  # batches of another size round otherwise


@pytest.mark.parametrize("time", [0, 1])
def test_two_processes_measure_the_numbers_of_one(time, pair, folder):
    one, two = (
        read_measurements(folder / name / "metrics.json") for name in ("alone-evaluation", f"pair-evaluation-{time}")
    )
    assert [measured.name for measured in one] == [measured.name for measured in two]
    for measured, other in zip(one, two, strict=True):
        assert measured.estimate.value == pytest.approx(other.estimate.value, rel=1e-7)
        assert (measured.estimate.low or 0) == pytest.approx(other.estimate.low or 0, rel=1e-7)


def test_a_mistake_under_two_processes_is_one_line(pair, folder):
    lines = [line for line in (folder / "printed").read_text().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "1600 images per update (800, times 2 processes" in lines[0]
    assert not (folder / "mistaken").exists()


def test_processes_that_do_not_know_of_each_other_are_refused(script: Script, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("ddpm_ext.training.run.on_cpu", lambda: False)
    assert "the launcher started 2 processes" in script.fails("train_unconditional", "--output_dir", str(tmp_path))


def test_a_launch_that_silently_starts_one_process_is_told(monkeypatch, capsys):
    """accelerate's own `--cpu --num_processes 2` starts one unless there is mpirun."""
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    processes.check_processes()
    assert "this is one process" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "precision"), [("cpu", "highest"), ("cuda", "high")])
def test_a_gpu_alone_multiplies_with_fewer_digits(device, precision, monkeypatch):
    monkeypatch.setattr("accelerate.PartialState", lambda: SimpleNamespace(device=torch.device(device)))
    before = torch.get_float32_matmul_precision()
    try:
        processes.use_tensor_cores()
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("file", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_understands_the_configurations(file):
    loaded = load_config_from_file(str(file))
    assert loaded.num_processes in (1, 2, 8, 16) and loaded.num_processes % loaded.num_machines == 0
