"""What a training script can be told of curves, samples, measurements and the Hub; see `arguments`."""

from dataclasses import dataclass
from typing import Literal

from .argument_rules import Count, Group, NonNegative, Switch, Text, flag


@dataclass(frozen=True)
class LoggingArguments(Group):
    _argument_group_name = "Logging (curves, samples while it trains, and the Hub)"

    logger: Literal["tensorboard", "wandb", "none"] = flag(
        "tensorboard", "Where curves go besides metrics.jsonl; W&B without a login runs offline."
    )
    project_name: Text | None = flag(None, "Project in the tracker (default: the script's name).")
    run_name: Text | None = flag(None, "Run in the tracker (default: the output folder's name).")
    logging_dir: Text = flag("logs", "TensorBoard's folder in output_dir.", metavar="FOLDER")
    logging_steps: Count = flag(50, "Updates that are averaged into one logged value.", metavar="STEPS")
    save_images_epochs: Count = flag(10, "Passes over the data between two grids of samples.")
    save_images_steps: Count | None = flag(
        None, "Updates between two grids, in place of save_images_epochs.", metavar="STEPS"
    )
    save_images_at_start: Switch = flag(
        False,
        "Also draw the grid before the first update, and keep as samples/noise.png the noise that all grids start"
        " from.",
    )
    save_model_epochs: Count = flag(10, "Passes over the data after which the pipeline is saved again.")
    eval_batch_size: Count = flag(16, "Images in a grid of samples.")
    num_inference_steps: Count | None = flag(
        None,
        "Sampling steps for those images (default: 1000, for flow_matching 50, at most num_train_timesteps).",
        metavar="STEPS",
        alias="--ddpm_num_inference_steps",
    )
    eval_steps: Count | None = flag(
        None, "Updates between two measurements on the held-out split, bits/dim at least (default: none).", "STEPS"
    )
    eval_images: Count = flag(256, "Images of the held-out split whose bits/dim are measured.")
    eval_fid: Text | None = flag(
        None,
        "At these steps also the Fréchet distance of samples to the held-out split, by these features: inception,"
        " dinov2, pixels, a TorchScript file, or a vision model of transformers.",
        metavar="NAME|FILE|REPO",
    )
    eval_fid_images: Count = flag(1000, "Samples for it, drawn in num_inference_steps.")
    keep_best: Literal["bits_per_dim", "fid"] | None = flag(
        None, "Keep in best/ the pipeline that had the lowest value at these steps, besides the last one."
    )
    profile: Count | None = flag(
        None,
        "Profile so many steps, once the first ones are done: profile/profile.md says where their time goes,"
        " profile/trace.json has every call.",
        metavar="STEPS",
    )
    push_to_hub: Switch = flag(False, "Upload the pipeline and its card when it is saved, beside the training.")
    hub_token: Text | None = flag(
        None, "Token to upload with (default: that of `hf auth login`); never written to a file."
    )
    hub_model_id: Text | None = flag(
        None, "Repository to upload to (default: the output folder's name).", metavar="USER/NAME"
    )
    hub_private_repo: Switch = flag(
        True, "Make the repository private if it is new; `--hub_private_repo false` makes it public."
    )
    hub_license: Text | None = flag(None, "Licence of the model in its card, such as mit.", metavar="NAME")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("eval_fid", "keep_best"):
            if getattr(self, name) is not None and self.eval_steps is None:
                raise ValueError(
                    f"`{name}` is '{getattr(self, name)}' but `eval_steps` is not given, which says when to measure."
                )
        if self.keep_best == "fid" and self.eval_fid is None:
            raise ValueError("`keep_best` is 'fid' but `eval_fid` is not given, which says by what features.")


@dataclass(frozen=True)
class ClassConditionalLoggingArguments(LoggingArguments):
    guidance_scale: NonNegative = flag(
        1.0,
        "Guidance for the samples while it trains: 1 is none, more is more typical of the class and less varied.",
        metavar="W",
    )
