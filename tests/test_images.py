"""Images: where they come from, how they are decoded, and that a batch is a function of its draw alone."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_ext.data.images import Draw, load_images, to_unit_range


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keeps what `datasets` prepares out of the user's cache."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(folder: Path, name: str, pixels: np.ndarray) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def read_all(data) -> np.ndarray:
    """(N, H, W, C)"""
    return data.integers(torch.arange(len(data))).permute(0, 2, 3, 1).numpy()


def plan(count: int, batches: int = 5, batch_size: int = 6) -> list[Draw]:
    generator = torch.Generator().manual_seed(0)
    return [
        Draw(
            torch.randint(count, (batch_size,), generator=generator),
            torch.rand(batch_size, 2, dtype=torch.float64, generator=generator),
        )
        for _ in range(batches)
    ]


def test_digits_are_split_80_20_with_every_class_in_proportion():
    train, test = load_images("digits"), load_images("digits", split="test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == test.shape == (1, 8, 8)
    assert train.class_names == test.class_names == list("0123456789")
    counts = torch.bincount(train.labels), torch.bincount(test.labels)
    assert (counts[0] / 1437 - counts[1] / 360).abs().max() < 1 / 360
    assert train.is_in_memory


def test_digits_are_scikit_learns_scaled_to_8_bits():
    from sklearn.datasets import load_digits

    data = torch.cat(
        [load_images("digits", split=s).integers(torch.arange(n)) for s, n in (("train", 1437), ("test", 360))]
    )
    theirs = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert data.dtype == torch.uint8
    assert sorted(image.tobytes() for image in data.numpy()) == sorted(image.tobytes() for image in theirs)


@pytest.mark.parametrize("max_value", [255, 65535])
def test_unit_range_is_minus_one_to_one_and_reversible(max_value):
    levels = torch.arange(max_value + 1, dtype=torch.int32)
    values = to_unit_range(levels, max_value)
    assert values.dtype == torch.float32
    assert values[0] == -1 and values[-1] == 1
    assert torch.equal(((values.double() + 1) * max_value / 2).round().int(), levels)


def test_a_batch_holds_the_images_and_labels_of_its_indices():
    data = load_images("digits")
    indices = torch.tensor([3, 1, 3])
    (batch,) = data.batches([Draw(indices, torch.rand(3, 2, dtype=torch.float64))])
    assert torch.equal(batch["images"], to_unit_range(data.integers(indices), 255))
    assert torch.equal(batch["labels"], data.labels[indices])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("center_crop", [False, True])
def test_streamed_batches_equal_those_from_memory(tmp_path, num_workers, center_crop):
    for i in range(8):
        save(tmp_path / "data" / "ab"[i % 2], f"{i}.png", random_pixels(12, 18, 3, seed=i))
    arguments = dict(train_data_dir=str(tmp_path / "data"), resolution="8x7", center_crop=center_crop)
    memory = load_images(**arguments)
    stream = load_images(**arguments, memory_limit_bytes=100, num_workers=num_workers)
    assert memory.is_in_memory and not stream.is_in_memory
    pairs = list(zip(memory.batches(plan(8)), stream.batches(iter(plan(8))), strict=True))
    assert len(pairs) == 5
    for ours, theirs in pairs:
        assert ours["images"].shape == (6, 3, 8, 7)
        assert torch.equal(ours["images"], theirs["images"])
        assert torch.equal(ours["labels"], theirs["labels"])
    assert torch.equal(memory.integers(torch.arange(8)), stream.integers(torch.arange(8)))


def test_reading_draws_nothing_from_the_global_random_numbers(tmp_path):
    save(tmp_path / "data", "a.png", random_pixels(9, 12, 3))
    data = load_images(train_data_dir=str(tmp_path / "data"), resolution=6, memory_limit_bytes=0, num_workers=1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(data.batches(plan(1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_crops_reach_both_ends_of_the_image_and_none_is_the_centre(tmp_path):
    columns = np.tile(np.arange(0, 100, 10, dtype=np.uint8), (4, 1))  # 4 rows, 10 columns
    save(tmp_path / "data", "a.png", columns)
    data = load_images(train_data_dir=str(tmp_path / "data"), resolution=4)
    crop = torch.tensor([[0.5, 0.0], [0.5, 1 - 2**-53]], dtype=torch.float64)
    (batch,) = data.batches([Draw(torch.tensor([0, 0]), crop)])
    expected = to_unit_range(torch.from_numpy(np.stack([columns[:, :4], columns[:, 6:]]))[:, None], 255)
    assert torch.equal(batch["images"], expected)
    assert np.array_equal(read_all(data)[0, ..., 0], columns[:, 3:7])


def test_images_of_different_proportions_stream_unless_the_centre_is_cropped(tmp_path):
    save(tmp_path / "data", "a.png", random_pixels(8, 8))
    save(tmp_path / "data", "b.png", random_pixels(8, 16))
    folder = str(tmp_path / "data")
    assert not load_images(train_data_dir=folder, resolution=8).is_in_memory
    assert load_images(train_data_dir=folder, resolution=8, center_crop=True).is_in_memory


def test_resolution_is_height_x_width_and_the_image_covers_it(tmp_path):
    save(tmp_path / "data", "a.png", np.full((30, 20), 77, dtype=np.uint8))
    data = load_images(train_data_dir=str(tmp_path / "data"), resolution="6x10")
    assert data.shape == (1, 6, 10)
    assert (read_all(data) == 77).all()


def test_sub_folders_are_classes_and_a_flat_folder_has_no_labels(tmp_path):
    for i, name in enumerate(["cat", "ant", "bee", "ant"]):
        save(tmp_path / "classes" / name, f"{i}.png", random_pixels(4, 4, seed=i))
        save(tmp_path / "flat", f"{i}.png", random_pixels(4, 4, seed=i))
    classes = load_images(train_data_dir=str(tmp_path / "classes"))
    assert classes.class_names == ["ant", "bee", "cat"]
    assert sorted(classes.labels.tolist()) == [0, 0, 1, 2]
    flat = load_images(train_data_dir=str(tmp_path / "flat"))
    assert flat.labels is None and flat.class_names is None
    assert next(flat.batches(plan(4)))["labels"] is None


@pytest.fixture
def parquet(tmp_path):
    """Writes splits of three images to parquet, the columns as given; returns the folder."""
    import datasets

    def write(splits: list[str], image_feature: bool = True, **columns: list) -> str:
        folder = tmp_path / "parquet"
        folder.mkdir()
        for split in splits:
            images = [{"bytes": encoded(random_pixels(4, 6, 3, seed=i)), "path": f"{i}.png"} for i in range(3)]
            rows = datasets.Dataset.from_dict({"picture": images, **columns})
            if image_feature:
                rows = rows.cast_column("picture", datasets.Image())
            rows.to_parquet(folder / f"{split}.parquet")
        return str(folder)

    return write


@pytest.mark.parametrize("image_feature", [True, False])
def test_parquet_is_read_from_a_folder_a_file_and_a_glob(parquet, image_feature):
    folder = parquet(["train", "test"], image_feature)
    expected = np.stack([random_pixels(4, 6, 3, seed=i) for i in range(3)])
    for arguments in (
        {"train_data_dir": folder, "split": "test"},
        {"train_data_dir": f"{folder}/test.parquet"},
        {"train_data_dir": f"{folder}/te*.parquet"},
        {"dataset_name": folder, "split": "test"},
        {"dataset_name": f"{folder}/test.parquet"},
    ):
        assert np.array_equal(read_all(load_images(**arguments)), expected)


def test_labels_may_be_numbers_or_names(parquet):
    folder = parquet(
        ["train"], label=[2, 0, 2], animal=["bee", "ant", "bee"], weight=[0.5, 1.0, 2.0], gap=[0, None, 1]
    )
    numbers = load_images(train_data_dir=folder)
    assert (numbers.labels.tolist(), numbers.class_names) == ([2, 0, 2], ["0", "1", "2"])
    names = load_images(train_data_dir=folder, label_column="animal")
    assert (names.labels.tolist(), names.class_names) == ([1, 0, 1], ["ant", "bee"])
    assert numbers.columns == ["picture", "label", "animal", "weight", "gap"]
    for column, problem in (("weight", "numbers or names"), ("gap", "without a label"), ("lable", "does not exist")):
        with pytest.raises(ValueError, match=f"`label_column` '{column}'.* {problem}"):
            load_images(train_data_dir=folder, label_column=column)


def test_one_image_in_colour_makes_the_data_set_colour(tmp_path):
    gray = random_pixels(4, 4)
    save(tmp_path / "data", "a.png", gray)
    assert load_images(train_data_dir=str(tmp_path / "data")).shape == (1, 4, 4)
    save(tmp_path / "data", "b.png", random_pixels(4, 4, 3))
    data = load_images(train_data_dir=str(tmp_path / "data"))
    assert data.shape == (3, 4, 4)
    assert np.array_equal(read_all(data)[0], np.repeat(gray[..., None], 3, axis=2))


def test_gray_of_a_colour_image_is_pils_luma(tmp_path):
    path = save(tmp_path / "data", "a.png", random_pixels(16, 16, 3))
    data = load_images(train_data_dir=str(tmp_path / "data"), image_channels=1)
    assert np.array_equal(read_all(data)[0, ..., 0], np.asarray(Image.open(path).convert("L")))


def test_alpha_is_removed_not_blended(tmp_path):
    pixels = random_pixels(4, 4, 4)
    save(tmp_path / "data", "a.png", pixels)
    assert np.array_equal(read_all(load_images(train_data_dir=str(tmp_path / "data")))[0], pixels[..., :3])


@pytest.mark.parametrize("extension", ["bmp", "gif", "tiff", "webp"])
def test_other_formats_are_read_as_pil_reads_them(tmp_path, extension):
    path = save(tmp_path / "data", f"a.{extension}", random_pixels(8, 8, 3))
    data = load_images(train_data_dir=str(tmp_path / "data"))
    assert np.array_equal(read_all(data)[0], np.asarray(Image.open(path).convert("RGB")))


def test_an_image_stored_on_its_side_is_turned_upright(tmp_path):
    (tmp_path / "data").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees to be seen
    pixels = random_pixels(4, 8)
    Image.fromarray(pixels).save(tmp_path / "data" / "a.png", exif=exif)
    assert np.array_equal(
        read_all(load_images(train_data_dir=str(tmp_path / "data")))[0, ..., 0], np.rot90(pixels, -1)
    )


def save_16_bit_colour(path: Path, pixels: np.ndarray) -> None:
    """A PNG by its specification (PIL writes none of 16-bit colour): signature, IHDR, IDAT, IEND."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.filterwarnings("ignore:.*deprecated since torchvision:DeprecationWarning")
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_kept_on_request_and_scaled_to_8_otherwise(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (4, 4, channels)).astype(np.uint16)
    if channels == 1:
        save(tmp_path / "data", "a.png", pixels[..., 0])
    else:
        save_16_bit_colour(tmp_path / "data" / "a.png", pixels)
    save(tmp_path / "data", "b.png", np.full((4, 4), 255, dtype=np.uint8))
    folder = str(tmp_path / "data")
    kept = load_images(train_data_dir=folder, preserve_input_precision=True)
    assert kept.max_value == 65535 and kept.shape == (channels, 4, 4)
    assert np.array_equal(read_all(kept)[0], pixels)
    assert (read_all(kept)[1] == 65535).all()
    scaled = load_images(train_data_dir=folder)
    assert scaled.max_value == 255
    assert np.array_equal(read_all(scaled)[0], np.round(pixels / 257) if channels == 1 else pixels >> 8)


def test_8_bit_images_stay_8_bit_when_precision_is_preserved():
    assert load_images("digits", preserve_input_precision=True).max_value == 255


def truncated(folder: Path, name: str) -> Path:
    """An image whose header is sound and whose pixels end early."""
    path = save(folder, name, random_pixels(32, 32, 3))
    path.write_bytes(path.read_bytes()[:500])
    return path


@pytest.mark.parametrize("damage", ["truncated", "not an image"])
def test_an_image_that_cannot_be_decoded_is_named_in_one_sentence(tmp_path, damage):
    save(tmp_path / "data", "a.png", random_pixels(32, 32, 3))
    path = truncated(tmp_path / "data", "b.png")
    if damage == "not an image":
        path.write_bytes(b"hello")
    with pytest.raises(ValueError, match="b.png cannot be decoded .*`skip_bad_images`") as error:
        load_images(train_data_dir=str(tmp_path / "data"))
    assert "\n" not in str(error.value) and "0x" not in str(error.value)


def test_a_worker_names_the_image_that_it_cannot_decode(tmp_path):
    truncated(tmp_path / "data", "b.png")
    data = load_images(train_data_dir=str(tmp_path / "data"), memory_limit_bytes=0, num_workers=1)
    with pytest.raises(ValueError, match=r"^\S*b.png cannot be decoded [^\n]*$"):
        next(data.batches(plan(1)))


@pytest.mark.parametrize("memory_limit_bytes", [0, 10**6])
def test_bad_images_are_skipped_on_request_and_reported_in_one_line(tmp_path, caplog, memory_limit_bytes):
    for i, name in enumerate(["a", "c", "e"]):
        save(tmp_path / "data" / name, f"{name}.png", random_pixels(32, 32, 3, seed=i))
    truncated(tmp_path / "data" / "c", "b.png")
    (tmp_path / "data" / "d").mkdir()
    (tmp_path / "data" / "d" / "d.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        data = load_images(
            train_data_dir=str(tmp_path / "data"), skip_bad_images=True, memory_limit_bytes=memory_limit_bytes
        )
    (record,) = caplog.records
    assert "2 of 5" in record.getMessage() and "b.png" in record.getMessage() and "d.png" in record.getMessage()
    assert np.array_equal(read_all(data), np.stack([random_pixels(32, 32, 3, seed=i) for i in range(3)]))
    assert [data.class_names[label] for label in data.labels] == ["a", "c", "e"]


def test_different_sizes_without_a_resolution_name_two_images(tmp_path):
    save(tmp_path / "data", "a.png", random_pixels(4, 6))
    save(tmp_path / "data", "b.png", random_pixels(4, 8))
    with pytest.raises(ValueError, match="`resolution` must be given .*a.png is 4x6, .*b.png is 4x8"):
        load_images(train_data_dir=str(tmp_path / "data"))


@pytest.mark.parametrize("resolution", ["", "64x", "x64", "0", "-8", "8 x 8", "64.0", 0, "8x8x8", True])
def test_a_malformed_resolution_is_refused(resolution):
    with pytest.raises(ValueError, match='^`resolution` is .*"96x160"'):
        load_images("digits", resolution=resolution)


@pytest.mark.parametrize("image_channels", [0, 2, 4])
def test_image_channels_are_1_or_3(image_channels):
    with pytest.raises(ValueError, match=f"`image_channels` is {image_channels}.*1 .* or 3"):
        load_images("digits", image_channels=image_channels)


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`train_data_dir` is '.*absent', which does not exist"):
        load_images(train_data_dir=str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="`train_data_dir` is '.*empty', a folder with no image"):
        load_images(train_data_dir=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="`train_data_dir` is '.*notes.txt', which is not a parquet file"):
        load_images(train_data_dir=str(tmp_path / "empty" / "notes.txt"))
    with pytest.raises(ValueError, match="neither `dataset_name` nor `train_data_dir`"):
        load_images()


def test_an_unknown_split_lists_the_splits(parquet):
    folder = parquet(["train", "test"])
    with pytest.raises(ValueError, match=r"`split` is 'val'; the splits of .* are \['train', 'test'\]"):
        load_images(train_data_dir=folder, split="val")
    with pytest.raises(ValueError, match="`split` is 'val'; the splits of 'digits' are 'train' and 'test'"):
        load_images("digits", split="val")


def test_a_wrong_image_column_lists_the_columns(parquet):
    folder = parquet(["train"], label=[0, 1, 2])
    with pytest.raises(ValueError, match=r"`image_column` 'label' holds no images.*\['picture', 'label'\]"):
        load_images(train_data_dir=folder, image_column="label")
    with pytest.raises(ValueError, match=r"`image_column` 'image' does not exist.*\['picture', 'label'\]"):
        load_images(train_data_dir=folder, image_column="image")


def test_a_data_set_without_images_lists_its_columns(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "text.parquet")
    with pytest.raises(ValueError, match=r"no image column; its columns are \['text'\]"):
        load_images(train_data_dir=str(tmp_path / "text.parquet"))


def test_a_data_set_that_cannot_be_reached_is_one_sentence(monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="^`dataset_name` 'nobody/nothing' could not be loaded .*[^\n]*$"):
        load_images("nobody/nothing")
    with pytest.raises(ValueError, match="^`dataset_name` 'digit' could not be loaded .*'digits'"):
        load_images("digit")
