"""The report: what its page says and shows, that it asks for nothing, and how it looks in a browser."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image

from ddpm_ext import ClassConditionalDDPMPipeline, ImprovedDDPMPipeline, ImprovedDDPMScheduler
from ddpm_ext.diffusion import exact_bits_per_dim
from ddpm_ext.randomness import generator_for
from ddpm_ext.report.page import Choices, make_report
from ddpm_ext.report.pictures import animation
from ddpm_ext.report.reported_model import load_real_images, open_model
from ddpm_ext.report.steps import chosen_timesteps, measure_steps, network_of
from tests.browser import CHROMIUM, Browser
from tests.conftest import tiny_unet
from tests.fake_hub import FakeHub
from tests.training_helpers import TINY, Script, run_main


ROOT = Path(__file__).parents[1]
FEW = Choices(num_images=4, num_inference_steps=3)


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._hidden = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a tiny run on the digits."""
    folder = tmp_path_factory.mktemp("run") / "numbers"
    options = ["--eval_steps", "6", "--eval_images", "8", "--save_images_steps", "6", "--num_train_timesteps", "50"]
    run_main("ddpm_ext.train_scripts.train_class_conditional", *TINY, *options, "--output_dir", folder)
    fid = '{"name": "fid", "title": "FID", "value": 12.34, "interval_95": [11.5, 13], "protocol": {"images": 1000}}'
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(f'{{"metrics": [{fid}]}}')
    return folder


@pytest.fixture(scope="module")
def html(run) -> str:
    return make_report(open_model(str(run)), FEW)


@pytest.fixture
def page(html) -> Page:
    return Page(html)


def saved_pipeline(folder: Path, variance_type: str = "fixed_small", **unet: object) -> Path:
    scheduler = ImprovedDDPMScheduler(20, beta_schedule="cosine", variance_type=variance_type)
    ImprovedDDPMPipeline(tiny_unet(**unet), scheduler).save_pretrained(folder)
    return folder


# ------------------------------------------------------------------ what is in it


def test_the_page_holds_all_that_it_shows(html, page):
    images = [attributes["src"] for attributes in page.all("img")]
    assert len(images) >= 5 and all(source.startswith("data:image/") for source in images)
    sources = [attributes["srcset"] for attributes in page.all("source")]
    assert len(sources) == 2 and all(source.startswith("data:image/") for source in sources)
    assert sum(source.startswith("data:image/gif") for source in images + sources) == 2  # for light and dark pages
    assert not page.all("script")
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert not re.findall(r"https?://[^\s\"'<>)]+", re.sub(r'xmlns(:\w+)?="[^"]*"', "", html))
    assert len(html.encode()) < 2e6


def test_everything_that_is_seen_has_words(page):
    assert all(image["alt"] and image["width"] and image["height"] for image in page.all("img"))
    charts = [div for div in page.all("div") if div.get("role") == "img"]
    assert len(charts) == len(page.all("svg")) >= 8 and all(chart["aria-label"] for chart in charts)
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(charts) + len(page.all("img"))
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {link["href"].lstrip("#") for link in page.all("a")} <= set(ids)


def test_the_page_says_what_the_model_is_how_it_was_trained_and_how_good_it_is(run, page):
    text = " ".join(page.text.split())
    assert "gray images of 8x8 pixels (class-conditional, 10 classes)" in text
    assert "Trained on digits, split 'train' (1,437 images of 1x8x8) for 12 updates" in text
    assert "train_class_conditional.py \\ --block_out_channels 8 16 \\ --layers_per_block 1" in text
    assert "FID 12.34 [11.50, 13.00] images: 1000" in text
    assert "bits/dim" in text and "variational bound, estimated" in text
    assert "After 6 updates, from the same noise." in text
    assert "4 samples, of each of 10 classes in turn, not selected: DDIM, 3 steps, guidance 1, seed 0." in text
    assert "Measured on 64 images of digits, split 'test'" in text
    assert "The learned variance as a fraction v" in text
    assert f'DiffusionPipeline.from_pretrained("{run}")' in text
    assert "max_train_steps: 12" in text


def test_a_run_without_a_pipeline_yet_has_the_report_of_its_newest_checkpoint(run, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run / "checkpoints" / "checkpoint-12", unfinished / "checkpoints" / "checkpoint-12")
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(run / name, unfinished)
    page = Page(make_report(open_model(str(unfinished)), FEW))
    assert "for 12 updates" in page.text and "unfinished" in page.text
    assert f'from_pretrained("{unfinished}/checkpoints/checkpoint-12")' in page.text


def test_a_pipeline_alone_has_a_report_too(tmp_path):
    page = Page(make_report(open_model(str(saved_pipeline(tmp_path / "alone"))), Choices(num_images=2)))
    text = " ".join(page.text.split())
    assert "How it was trained is not recorded beside the model." in text
    assert "Not measured yet" in text and "DDIM, 20 steps, seed 0" in text  # as many as the chain has
    assert "What it was trained on is not recorded: --dataset_name tells where to find images." in text
    assert "learned variance" not in text and not page.all("details")


def test_a_stock_pipeline_has_a_report(tmp_path):
    DDPMPipeline(tiny_unet(3, sample_size=(16, 8)), DDPMScheduler(100)).save_pretrained(tmp_path)
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"prediction_type": "epsilon",', ""))  # as in old ones
    text = Page(make_report(open_model(str(tmp_path)), FEW)).text
    assert "colour images of 16x8 pixels (unconditional)" in text and "predicts the noise" in text


def test_a_learned_log_variance_is_drawn_between_its_bounds(tmp_path):
    folder = saved_pipeline(tmp_path, "learned", learns_variance=True)
    text = Page(make_report(open_model(str(folder)), Choices(4, 3, dataset_name="digits"))).text
    assert "The learned variance between its two bounds" in text


def test_what_comes_with_a_model_cannot_become_part_of_the_page(tmp_path):
    scheduler = ImprovedDDPMScheduler(100, beta_schedule="cosine", variance_type="learned_range")
    names = {"0": "<script>alert(1)</script>", "1": '"><img src=x>', "2": "$x$"}
    ClassConditionalDDPMPipeline(tiny_unet(learns_variance=True, num_classes=3), scheduler, names).save_pretrained(
        tmp_path / "named"
    )
    (tmp_path / "named" / "config.yaml").write_text("dataset_name: </style><script>x</script>\n")
    fake = '{"metrics": [{"name": "<script>", "value": 1, "protocol": "`<b>`"}]}'
    (tmp_path / "named" / "evaluation").mkdir()
    (tmp_path / "named" / "evaluation" / "metrics.json").write_text(fake)
    page = Page(make_report(open_model(str(tmp_path / "named")), FEW))
    assert not page.all("script") and not page.all("b")
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert "<script>alert(1)</script>" in page.text


def test_broken_pictures_of_a_run_are_left_out(run, tmp_path):
    folder = saved_pipeline(tmp_path / "broken")
    (folder / "samples").mkdir()
    for name in ("step-000001.png", "step-000002.png", "step-latest.png"):
        (folder / "samples" / name).write_bytes(b"no picture")
    assert "updates, from the same noise" not in make_report(open_model(str(folder)), FEW)


def test_a_large_animation_has_fewer_frames(monkeypatch):
    noise = torch.randint(0, 256, (30, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    frames = [Image.fromarray(frame.numpy()) for frame in noise]
    whole = animation(frames, "", "")
    monkeypatch.setattr("ddpm_ext.report.pictures._LARGEST_GIF", 50_000)
    assert len(animation(frames, "", "").source) < 50_000 * 1.4 < len(whole.source)


# ------------------------------------------------------------------ what is measured for it


def test_the_steps_are_those_of_the_exact_bound(tmp_path):
    folder = saved_pipeline(tmp_path, "learned_range", learns_variance=True)
    model = open_model(str(folder))
    images = load_real_images(model, "digits")
    steps = measure_steps(model, images, seed=5)
    scheduler = model.scheduler

    def noise(t: int) -> torch.Tensor:
        return torch.randn(images.x_0.shape, generator=generator_for(5, "report", t))

    exact = exact_bits_per_dim(
        scheduler.process, scheduler.parameterization, network_of(model, None), images.x_0, noise_for=noise
    )
    torch.testing.assert_close(steps.terms_bpd.T, exact.terms[:, steps.timesteps], rtol=1e-4, atol=1e-6)
    assert steps.fractions.shape == (len(steps.timesteps), 4096) and steps.log_variances is None
    assert steps.losses.shape == steps.terms_bpd.shape and steps.losses.min() > 0


@pytest.mark.parametrize("count", [1, 2, 10, 400, 4000])
def test_the_chosen_timesteps_have_both_ends(count):
    timesteps = chosen_timesteps(count)
    assert timesteps == sorted(set(timesteps)) and timesteps[0] == 0 and timesteps[-1] == count - 1
    assert len(timesteps) <= 52


def test_images_are_only_fetched_where_somebody_asks(tmp_path):
    folder = saved_pipeline(tmp_path / "far")
    (folder / "config.yaml").write_text("dataset_name: somebody/far-away\n")
    with pytest.raises(ValueError, match="Its training data, somebody/far-away, is not here: `--dataset_name` tells"):
        load_real_images(open_model(str(folder)), None)


# ------------------------------------------------------------------ the script


def test_the_script_writes_the_page(saved, script: Script, tmp_path):
    file = tmp_path / "deep" / "page.html"
    few = ["--num_images", "2", "--num_inference_steps", "2"]
    said = script.run("report", "--model", str(saved("unconditional")), "--output", str(file), *few, tiny=False)
    assert f"is in {file} (0." in said
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_model_on_the_hub_has_the_report_of_its_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "uploaded", ignore=shutil.ignore_patterns("checkpoints"))
    with FakeHub() as hub:
        hub.add("me/numbers", tmp_path / "uploaded")
        command = [sys.executable, str(ROOT / "train_scripts" / "report.py"), "--model", "me/numbers"]
        ended = subprocess.run(
            [*command, "--num_images", "2", "--num_inference_steps", "2"],
            env={**hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
        )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "the report on numbers is in report.html" in ended.stdout
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "for 12 updates" in text and "FID" in text and 'from_pretrained("me/numbers")' in text


BAD = {
    "no model": ([], "`model` must be given"),
    "no such model": (["--model", "nowhere/at/all"], "`model` is nowhere/at/all"),
    "no html": (["--model", "@", "--output", "report.pdf"], "`output` is report.pdf: a file that ends in .html"),
    "guidance without classes": (["--model", "@", "--guidance_scale", "2"], "`guidance_scale` is 2.0"),
    "no such data": (["--model", "@", "--dataset_name", "no/such/folder/"], "no/such/folder"),
    "too many steps": (["--model", "@", "--num_inference_steps", "1001"], "`num_inference_steps` is 1001"),
    "unknown flag": (["--modle", "x"], "did you mean `--model`?"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(mistake, saved, script: Script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    argv, fragment = BAD[mistake]
    argv = [str(saved("unconditional")) if text == "@" else text for text in argv]
    assert fragment in script.fails("report", *argv, tiny=False)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: `apt-get install chromium`")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_in_chromium_the_page_fits_its_window_and_asks_for_nothing(browser, html, tmp_path, width, scheme):
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    browser.open(file, width, scheme=scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)") is True
    assert browser.evaluate("document.images.length") >= 5
    assert browser.requests == [file.as_uri()]
    assert browser.complaints == []
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(252, 252, 252)", "dark": "rgb(23, 23, 23)"}[scheme]
    colors = browser.evaluate("[...document.querySelectorAll('svg text')].map(text => getComputedStyle(text).fill)")
    assert colors and set(colors) == {browser.evaluate("getComputedStyle(document.body).color")}
