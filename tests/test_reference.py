"""The reference's statistics: kept under what they were made of, and never read for anything else."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddpm_ext.data.images import ImageData, load_images
from ddpm_ext.evaluation.features import Extractor, load_extractor
from ddpm_ext.evaluation.reference import Reference, choose, load_reference
from ddpm_ext.evaluation.statistics import Moments


PIXELS = load_extractor("pixels")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_images("digits", split="test", show_progress=False)


def refuse(_: Tensor) -> Tensor:
    raise AssertionError("the features were computed again")


def test_the_reference_is_the_split_as_it_is(digits):
    reference = load_reference(digits, "digits", "test", PIXELS)
    expected = Moments.of(PIXELS(digits.integers(torch.arange(len(digits)))))
    torch.testing.assert_close(reference.moments.covariance, expected.covariance, rtol=1e-11, atol=1e-13)
    assert reference.protocol == {
        "data_set": "digits",
        "split": "test",
        "resolution": "8x8",
        "reference_images": 360,
    }


def test_statistics_are_kept(digits, tmp_path):
    first = load_reference(digits, "digits", "test", PIXELS, 200, 50, tmp_path)
    unable = Extractor("pixels", PIXELS.fingerprint, refuse, channels=1)
    second = load_reference(digits, "digits", "test", unable, 200, 50, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(first.moments.covariance, second.moments.covariance)
    assert torch.equal(first.features, second.features) and first.features.shape == (50, 64)
    assert torch.equal(second.labels, digits.labels[choose(360, 200)[:50]])


def test_other_data_have_a_file_of_their_own(digits, tmp_path):
    train = load_images("digits", split="train", show_progress=False)
    larger = load_images("digits", split="test", resolution=16, show_progress=False)
    colour = load_images("digits", split="test", image_channels=3, show_progress=False)
    other_network = Extractor("pixels", "another", PIXELS, channels=1)

    def files(*arguments: object) -> int:
        load_reference(*arguments, cache=tmp_path)
        return len(list(tmp_path.iterdir()))

    assert files(digits, "digits", "test", PIXELS) == 1
    assert files(train, "digits", "train", PIXELS) == 2
    assert files(train, "digits", "test", PIXELS) == 3  # the same name, but not the same images
    assert files(larger, "digits", "test", PIXELS) == 4
    assert files(colour, "digits", "test", PIXELS) == 5
    assert files(digits, "digits", "test", PIXELS, 100) == 6
    assert files(digits, "digits", "test", PIXELS, 100, 10) == 7
    assert files(digits, "digits", "test", other_network) == 8
    assert files(digits, "digits", "test", PIXELS) == 8


def damage(file: Path, kind: str) -> None:
    content = bytearray(file.read_bytes())
    if kind == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    else:
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)


@pytest.mark.parametrize("kind", ["cut", "empty", "one byte"])
def test_a_damaged_file_is_named(digits, tmp_path, kind):
    load_reference(digits, "digits", "test", PIXELS, cache=tmp_path)
    file = next(tmp_path.iterdir())
    damage(file, kind)
    with pytest.raises(
        ValueError, match=r"`reference_cache` holds a damaged file, .*: delete it, and it is made anew\.$"
    ):
        load_reference(digits, "digits", "test", PIXELS, cache=tmp_path)
    file.unlink()
    assert isinstance(load_reference(digits, "digits", "test", PIXELS, cache=tmp_path), Reference)


def test_a_part_of_the_images_is_a_random_one_but_always_the_same():
    assert torch.equal(choose(100, 10), choose(100, 10))
    assert len(choose(100, 10).unique()) == 10 and int(choose(100, 10).max()) > 50
    assert torch.equal(choose(100, None).sort().values, torch.arange(100))
    assert torch.equal(choose(100, 20)[:10], choose(100, 10))
