"""What a model is, how it was trained and how to use it, in the words of its card and of its report."""

import json

from .facts import Facts


_PREDICTIONS = {"epsilon": "the noise", "sample": "x_0", "v_prediction": "the velocity", "mean": "the posterior mean"}
_VARIANCES = {
    "fixed_small": "the posterior's variance",
    "fixed_small_log": "the posterior's variance",
    "fixed_large": "beta as its variance",
    "fixed_large_log": "beta as its variance",
    "learned": "a learned variance",
    "learned_range": "a learned variance between its two bounds",
}
_NETWORKS = {"MLPDenoiser": "A multilayer perceptron", "ConvDenoiser": "A convolutional network"}
_SCHEDULES = {"squaredcos_cap_v2": "cosine", "scaled_linear": "quadratic"}


def what_it_is(facts: Facts) -> str:
    """Samples, network, what it predicts and the process, in two sentences."""
    classes = len(facts.class_names) or (facts.unet.get("num_class_embeds") or 1) - 1  # the last is "no class"
    kind = f"class-conditional, {classes} classes" if classes else "unconditional"
    parameters = facts.num_parameters
    name = facts.unet.get("_class_name", "UNet2DModel")
    network = _NETWORKS.get(name, "A U-Net" if "UNet" in name else f"A network (`{name}`)")
    network += f" of {parameters:,} parameters" if parameters else ""
    if facts.is_flow_matching:
        return (
            f"A flow-matching model {_space(facts)} ({kind}). {network} predicts the velocity of the straight path "
            f"from {facts.noun} to noise, and is told the place on it as 0 to "
            f"{facts.scheduler['num_train_timesteps']:,}."
        )
    schedule = facts.scheduler["beta_schedule"]
    prediction = _PREDICTIONS.get(facts.scheduler["prediction_type"], facts.scheduler["prediction_type"])
    variance = _VARIANCES.get(facts.scheduler["variance_type"], facts.scheduler["variance_type"])
    return (
        f"A denoising diffusion model {_space(facts)} ({kind}). {network} predicts {prediction}, "
        f"with {variance}, in a process of {facts.scheduler['num_train_timesteps']:,} steps "
        f"with the {_SCHEDULES.get(schedule, schedule)} schedule."
    )


def _space(facts: Facts) -> str:
    if facts.noun == "points":
        return f"of points in {facts.unet['in_channels']} dimensions"
    size = facts.unet["sample_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    colour = {1: "gray ", 3: "colour "}.get(facts.unet["in_channels"], "")
    return f"in pixel space of {colour}images of {height}x{width} pixels"


def grid_caption(facts: Facts) -> str:
    """How the samples that a run has drawn came about."""
    steps = facts.configuration.get("num_inference_steps")
    guidance = facts.configuration.get("guidance_scale", 1.0)
    guided = f", guidance {guidance:g}" if facts.class_names else ""
    return f"Not selected: {steps} sampling steps{guided}, of the averaged weights where the run keeps an average."


def usage(facts: Facts, where: str) -> str:
    """The lines of Python that load the model from `where`, a folder or a repository, and sample from it."""
    labels = json.dumps(facts.class_names[:2], ensure_ascii=False)
    steps = 50 if facts.is_flow_matching else 100
    few = "num_points=1000" if facts.noun == "points" else "batch_size=4"
    argument = f"class_labels={labels}, guidance_scale=1.5" if facts.class_names else few
    return "\n".join(
        [
            "import ddpm_ext",
            "from diffusers import DiffusionPipeline",
            "",
            f'pipe = DiffusionPipeline.from_pretrained("{where}")',
            f"{facts.noun} = pipe({argument}, num_inference_steps={steps}).{facts.noun}",
        ]
    )


def usage_note(facts: Facts) -> str:
    """What to know besides: other samplers, and the names of the classes."""
    samplers = "Any sampler of diffusers works"
    if facts.is_flow_matching:
        samplers = "`FlowMatchHeunDiscreteScheduler`, DPM-Solver++ and UniPC work too"
    note = f"{samplers}: `pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`, for one."
    if facts.class_names:
        shown = ", ".join(facts.class_names[:20]) + (", ..." if len(facts.class_names) > 20 else "")
        note += f" Classes: {shown}."
    return note


def training(facts: Facts) -> str:
    """On what and for how long it was trained: a sentence without its end."""
    logged = [row for row in facts.metrics if "loss" in row]
    trained = ""
    if logged:
        last = logged[-1]
        seen = f"{last[f'{facts.noun}_seen']:,} {facts.noun}"
        trained = f" for {last['step']:,} updates ({seen} seen, last loss {last['loss']:.4f})"
    data = facts.run.get(facts.noun)
    split = facts.configuration.get("train_split")
    return f"Trained on {facts.dataset}{f', split {split!r}' if split else ''}{f' ({data})' if data else ''}{trained}"


def limits(facts: Facts) -> str:
    """What the model cannot do."""
    if facts.noun == "points":
        return "A model to learn from: it draws points of one distribution in the plane, and nothing else."
    return (
        f"The model knows nothing but the images of {facts.dataset}: it draws what resembles them, with their "
        "omissions and their prejudices, and may repeat single ones of them. Whether it does was measured only where "
        "the results above say so."
    )
