"""Makes a folder of real gray 64x64 images without a download, for the recipe slices_64.

    python benchmarks/make_slices.py --output slices
    python train_scripts/train_unconditional.py --config slices_64_mini --train_data_dir slices

Two photographs come with scikit-learn: a temple and a flower, 427x640 pixels. They are halved in size and cut into
overlapping tiles; the right three tenths of each is kept for testing, and no tile reaches across the border.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


TILE, STRIDE = 64, 4
TEST_SHARE = 0.3


def tiles(picture: np.ndarray) -> list[np.ndarray]:
    """All tiles of `picture`, (H, W), at multiples of the stride."""
    height, width = picture.shape
    return [
        picture[y : y + TILE, x : x + TILE]
        for y in range(0, height - TILE + 1, STRIDE)
        for x in range(0, width - TILE + 1, STRIDE)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("slices"))
    output = parser.parse_args().output
    counts = {"train": 0, "test": 0}
    for photograph in load_sample_images().images:
        gray = Image.fromarray(photograph).convert("L")
        small = np.asarray(gray.resize((gray.width // 2, gray.height // 2), Image.Resampling.LANCZOS))
        border = round(small.shape[1] * (1 - TEST_SHARE))
        for split, part in (("train", small[:, :border]), ("test", small[:, border:])):
            (output / split).mkdir(parents=True, exist_ok=True)
            for tile in tiles(part):
                Image.fromarray(tile).save(output / split / f"{counts[split]:05d}.png")
                counts[split] += 1
    print(f"{output} holds {counts['train']:,} tiles for training and {counts['test']:,} for testing")


if __name__ == "__main__":
    main()
