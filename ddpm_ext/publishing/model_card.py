"""Model cards: what a pipeline is, how it was trained and how good it is, read from the files in its folder.

    write_model_card(Path("ddpm-digits"), repo_id="somebody/ddpm-digits")      # writes README.md there

A pipeline alone gives its architecture, its process and the lines that load it; the folder of a run gives the rest. A
card ends with a mark of its own text, so that one that a person has edited is known, and left as it is.
"""

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .facts import Facts, Result, read_facts
from .markdown import markdown_table
from .wording import grid_caption, limits, training, usage, usage_note, what_it_is


_TASKS = {"images": "unconditional-image-generation", "points": "other"}
_MARK = "\n<!-- ddpm_ext {digest}: as long as nobody edits this card, it is made anew with the model. -->\n"


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
        what_it_is=what_it_is(facts),
        grid=f"samples/{grids[-1].name}" if grids else None,
        grid_caption=grid_caption(facts),
        usage=usage(facts, repo_id or facts.folder.resolve().name),
        usage_note=usage_note(facts),
        training=training(facts) if facts.configuration else None,
        command=facts.run.get("command", ""),
        loss_picture="loss.png" if (facts.folder / "loss.png").exists() else None,
        configuration=yaml.safe_dump(facts.configuration, sort_keys=False).strip(),
        environment=facts.run.get("environment", "not recorded"),
        results=_results_table(facts.results) if facts.results else None,
        limits=limits(facts),
        licence=f"{licence}." if licence else "None was stated: ask before you use the model for more than reading.",
    )
    text = str(card).rstrip() + "\n"
    return ModelCard(text + _MARK.format(digest=_digest(text)))


def _results_table(results: Sequence[Result]) -> str:
    rows = [[result.name, result.shown, result.protocol] for result in results]
    return markdown_table(["metric", "value", "protocol"], rows).rstrip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def _card_data(facts: Facts, title: str, licence: str | None) -> ModelCardData:
    dataset = facts.configuration.get("dataset_name")
    kind = ["flow-matching"] if facts.is_flow_matching else ["diffusion", "ddpm"]
    is_ours = facts.noun == "points" or dataset == "digits"
    is_on_hub = dataset is not None and not is_ours and not Path(str(dataset)).exists()
    results = [
        EvalResult(
            task_type=_TASKS[facts.noun],
            dataset_type=str(dataset) if is_on_hub else "other",
            dataset_name=facts.dataset,
            metric_type=result.metric_type,
            metric_value=result.value,
            metric_name=result.name,
            metric_args={"protocol": result.protocol, "interval_95": result.interval and list(result.interval)},
        )
        for result in facts.results
    ]
    return ModelCardData(
        license=licence,
        library_name="diffusers",
        pipeline_tag=_TASKS[facts.noun] if facts.noun == "images" else None,
        tags=["ddpm_ext", *kind] + (["class-conditional"] if facts.class_names else []),
        datasets=[str(dataset)] if is_on_hub else None,
        model_name=title,
        eval_results=results or None,
    )
