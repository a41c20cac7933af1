"""The recipes that come with the package: each says what it trains on and where it comes from, and fits its data."""

import re
from importlib import resources
from pathlib import Path

import pytest
import torch

from ddpm_ext.data.images import ImageData
from ddpm_ext.training.building import build_unet
from ddpm_ext.training.command_line import parse


FOLDER = Path(str(resources.files("ddpm_ext.train_scripts").joinpath("recipes")))
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def kind(name: str) -> str:
    return "points" if name == "points" else "class_conditional" if "class_conditional" in name else "unconditional"


def comment(name: str) -> str:
    """What a recipe opens with."""
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_trains_on_and_where_it_comes_from(name):
    data = parse(kind(name), ["--config", name]).data
    assert comment(name).startswith("# ")
    assert data.dataset_name or "--train_data_dir" in comment(name)
    if data.dataset_name not in ("digits", "swiss_roll"):  # those need no source
        assert re.search(r"\b(?:20\d\d\b|practical|practicum|notebook|exercise)", comment(name))


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith(("practical", "slices", "cifar10_200"))])
def test_the_networks_of_the_courses_fit_their_data(name):
    arguments = parse(kind(name), ["--config", name])
    side = int(arguments.data.resolution or 32)
    channels = arguments.data.image_channels or 3
    data = ImageData(None, (channels, side, side), 255, None, None, [])
    is_conditional = kind(name) == "class_conditional"
    with torch.device("meta"):
        unet = build_unet(arguments, data, 10 if is_conditional else None)
        labels = (torch.zeros(2, dtype=torch.long),) if is_conditional else ()
        assert unet(torch.zeros(2, *data.shape), torch.zeros(2), *labels).sample.shape == (2, *data.shape)
