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
_SCHEDULES = {"squaredcos_cap_v2": "cosine", "scaled_linear": "quadratic"}


def what_it_is(facts: Facts) -> str:
    """Images, network, prediction, variance and process, in two sentences."""
    size = facts.unet["sample_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    colour = {1: "gray ", 3: "colour "}.get(facts.unet["in_channels"], "")
    kind = f"class-conditional, {len(facts.class_names)} classes" if facts.class_names else "unconditional"
    schedule = facts.scheduler["beta_schedule"]
    parameters = facts.num_parameters
    network = f"A U-Net of {parameters:,} parameters" if parameters else "A U-Net"
    prediction = _PREDICTIONS.get(facts.scheduler["prediction_type"], facts.scheduler["prediction_type"])
    variance = _VARIANCES.get(facts.scheduler["variance_type"], facts.scheduler["variance_type"])
    return (
        f"A denoising diffusion model in pixel space of {colour}images of {height}x{width} pixels ({kind}). {network} "
        f"predicts {prediction}, with {variance}, in a process of {facts.scheduler['num_train_timesteps']:,} steps "
        f"with the {_SCHEDULES.get(schedule, schedule)} schedule."
    )


def grid_caption(facts: Facts) -> str:
    """How the samples that a run has drawn came about."""
    steps = facts.configuration.get("num_inference_steps")
    guidance = facts.configuration.get("guidance_scale", 1.0)
    guided = f", guidance {guidance:g}" if facts.class_names else ""
    return f"Not selected: {steps} sampling steps{guided}, of the averaged weights where the run keeps an average."


def usage(facts: Facts, where: str) -> str:
    """The lines of Python that load the model from `where`, a folder or a repository, and sample from it."""
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


def usage_note(facts: Facts) -> str:
    """What to know besides: other samplers, and the names of the classes."""
    note = (
        "Any sampler of diffusers works: "
        "`pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`, for one."
    )
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
        trained = f" for {last['step']:,} updates ({last['images_seen']:,} images seen, last loss {last['loss']:.4f})"
    data = facts.run.get("images")
    return (
        f"Trained on {facts.dataset}, split '{facts.configuration.get('train_split')}'"
        f"{f' ({data})' if data else ''}{trained}"
    )


def limits(facts: Facts) -> str:
    """What the model cannot do."""
    return (
        f"The model knows nothing but the images of {facts.dataset}: it draws what resembles them, with their "
        "omissions and their prejudices, and may repeat single ones of them. Whether it does was measured only where "
        "the results above say so."
    )
