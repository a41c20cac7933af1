"""What the documents show of runs: their numbers in docs/results, their pictures in docs/images."""

import json
from pathlib import Path

from PIL import Image
from tables import ROOT


RESULTS, IMAGES = ROOT / "docs" / "results", ROOT / "docs" / "images"
Kept = dict  # what a file in docs/results holds


def read_kept(name: str) -> Kept | None:
    """What docs/results/NAME.json holds; None where it was not measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_kept(name: str, content: Kept) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def keep_picture(picture: Image.Image | Path, name: str, colours: int = 64) -> None:
    """docs/images/NAME.png in as many colours as it needs: a chart is a third as large in few."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    opened = Image.open(picture) if isinstance(picture, Path) else picture
    opened.convert("RGB").quantize(colours).save(IMAGES / f"{name}.png", optimize=True)
