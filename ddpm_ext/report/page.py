"""The page itself: all sections of a model's report in one file that asks for nothing from anywhere."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version

import jinja2
import yaml
from markupsafe import Markup, escape

from ddpm_ext.evaluation.generate import Sampling
from ddpm_ext.publishing.wording import limits, usage, usage_note, what_it_is
from ddpm_ext.schedulers.samplers import make_sampler

from .reported_model import ReportedModel
from .sections import Section, denoising, process, results, samples, training_course


@dataclass(frozen=True)
class Choices:
    """What is drawn for a report: samples, in 50 steps where a chain has as many, and real images of `dataset_name`
    where those that the model was trained on are not here."""

    num_images: int = 50
    num_inference_steps: int | None = None
    guidance_scale: float = 1.0
    seed: int = 0
    batch_size: int = 64
    dataset_name: str | None = None


def make_report(model: ReportedModel, choices: Choices) -> str:
    """The report as HTML; ValueError where `dataset_name` cannot be read or the model has no guidance."""
    steps = choices.num_inference_steps or min(50, model.process.num_timesteps)
    sampling = Sampling(choices.seed, choices.batch_size, steps, choices.guidance_scale)
    guided = f", guidance {choices.guidance_scale:g}" if model.class_names else ""
    sampler, name = ("euler", "Euler") if model.facts.is_flow_matching else ("ddim", "DDIM")
    how = f"{name}, {steps} steps{guided}, seed {choices.seed}"
    model.pipeline.scheduler = make_sampler(sampler, model.pipeline.scheduler)
    measured = process(model, choices.dataset_name, choices.seed)
    drawn = [samples(model, choices.num_images, sampling, how), denoising(model, sampling, how)]
    return render(model, [*drawn, training_course(model), results(model), *measured, Section("use", "Use")])


def render(model: ReportedModel, sections: Sequence[Section]) -> str:
    """The page of these sections, with what is known of the model around them."""
    files = resources.files("ddpm_ext.report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["code"] = _with_code
    template = environment.from_string(files.joinpath("template.html").read_text(encoding="utf-8"))
    facts = model.facts
    return template.render(
        title=model.title,
        style=Markup(files.joinpath("style.css").read_text(encoding="utf-8")),
        what_it_is=what_it_is(facts),
        sections=sections,
        results=facts.results,
        name=model.name,
        usage=usage(facts, model.where),
        usage_note=usage_note(facts),
        limits=limits(facts),
        command=_on_lines(str(facts.run.get("command", ""))),
        environment=facts.run.get("environment"),
        configuration=yaml.safe_dump(facts.configuration, sort_keys=False).strip() if facts.configuration else None,
        version=version("ddpm-ext"),
    )


def _with_code(text: str) -> Markup:
    """Text in which `this` is code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def _on_lines(command: str) -> str:
    """A command with each of its flags on a line of its own."""
    try:
        parts = shlex.split(command)
    except ValueError:  # no command that a shell would take
        return command
    lines: list[list[str]] = [[]]
    for part in parts:
        if part.startswith("--"):
            lines.append([])
        lines[-1].append(part)
    return " \\\n    ".join(map(shlex.join, lines))
