"""Streaming: parquet files read a row group at a time give the images that they hold, in bounded memory."""

import gc
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ddpm_ext.data import shards
from ddpm_ext.data.images import Draw, ImageData, load_images
from ddpm_ext.data.shards import Shards
from tests.data_hub import DataHub
from tests.parquet_files import encoded, noise, write
from tests.training_helpers import Script, killed_at, largest_difference, weights


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keeps what `datasets` prepares out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path) -> str:
    """107 gray images of three classes in three files of four row groups."""
    return write(tmp_path / "data", noise(107), label=[row % 3 for row in range(107)])


def stream(folder: str, resolution: int = 8, shuffle_window: int = 40, **arguments: object) -> ImageData:
    return load_images(
        train_data_dir=folder, resolution=resolution, streaming=True, shuffle_window=shuffle_window, **arguments
    )


def training_plan(
    data: ImageData, steps: int, batch: int = 8, process: int = 0, processes: int = 1, first_step: int = 0
) -> Iterator[Draw]:
    """The draws of one of several processes, as a run makes them."""
    order, size = data.order(0, batch), batch // processes
    for step in range(first_step, steps):
        crop = torch.rand(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        start = process * size
        yield Draw(order.indices(step * batch + start, size), crop[start : start + size])


@pytest.fixture
def reads(monkeypatch) -> Counter[int]:
    """How often each block is read from here on."""
    counts: Counter[int] = Counter()
    read = Shards.read

    def counted(self: Shards, number: int, stopped: threading.Event | None = None) -> pa.Table:
        counts[number] += 1
        return read(self, number, stopped)

    monkeypatch.setattr(Shards, "read", counted)
    return counts


# ------------------------------------------------------------------ the same images


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("center_crop", [False, True])
def test_streamed_batches_are_those_of_the_prepared_data_set(tmp_path, num_workers, center_crop):
    generator = np.random.default_rng(0)
    images = [encoded(generator.integers(0, 256, (12, 18, 3), dtype=np.uint8)) for _ in range(60)]
    folder = write(tmp_path / "data", images, label=list(range(60)))
    streamed = stream(folder, "8x7", center_crop=center_crop, num_workers=num_workers)
    prepared = load_images(train_data_dir=folder, resolution="8x7", center_crop=center_crop)
    assert len(streamed) == 60 and streamed.shape == (3, 8, 7) and not streamed.is_in_memory
    assert streamed.class_names == prepared.class_names and streamed.columns == ["image", "label"]
    plan = list(training_plan(streamed, 20))
    for ours, theirs in zip(streamed.batches(plan, ahead=3), prepared.batches(plan), strict=True):
        assert torch.equal(ours["images"], theirs["images"])
        assert torch.equal(ours["labels"], theirs["labels"])
    everything = torch.arange(60)
    assert torch.equal(streamed.integers(everything), prepared.integers(everything))


def test_16_bits_are_kept_on_request(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (4, 4)).astype(np.uint16)
    data = stream(write(tmp_path / "data", [encoded(pixels)], shards=1), 4, preserve_input_precision=True)
    assert data.max_value == 65535
    assert np.array_equal(data.integers(torch.tensor([0]))[0, 0].numpy(), pixels)


@pytest.mark.parametrize("kind", ["names", "numbers", "none", "texts", "gaps"])
def test_classes_are_known_from_the_metadata(tmp_path, kind):
    folder, path = tmp_path / "data", tmp_path / "data" / "a.parquet"
    folder.mkdir()
    labels = {"numbers": [0, 4, 2], "texts": ["b", "a", "b"], "gaps": [0, None, 1]}.get(kind, [1, 0, 1])
    columns = {"image": [{"bytes": image, "path": None} for image in noise(3)]}
    rows = datasets.Dataset.from_dict(columns if kind == "none" else {**columns, "label": labels})
    if kind == "names":
        rows = rows.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    rows.to_parquet(path)
    expected = {"names": ["cat", "dog"], "numbers": ["0", "1", "2", "3", "4"]}.get(kind)
    data = stream(str(path))
    assert data.class_names == expected
    (batch,) = data.batches([Draw(torch.arange(3))])
    assert batch["labels"] is None if expected is None else batch["labels"].tolist() == labels
    if kind in ("texts", "gaps"):
        with pytest.raises(ValueError, match="`label_column` 'label' of .* class numbers of at least 0 are accepted"):
            stream(str(path), label_column="label")


def test_images_may_be_stored_as_bytes_alone(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    pq.write_table(pa.table({"picture": [encoded(pixels)]}), tmp_path / "a.parquet")
    data = stream(str(tmp_path / "a.parquet"))
    assert np.array_equal(data.integers(torch.tensor([0]))[0, 0].numpy(), pixels)


# ------------------------------------------------------------------ bounded memory, little reading


def test_only_what_the_next_window_needs_is_in_memory(tmp_path):
    """Of 100 row groups, two windows hold 4. All that Arrow holds after a batch is counted: also the up to 4 that are
    being read meanwhile, as stored, as unpacked and as joined."""
    folder = write(tmp_path / "data", noise(1000, side=64), label=[0] * 1000)
    size = sum(file.stat().st_size for file in Path(folder).iterdir())
    data = stream(folder, 64, shuffle_window=20)
    gc.collect()
    before, held = pa.total_allocated_bytes(), []
    for _ in data.batches(training_plan(data, 250, batch=4), ahead=data.order(0, 4).steps_ahead):
        held.append(pa.total_allocated_bytes() - before)
    assert size > 4 * 10**6
    assert max(held) < size * (4 + 3 * 4 + 2) / 100
    gc.collect()
    assert pa.total_allocated_bytes() - before < size / 100


def test_an_epoch_reads_each_row_group_once(folder, reads):
    data = stream(folder, image_channels=1)
    assert not reads
    list(data.batches(training_plan(data, 107 * 2, batch=1), ahead=data.order(0, 1).steps_ahead))
    assert reads == Counter(dict.fromkeys(range(12), 2))


def test_processes_share_the_reading(tmp_path, reads):
    data = stream(write(tmp_path / "data", noise(320), shards=1), shuffle_window=160, image_channels=1)
    seen = []
    for process in range(4):
        plan = list(training_plan(data, 40, process=process, processes=4))
        list(data.batches(plan, ahead=data.order(0, 8).steps_ahead))
        seen += [draw.indices for draw in plan]
    assert torch.cat(seen).sort().values.tolist() == list(range(320))  # no image twice, none left out
    assert sum(reads.values()) <= 32 + 2 * 3  # in each of two windows, a neighbour's row group for three processes


@pytest.mark.parametrize("first_step", [0, 10**9])
def test_starting_anywhere_reads_no_more_than_a_window_and_the_next(folder, reads, first_step):
    data = stream(folder, image_channels=1)
    plan = training_plan(data, first_step + 5, first_step=first_step)
    batch = next(data.batches(plan, ahead=data.order(0, 8).steps_ahead))
    assert batch["images"].shape == (8, 1, 8, 8)
    assert sum(reads.values()) <= 9


def test_row_groups_that_take_much_memory_are_warned_of(folder, caplog):
    with caplog.at_level(logging.WARNING):
        stream(folder)
        assert not caplog.records
        stream(folder, memory_limit_bytes=1000)
    (record,) = caplog.records
    assert "`shuffle_window` is 40" in record.getMessage() and "row groups" in record.getMessage()


# ------------------------------------------------------------------ the Hub


@pytest.fixture
def serve(monkeypatch, tmp_path) -> Iterator[Callable[[str], DataHub]]:
    """Makes a folder of files the only data set of the Hub."""
    import huggingface_hub.constants as constants

    hubs = []

    def start(folder: str) -> DataHub:
        hub = DataHub(Path(folder))
        hubs.append(hub)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        fsspec.get_filesystem_class("hf").clear_instance_cache()
        return hub

    yield start
    fsspec.get_filesystem_class("hf").clear_instance_cache()
    for hub in hubs:
        hub.server.shutdown()
        hub.server.server_close()


def test_a_data_set_of_the_hub_is_read_by_ranges_of_its_files(tmp_path, serve):
    images = noise(300, side=32)
    folder = write(tmp_path / "data", images, shards=2, group=30, label=[row % 3 for row in range(300)])
    hub = serve(folder)
    arguments = dict(resolution=32, streaming=True, shuffle_window=60, image_channels=1)
    data = load_images(hub.name, **arguments)
    total = sum(map(len, hub.files.values()))
    assert len(data) == 300 and data.class_names == ["0", "1", "2"]
    footers = [first for _, first, _ in hub.ranges]
    assert min(footers) > 0 and not list((tmp_path / "cache").rglob("*.arrow"))
    before = len(hub.ranges)
    local, plan = stream(folder, 32, shuffle_window=60), list(training_plan(data, 6))
    for ours, theirs in zip(data.batches(plan), local.batches(plan), strict=True):
        assert torch.equal(ours["images"], theirs["images"]) and torch.equal(ours["labels"], theirs["labels"])
    read = sum(last + 1 - first for _, first, last in hub.ranges[before:])
    assert 0 < read < 0.8 * total  # one window of 60 images, and the footers of its row groups
    by_url = load_images(train_data_dir=f"hf://datasets/{hub.name}/train-00001*.parquet", **arguments)
    assert len(by_url) == 150


def test_a_read_that_fails_is_tried_again_and_then_said(folder, monkeypatch, caplog):
    data = stream(folder, image_channels=1)
    data._store.shards.filesystem = fsspec.filesystem("memory")  # not this machine's files
    monkeypatch.setattr(shards, "SECONDS_TO_WAIT", (0, 0))
    opened, failures = shards._opened, iter([OSError("connection reset"), OSError("connection reset")])

    def unreliable(filesystem: fsspec.AbstractFileSystem, path: str):
        if error := next(failures, None):
            raise error
        return opened(fsspec.filesystem("file"), path)

    monkeypatch.setattr(shards, "_opened", unreliable)
    with caplog.at_level(logging.WARNING):
        assert data.integers(torch.tensor([5])).shape == (1, 1, 8, 8)
    assert [record.getMessage().count("connection reset") for record in caplog.records] == [1, 1]
    failures = iter([OSError("connection reset")] * 3)
    with pytest.raises(
        ValueError, match=r"^row group 0 of \S*00000\S* cannot be read \(connection reset\); `--resume`"
    ):
        data.integers(torch.tensor([5]))


# ------------------------------------------------------------------ bad images, bad input


def damaged(images: list[bytes], row: int) -> list[bytes]:
    return [*images[:row], images[row][:60], *images[row + 1 :]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, num_workers):
    data = stream(write(tmp_path / "data", damaged(noise(40), 25), shards=1), num_workers=num_workers)
    with pytest.raises(ValueError, match=r"^row 25 of \S*00000\S* cannot be decoded \([^\n]*`skip_bad_images`\.$"):
        list(data.batches([Draw(torch.arange(20, 30))]))


def test_the_next_image_of_its_row_group_stands_in_for_a_bad_one(tmp_path, caplog):
    images = damaged(damaged(noise(40), 19), 10)  # the last and the first of a row group
    data = stream(write(tmp_path / "data", images, shards=1, label=list(range(40))), skip_bad_images=True)
    with caplog.at_level(logging.WARNING):
        (batch,), (again,) = (list(data.batches([Draw(torch.tensor([19, 3, 10]))])) for _ in range(2))
    assert batch["labels"].tolist() == [11, 3, 11]
    (expected,) = data.batches([Draw(torch.tensor([11, 3, 11]))])
    assert torch.equal(batch["images"], expected["images"]) and torch.equal(again["images"], expected["images"])
    assert sorted(record.getMessage()[:6] for record in caplog.records) == ["row 10", "row 19"]  # once each


def test_colour_after_a_gray_beginning_is_refused_not_converted(tmp_path):
    folder = write(tmp_path / "data", noise(20) + noise(10, channels=3), shards=1)
    with pytest.raises(ValueError, match="^row 20 of .* is in colour .* `image_channels` 1 or 3"):
        list(stream(folder).batches([Draw(torch.arange(15, 25))]))
    for channels in (1, 3):
        data = stream(folder, image_channels=channels)
        assert data.integers(torch.arange(15, 25)).shape == (10, channels, 8, 8)


def test_what_cannot_stream_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="`streaming` reads parquet files, and 'digits' are in memory"):
        load_images("digits", streaming=True, resolution=8)
    with pytest.raises(ValueError, match="`resolution` must be given with `streaming`"):
        load_images(train_data_dir=folder, streaming=True)
    with pytest.raises(ValueError, match=r"`split` is 'test'; the splits of .* are \['train'\]"):
        stream(folder, split="test")
    with pytest.raises(ValueError, match="`image_column` 'label' holds no images"):
        stream(folder, image_column="label")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(noise(1)[0])
    with pytest.raises(ValueError, match="`streaming` reads parquet files, and `train_data_dir` .* has none"):
        stream(str(tmp_path / "images"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"broken.parquet of .* cannot be read as a parquet file \([^\n]*\)\.$"):
        stream(str(tmp_path / "broken.parquet"))
    pq.write_table(pq.read_table(folder).slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="has no images in its split 'train'"):
        stream(str(tmp_path / "empty.parquet"))


# ------------------------------------------------------------------ runs


def test_a_streamed_run_resumes_to_the_same_weights_and_only_as_it_streamed(tmp_path, script: Script, folder):
    """In the middle of the second epoch; the images fill one and a half global batches of each window."""
    argv = ["--train_data_dir", folder, "--resolution", "8", "--streaming", "--shuffle_window", "40"]
    argv += ["--train_batch_size", "4", "--gradient_accumulation_steps", "3", "--dataloader_num_workers", "1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    script.run("train_class_conditional", "--output_dir", str(whole), *argv)
    with killed_at(11):
        script.run("train_class_conditional", "--output_dir", str(broken), *argv)
    resume = ["--output_dir", str(broken), "--resume"]
    other = script.fails("train_class_conditional", *resume, *argv, "--shuffle_window", "50")
    assert "streaming in windows of 40, and this run has" in other
    prepared = [argument for argument in argv if argument != "--streaming"]
    assert "streaming in windows of 40, and this run" in script.fails("train_class_conditional", *resume, *prepared)
    script.run("train_class_conditional", *resume, *argv)
    assert largest_difference(weights(whole), weights(broken)) == 0
