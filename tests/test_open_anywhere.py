"""A model opens wherever it lands: with ddpm_ext, with diffusers alone; from a folder, the Hub, the offline cache."""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch

from ddpm_ext import ImprovedDDPMPipeline, ImprovedDDPMScheduler
from ddpm_ext.diffusion import PREDICTION_TYPES, VARIANCE_TYPES
from ddpm_ext.publishing.carried_code import add_code
from ddpm_ext.schedulers.flow_matching import flow_scheduler
from ddpm_ext.sharing.bundle import bundle, named_by_content
from ddpm_ext.sharing.export import export_pipeline
from tests import open_elsewhere
from tests.conftest import tiny_class_conditional, tiny_unet
from tests.fake_hub import FakeHub


ROOT = Path(__file__).parents[1]

KINDS = [f"{prediction}-{variance}" for prediction, variance in product(PREDICTION_TYPES, VARIANCE_TYPES)]
KINDS.append("flow")


def model(kind: str):
    if kind == "classes":
        return tiny_class_conditional()
    if kind == "flow":
        return ImprovedDDPMPipeline(tiny_unet(), flow_scheduler({"num_train_timesteps": 1000}))
    prediction_type, variance_type = kind.split("-")
    scheduler = ImprovedDDPMScheduler(
        prediction_type=prediction_type, variance_type=variance_type, beta_schedule="cosine"
    )
    return ImprovedDDPMPipeline(tiny_unet(learns_variance=variance_type.startswith("learned")), scheduler)


class World:
    """A place with exported models, a Hub that has some of them, and processes that open them."""

    def __init__(self, root: Path, hub: FakeHub) -> None:
        self.root, self.hub, self.processes = root, hub, {}
        self.lines: dict[str, str] = {}
        for kind in [*KINDS, "classes"]:
            self._export(kind, "self_contained")
        self._export("classes", "package")
        self._export("epsilon-fixed_large", "diffusers")
        self._export("classes", "diffusers")
        self._export_with_other_code("classes")
        for name in ("self_contained/classes", "package/classes", "diffusers/epsilon-fixed_large"):
            hub.add(f"me/{name.replace('/', '-')}", root / name)
        hub.add("me/gated", root / "package/classes")
        hub.refuse("/me/gated/resolve/", 403, "GatedRepo")
        hub.add("me/broken", root / "package/classes")
        hub.refuse("/me/broken/resolve/.*safetensors", 404, "EntryNotFound")
        hub.cut("/me/beyond-reach")
        (root / "empty").mkdir()
        hub.add("me/empty", root / "empty")

    def _export(self, kind: str, format: str) -> None:
        self.lines[f"{format}/{kind}"] = export_pipeline(model(kind), self.root / format / kind, format).lines

    def _export_with_other_code(self, kind: str) -> None:
        """A model whose pipeline has the same name and draws darker images."""
        pipeline = model(kind)
        folder = self.root / "self_contained" / "other"
        export_pipeline(pipeline, folder, "self_contained")
        source = bundle(type(pipeline)).source.replace("x / 2 + 0.5", "x / 4 + 0.25")
        assert source != bundle(type(pipeline)).source
        add_code(folder, {"_class_name": named_by_content("pipeline_class_conditional_ddpm", source)})

    def start(self, name: str, *phases: tuple[bool, dict], isolated: bool, token: bool = True, offline: bool = False):
        job = self.root / f"{name}.json"
        site_packages = [path for path in sys.path if path.endswith("site-packages")]
        content = {
            "results": str(self.root / f"{name}.pt"),
            "site_packages": site_packages,
            "phases": [{"with_package": with_package, "steps": steps} for with_package, steps in phases],
        }
        job.write_text(json.dumps(content))
        environment = self.hub.environment(self.root / "home", self.hub.token if token else None, offline)
        flags = ["-I", "-S"] if isolated else []
        self.processes[name] = subprocess.Popen(
            [sys.executable, *flags, ROOT / "tests" / "open_elsewhere.py", job],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def found(self, name: str) -> dict[str, object]:
        shown, _ = self.processes[name].communicate(timeout=240)
        assert self.processes[name].returncode == 0, shown
        return torch.load(self.root / f"{name}.pt")


def folder(name: str, **options: object) -> tuple[str, dict]:
    return "open_model", {"source": name, **options}


TRUST = {"trust_remote_code": True}

WITHOUT = {
    **{kind: folder(f"self_contained/{kind}", **TRUST, save_to=f"again/{kind}") for kind in KINDS},
    "classes": folder("self_contained/classes", **TRUST, save_to="again/classes", push_to="me/again"),
    "saved again": folder("again/classes", **TRUST),
    "saved again, unconditional": folder("again/mean-learned", **TRUST),
    "from the Hub": folder("me/self_contained-classes", **TRUST),
    "pushed again": folder("me/again", **TRUST),
    "both": ("open_both", {"first": "self_contained/classes", "second": "self_contained/other"}),
    "plain": folder("diffusers/epsilon-fixed_large"),
    "plain from the Hub": folder("me/diffusers-epsilon-fixed_large"),
}
WITH = {
    "folder": folder("package/classes"),
    "folder, by class": folder("package/classes", pipeline_class="ClassConditionalDDPMPipeline"),
    "Hub": folder("me/package-classes", push_to="me/pushed"),
    "Hub, by class": folder("me/package-classes", pipeline_class="ClassConditionalDDPMPipeline"),
    "pushed": folder("me/pushed"),
    "self-contained folder, by class": folder("self_contained/classes", pipeline_class="ClassConditionalDDPMPipeline"),
    "self-contained repository, by class": folder(
        "me/self_contained-classes", pipeline_class="ClassConditionalDDPMPipeline"
    ),
}
OFFLINE_WITHOUT = {
    "self-contained": folder("me/self_contained-classes", from_snapshot=True, **TRUST),
    "plain": folder("me/diffusers-epsilon-fixed_large"),
}
OFFLINE_WITH = {
    "package": folder("me/package-classes"),
    "package, by class": folder("me/package-classes", pipeline_class="ClassConditionalDDPMPipeline"),
    "said of package": ("say", {"model": "me/package-classes"}),
    "said of what is not cached": ("say", {"model": "me/never-seen"}),
}
SAID = {
    "me/package-classes": "ClassConditionalDDPMPipeline",
    "me/self_contained-classes": "ClassConditionalDDPMPipeline",
    "me/no-such-model": "which is no folder here and no repository on the Hub (a private one needs a login: `hf auth "
    "login`).",
    "me/gated": "which is gated: ask for access on its page, then log in with `hf auth login`.",
    "me/broken": "which the Hub did not send (status 404).",
    "me/beyond-reach": "which is no folder here and not in the cache, and the Hub cannot be reached.",
    "me/empty": "which is a repository without a pipeline: one with a model_index.json is accepted.",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    with FakeHub() as hub:
        world = World(tmp_path_factory.mktemp("world"), hub)
        printed = {f"lines of {name}": ("run_lines", {"lines": lines}) for name, lines in world.lines.items()}
        without = {name: step for name, step in printed.items() if "self_contained/classes" in name}
        world.start("without", (False, WITHOUT | without), isolated=True)
        said = {f"said of {name}": ("say", {"model": name}) for name in SAID}
        world.start("with", (True, WITH | said), isolated=False)
        yield world


@pytest.fixture(scope="module")
def without(world) -> dict[str, object]:
    return world.found("without")


@pytest.fixture(scope="module")
def with_package(world) -> dict[str, object]:
    return world.found("with")


@pytest.fixture(scope="module")
def offline(world, without, with_package) -> dict[str, object]:
    """After the others, whose downloads are in the cache."""
    world.start("offline", (False, OFFLINE_WITHOUT), (True, OFFLINE_WITH), isolated=False, offline=True)
    return world.found("offline")


def check(found: list[torch.Tensor], kind: str) -> None:
    expected = open_elsewhere.draws(model(kind))
    assert len(found) == len(expected) == 3
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", [*KINDS, "classes"])
def test_a_self_contained_folder_draws_bit_for_bit_the_same_without_our_package(without, kind):
    check(without[kind], kind)


@pytest.mark.parametrize("kind", ["saved again", "from the Hub", "pushed again", "lines of self_contained/classes"])
def test_it_does_so_from_the_hub_and_when_saved_or_pushed_again(without, kind):
    check(without[kind], "classes")
    check(without["saved again, unconditional"], "mean-learned")


def test_nothing_of_it_is_unexpected_to_diffusers(without, offline):
    """No packages that it misses, no types or keys that it did not expect."""
    assert "Couldn't connect to the Hub" in offline["log of plain"]  # so that warnings are seen
    said = [line for name, log in without.items() if name.startswith("log of ") for line in log.splitlines()]
    assert [line for line in said if "trust_remote_code" not in line] == []  # an option that not all releases know


def test_two_models_in_one_process_keep_their_own_code(without):
    first, second = without["both"][:3], without["both"][3:]
    check(first, "classes")
    assert all(torch.equal(a / 2, b) for a, b in zip(first, second, strict=True))


def test_saving_again_writes_the_same_folder(world, without):
    for path in (path for path in (world.root / "self_contained/classes").rglob("*") if path.is_file()):
        copy = world.root / "again" / path.relative_to(world.root / "self_contained")
        if path.suffix == ".json":
            before, after = ({**json.loads(file.read_text()), "_name_or_path": None} for file in (path, copy))
            assert before == after
        else:
            assert path.read_bytes() == copy.read_bytes()
    pushed = world.hub.repositories["me/again"].files
    assert {name for name in pushed if name.endswith(".py")} == {
        str(path.relative_to(world.root / "again/classes")) for path in (world.root / "again/classes").rglob("*.py")
    }


@pytest.mark.parametrize("source", ["plain", "plain from the Hub"])
def test_stock_classes_need_neither_package_nor_trust(without, source):
    ours = open_elsewhere.draws(model("epsilon-fixed_large"))[0]
    torch.testing.assert_close(without[source][0], ours, rtol=0, atol=2e-4)  # stock tables are float32


@pytest.mark.parametrize("source", WITH)
def test_importing_the_package_opens_folders_and_repositories(with_package, source):
    check(with_package[source], "classes")


def test_what_is_pushed_is_private_and_whole(world, with_package):
    pushed = world.hub.repositories["me/pushed"]
    assert pushed.private
    assert {"README.md", "model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= pushed.files.keys()


@pytest.mark.parametrize("name", SAID)
def test_what_the_hub_does_not_give_is_said_in_one_sentence(with_package, name):
    said = with_package[f"said of {name}"]
    assert said == SAID[name] or said == f"`model` is {name}, {SAID[name]}"


@pytest.mark.parametrize("source", ["self-contained", "package", "package, by class"])
def test_the_cache_suffices_offline(offline, source):
    check(offline[source], "classes")
    assert offline["said of package"] == "ClassConditionalDDPMPipeline"


def test_stock_classes_open_offline(offline, without):
    assert torch.equal(offline["plain"][0], without["plain"][0])


def test_offline_what_is_not_cached_is_said(offline):
    assert offline["said of what is not cached"] == (
        "`model` is me/never-seen, which is no folder here and not in the cache, and HF_HUB_OFFLINE keeps the Hub "
        "from being asked."
    )
