"""Small data sets of images as parquet files."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write(folder: Path, images: list[bytes], shards: int = 3, group: int = 10, **columns: list) -> str:
    """Parquet files of row groups of `group` images."""
    folder.mkdir(exist_ok=True)
    for shard, rows in enumerate(np.array_split(np.arange(len(images)), shards)):
        table = pa.table(
            {
                "image": [{"bytes": images[row], "path": f"{row}.png"} for row in rows],
                **{name: [values[row] for row in rows] for name, values in columns.items()},
            }
        )
        pq.write_table(table, folder / f"train-{shard:05d}-of-{shards:05d}.parquet", row_group_size=group)
    return str(folder)


def noise(count: int, side: int = 8, channels: int = 1) -> list[bytes]:
    shape = (side, side) if channels == 1 else (side, side, channels)
    generator = np.random.default_rng(0)
    return [encoded(generator.integers(0, 256, shape, dtype=np.uint8)) for _ in range(count)]
