"""Opens a pipeline of ours, or a stock one as ours, from a folder or the Hub."""

from pathlib import Path

from diffusers import DDPMPipeline, DiffusionPipeline

from .pipeline_improved_ddpm import ImprovedDDPMPipeline


def load_pipeline(model: str) -> ImprovedDDPMPipeline:
    """The pipeline in folder or repository `model`; ValueError, in one sentence, where there is none that we can
    run."""
    folder = Path(model)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ValueError(f"`model` is {model}, which holds no pipeline: a folder with a model_index.json is accepted.")
    try:
        pipeline = DiffusionPipeline.from_pretrained(model)
    except (
        OSError,
        ValueError,
        AttributeError,
        KeyError,
        TypeError,
    ) as error:  # the last three: an index that is none
        reason = str(error).strip().splitlines()[0] if folder.exists() else "there is no such folder or repository"
        raise ValueError(f"`model` is {model}, which could not be loaded: {reason.rstrip('.')}.") from error
    if isinstance(pipeline, DDPMPipeline):
        return ImprovedDDPMPipeline(pipeline.unet, pipeline.scheduler)
    if not isinstance(pipeline, ImprovedDDPMPipeline):
        raise ValueError(
            f"`model` is {model}, a {type(pipeline).__name__}: pipelines of ddpm_ext and DDPMPipeline are accepted."
        )
    return pipeline
