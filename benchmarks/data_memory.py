"""Trains for one epoch on a data set several times larger than the memory that the process is allowed.

    OMP_NUM_THREADS=1 python benchmarks/data_memory.py     # about ten minutes and 8 GiB of disk

Parquet files of images of noise are trained on by `train_unconditional.py` with a tiny network, both as `datasets`
maps them into memory, having written them once more in its own format, and with `--streaming`. Each run is a fresh
process. What it may take on top of its imports is limited by RLIMIT_DATA: all memory that is not a mapped file, for
each process, enforced by the kernel. That the limit bites is shown by reading the files into memory under it.

The memory of a run is what it and its workers held at most at one time, without what they share counted twice and
without pages of mapped files, which the kernel takes back when they are needed elsewhere.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


SIDE, GROUP, SHARDS = 256, 100, 24
IMAGE_BYTES = 3 * SIDE**2
WINDOW = 512
BATCH = 64
TRAIN = (
    "--resolution 8 --block_out_channels 8 16 --layers_per_block 1 --attention_head_dim 8 --num_epochs 1 "
    "--lr_warmup_steps 0 --checkpointing_steps 1000000 --logging_steps 20 --save_images_steps 1000000 "
    "--num_inference_steps 2 --eval_batch_size 1 --logger none --image_channels 3"
).split()


def make_shards(folder: Path, total_bytes: int) -> int:
    """Writes the data set and returns its size on disk in bytes."""
    generator = np.random.default_rng(0)
    groups = max(1, round(total_bytes / IMAGE_BYTES / GROUP / SHARDS))
    schema = pa.schema({"image": pa.binary()})
    for shard in range(SHARDS):
        path = folder / f"train-{shard:05d}-of-{SHARDS:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for _ in range(groups):
                images = []
                for _ in range(GROUP):
                    pixels = np.frombuffer(generator.bytes(IMAGE_BYTES), np.uint8).reshape(SIDE, SIDE, 3)
                    file = io.BytesIO()
                    Image.fromarray(pixels).save(file, format="BMP")
                    images.append(file.getvalue())
                writer.write_table(pa.table({"image": images}, schema))
    return sum(file.stat().st_size for file in folder.iterdir())


# ------------------------------------------------------------------ what runs under the limit


def memory_bytes() -> int:
    """Of this process and its children: anonymous and shared memory, not files."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return 1024 * total


def processor_seconds() -> float:
    """Of this process and its children that live."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def set_limit(allowed_bytes: int) -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    (now,) = (1024 * int(line.split()[1]) for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + allowed_bytes, now + allowed_bytes))


def train_under_limit(allowed_bytes: int, argv: list[str]) -> dict[str, float]:
    from ddpm_ext.train_scripts import train_unconditional
    from ddpm_ext.training.run import Run

    set_limit(allowed_bytes)
    began, before, updates, peak = time.perf_counter(), memory_bytes(), [], [0]
    update = Run.update

    def timed(run: Run, loss, t, weight) -> None:
        updates.append((time.perf_counter(), processor_seconds()))
        update(run, loss, t, weight)

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], memory_bytes())
            time.sleep(0.3)

    Run.update = timed
    threading.Thread(target=watch, daemon=True).start()
    sys.argv = ["train_unconditional.py", *TRAIN, "--train_batch_size", str(BATCH), *argv]
    train_unconditional.main()
    images = BATCH * (len(updates) - 1)
    (first, used_before), (last, used) = updates[0], updates[-1]
    return {
        "seconds_to_start": first - began,
        "images_per_second": images / (last - first),
        "processor_ms": 1000 * (used - used_before) / images,
        "peak_bytes": peak[0] - before,
        "updates": len(updates),
    }


def read_under_limit(allowed_bytes: int, folder: str) -> dict[str, bool]:
    set_limit(allowed_bytes)
    try:
        tables = [pq.read_table(file, use_threads=False, pre_buffer=False) for file in sorted(Path(folder).iterdir())]
    except MemoryError:  # pyarrow's error is one
        return {"fits": False}
    return {"fits": len(tables) == SHARDS}


def run_limited(job: str, allowed_bytes: int, *argv: str) -> dict[str, float]:
    """Runs a job in a fresh process."""
    command = [sys.executable, __file__, "--job", job, "--allowed", str(allowed_bytes), *argv]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_DATASETS_OFFLINE": "1"})
    if ended.returncode:
        raise SystemExit(f"{job} {' '.join(argv)} ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


# ------------------------------------------------------------------ the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gib", type=float, default=4.0, help="size of the data set")
    parser.add_argument("--allowed_gib", type=float, default=0.75, help="memory that a process may take")
    parser.add_argument("--job", choices=("train", "read"), help=argparse.SUPPRESS)
    parser.add_argument("--allowed", type=int, help=argparse.SUPPRESS)
    arguments, rest = parser.parse_known_args()
    if arguments.job:
        job = read_under_limit if arguments.job == "read" else train_under_limit
        print(json.dumps(job(arguments.allowed, *rest) if arguments.job == "read" else job(arguments.allowed, rest)))
        return

    from tables import write_result

    allowed = int(arguments.allowed_gib * 2**30)
    rows = []
    with tempfile.TemporaryDirectory() as root:
        data = Path(root) / "data"
        data.mkdir()
        size = make_shards(data, int(arguments.gib * 2**30))
        images = sum(pq.read_metadata(file).num_rows for file in data.iterdir())
        fits = run_limited("read", allowed, str(data))["fits"]
        assert not fits, "the data set can be read into the memory that is allowed: the limit shows nothing"
        for streaming in (False, True):
            for workers in (0, 2):
                flags = ["--dataloader_num_workers", str(workers), "--train_data_dir", str(data)]
                flags += ["--streaming", "--shuffle_window", str(WINDOW)] if streaming else []
                flags += [
                    "--cache_dir",
                    f"{root}/cache-{workers}",
                    "--output_dir",
                    f"{root}/run-{streaming}-{workers}",
                ]
                measured = run_limited("train", allowed, *flags)
                assert measured["updates"] == round(images / BATCH)
                rows.append(_row("streaming" if streaming else "mapped into memory", workers, measured))
                print(rows[-1], file=sys.stderr)
    caption = (
        f"One epoch of {images:,} images ({size / 2**30:.1f} GiB of parquet, row groups of {GROUP}) with a tiny "
        f"network. On top of its imports, a process is allowed {arguments.allowed_gib} GiB, in which the files do not "
        f"fit; `--shuffle_window {WINDOW}`. By `benchmarks/data_memory.py` (one thread per process)."
    )
    columns = ["data", "workers", "memory at most", "to the first update", "images/s", "processor time per image"]
    write_result("data_memory", caption, columns, rows)


def _row(name: str, workers: int, measured: dict[str, float]) -> list[str]:
    return [
        name,
        str(workers),
        f"{measured['peak_bytes'] / 2**20:.0f} MiB",
        f"{measured['seconds_to_start']:.1f} s",
        f"{measured['images_per_second']:.0f}",
        f"{measured['processor_ms']:.1f} ms",
    ]


if __name__ == "__main__":
    main()
