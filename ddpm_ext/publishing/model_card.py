"""Model cards: what a pipeline is, how it was trained and how good it is, read from the files in its folder.

    write_model_card(Path("ddpm-digits"), repo_id="somebody/ddpm-digits")      # writes README.md there

A pipeline alone gives its architecture, its process and the lines that load it; the folder of a run gives the rest. A
card ends with a mark of its own text, so that one that a person has edited is known, and left as it is.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import SafetensorError, safe_open


_MARK = "\n<!-- ddpm_ext {digest}: as long as nobody edits this card, it is made anew with the model. -->\n"
_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
_PREDICTIONS = {"epsilon": "the noise", "sample": "x_0", "v_prediction": "the velocity", "mean": "the posterior mean"}
_VARIANCES = {
    "fixed_small": "the posterior's variance",
    "fixed_small_log": "the posterior's variance",
    "fixed_large": "beta as its variance",
    "fixed_large_log": "beta as its variance",
    "learned": "a learned variance",
    "learned_range": "a learned variance between its two bounds",
}
_SCHEDULES = {"squaredcos_cap_v2": "cosine", "scaled_linear": "quadratic"}


@dataclass(frozen=True)
class Result:
    """A number of the card; `protocol` says how it came about and how uncertain it is."""

    metric_type: str
    name: str
    value: float
    protocol: str


@dataclass(frozen=True)
class Facts:
    """What lies in a folder: the pipeline's configs and, where it is that of a run, how the run went."""

    folder: Path
    index: dict[str, object]
    unet: dict[str, object]
    scheduler: dict[str, object]
    run: dict[str, object] = field(default_factory=dict)
    configuration: dict[str, object] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes by id; empty for an unconditional model."""
        return list((self.index.get("id2label") or {}).values())

    @property
    def dataset(self) -> str:
        """What was trained on, as it was told: a name, or the name of a folder."""
        name, folder = self.configuration.get("dataset_name"), self.configuration.get("train_data_dir")
        return str(name or (Path(str(folder)).name if folder else "an unknown data set"))


def write_model_card(folder: Path, repo_id: str | None = None, licence: str | None = None) -> bool:
    """Writes README.md into `folder`, which holds a pipeline; False, and nothing, where a person has edited it."""
    path = folder / "README.md"
    if path.exists() and is_edited(path.read_text(encoding="utf-8")):
        return False
    partial = folder / ".partial-README.md"  # the file may have another name elsewhere, where it is to stay
    partial.write_text(str(model_card(read_facts(folder), repo_id, licence)), encoding="utf-8")
    partial.replace(path)
    return True


def is_edited(card: str) -> bool:
    """Whether the text of a card is not the one that was written for it."""
    found = re.search(re.escape(_MARK).replace(re.escape("{digest}"), "([0-9a-f]{16})"), card)
    return found is None or _digest(card[: found.start()] + card[found.end() :]) != found[1]


def model_card(facts: Facts, repo_id: str | None = None, licence: str | None = None) -> ModelCard:
    """The card for `facts`; `repo_id` is where the lines that load the model find it, the folder by default."""
    title = (repo_id or facts.folder.resolve().name).split("/")[-1]
    grids = sorted((facts.folder / "samples").glob("step-*.png"))
    template = resources.files("ddpm_ext.publishing").joinpath("card_template.md").read_text(encoding="utf-8")
    card = ModelCard.from_template(
        _card_data(facts, title, licence),
        template_str=template,
        title=title,
        what_it_is=_what_it_is(facts),
        grid=f"samples/{grids[-1].name}" if grids else None,
        grid_caption=_grid_caption(facts),
        usage=_usage(facts, repo_id or facts.folder.resolve().name),
        usage_note=_usage_note(facts),
        training=_training(facts) if facts.configuration else None,
        command=facts.run.get("command", ""),
        loss_picture="loss.png" if (facts.folder / "loss.png").exists() else None,
        configuration=yaml.safe_dump(facts.configuration, sort_keys=False).strip(),
        environment=facts.run.get("environment", "not recorded"),
        results=facts.results,
        limits=_limits(facts),
        licence=f"{licence}." if licence else "None was stated: ask before you use the model for more than reading.",
    )
    text = str(card).rstrip() + "\n"
    return ModelCard(text + _MARK.format(digest=_digest(text)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


# ------------------------------------------------------------------ what is in the folder


def read_facts(folder: Path) -> Facts:
    """Reads the pipeline in `folder`, and what a run has left there. OSError or ValueError where there is none."""
    rows = [json.loads(line) for line in _text(folder / "metrics.jsonl").splitlines() if line.endswith("}")]
    configuration = yaml.safe_load(_text(folder / "config.yaml")) or {}
    return Facts(
        folder,
        index=json.loads((folder / "model_index.json").read_text()),
        unet=json.loads((folder / "unet" / "config.json").read_text()),
        scheduler=json.loads((folder / "scheduler" / "scheduler_config.json").read_text()),
        run=json.loads(_text(folder / "run.json") or "{}"),
        configuration=configuration,
        metrics=rows,
        results=_held_out(rows, configuration) + _evaluated(folder / "evaluation" / "metrics.json"),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _held_out(rows: list[dict[str, float]], configuration: dict[str, object]) -> list[Result]:
    measured = [row for row in rows if "held_out_bits_per_dim" in row]
    if not measured:
        return []
    last = measured[-1]
    error = last["held_out_bits_per_dim_standard_error"]
    protocol = (
        f"variational bound, estimated (standard error {error:.3f}) on at most {configuration.get('eval_images')} "
        f"images of the split '{configuration.get('test_split')}', after {last['step']:,} updates"
    )
    return [Result("bits_per_dim", "bits/dim", round(last["held_out_bits_per_dim"], 3), protocol)]


def _evaluated(path: Path) -> list[Result]:
    """What `evaluate.py` has left; nothing of a file that is not its own, for which no run should stop."""
    try:
        return [_result(entry) for entry in json.loads(_text(path) or "{}").get("metrics", [])]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


def _result(entry: dict[str, object]) -> Result:
    interval = entry["interval_95"]
    uncertainty = f"95 % interval {interval[0]:.4g} to {interval[1]:.4g}; " if interval else ""
    shown = ((name.replace("_", " "), value) for name, value in entry["protocol"].items() if name != "model")
    protocol = uncertainty + "; ".join(f"{name}: {value}" for name, value in shown)
    return Result(entry["name"], entry["title"], float(f"{entry['value']:.6g}"), protocol)


def _num_parameters(facts: Facts) -> int | None:
    try:
        with safe_open(facts.folder / _WEIGHTS, framework="pt") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 - no iterator
    except (OSError, SafetensorError):
        return None
    total = 0
    for shape in shapes:
        count = 1
        for length in shape:
            count *= length
        total += count
    return total


# ------------------------------------------------------------------ what the card says


def _card_data(facts: Facts, title: str, licence: str | None) -> ModelCardData:
    dataset = facts.configuration.get("dataset_name")
    is_on_hub = dataset is not None and dataset != "digits" and not Path(str(dataset)).exists()
    results = [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=str(dataset) if is_on_hub else "other",
            dataset_name=facts.dataset,
            metric_type=result.metric_type,
            metric_value=result.value,
            metric_name=result.name,
            metric_args={"protocol": result.protocol},
        )
        for result in facts.results
    ]
    return ModelCardData(
        license=licence,
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["ddpm_ext", "diffusion", "ddpm"] + (["class-conditional"] if facts.class_names else []),
        datasets=[str(dataset)] if is_on_hub else None,
        model_name=title,
        eval_results=results or None,
    )


def _what_it_is(facts: Facts) -> str:
    size = facts.unet["sample_size"]
    height, width = size if isinstance(size, list) else (size, size)
    colour = {1: "gray ", 3: "colour "}.get(facts.unet["in_channels"], "")
    kind = f"class-conditional, {len(facts.class_names)} classes" if facts.class_names else "unconditional"
    schedule = facts.scheduler["beta_schedule"]
    parameters = _num_parameters(facts)
    network = f"A U-Net of {parameters:,} parameters" if parameters else "A U-Net"
    prediction = _PREDICTIONS.get(facts.scheduler["prediction_type"], facts.scheduler["prediction_type"])
    variance = _VARIANCES.get(facts.scheduler["variance_type"], facts.scheduler["variance_type"])
    return (
        f"A denoising diffusion model in pixel space of {colour}images of {height}x{width} pixels ({kind}). {network} "
        f"predicts {prediction}, with {variance}, in a process of {facts.scheduler['num_train_timesteps']:,} steps "
        f"with the {_SCHEDULES.get(schedule, schedule)} schedule."
    )


def _grid_caption(facts: Facts) -> str:
    steps = facts.configuration.get("num_inference_steps")
    guidance = facts.configuration.get("guidance_scale", 1.0)
    guided = f", guidance {guidance:g}" if facts.class_names else ""
    return f"Not selected: {steps} sampling steps{guided}, of the averaged weights where the run keeps an average."


def _usage(facts: Facts, where: str) -> str:
    labels = json.dumps(facts.class_names[:2], ensure_ascii=False)
    argument = f"class_labels={labels}, guidance_scale=1.5" if facts.class_names else "batch_size=4"
    return "\n".join(
        [
            "import ddpm_ext",
            "from diffusers import DiffusionPipeline",
            "",
            f'pipe = DiffusionPipeline.from_pretrained("{where}")',
            f"images = pipe({argument}, num_inference_steps=100).images",
        ]
    )


def _usage_note(facts: Facts) -> str:
    note = (
        "Any sampler of diffusers works: "
        "`pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`, for one."
    )
    if facts.class_names:
        shown = ", ".join(facts.class_names[:20]) + (", ..." if len(facts.class_names) > 20 else "")
        note += f" Classes: {shown}."
    return note


def _training(facts: Facts) -> str:
    logged = [row for row in facts.metrics if "loss" in row]
    trained = ""
    if logged:
        last = logged[-1]
        trained = f" for {last['step']:,} updates ({last['images_seen']:,} images seen, last loss {last['loss']:.4f})"
    data = facts.run.get("images")
    return (
        f"Trained on {facts.dataset}, split '{facts.configuration.get('train_split')}'"
        f"{f' ({data})' if data else ''}{trained}, by"
    )


def _limits(facts: Facts) -> str:
    return (
        f"The model knows nothing but the images of {facts.dataset}: it draws what resembles them, with their "
        "omissions and their prejudices, and may repeat single ones of them. Whether it does was measured only where "
        "the results above say so."
    )
