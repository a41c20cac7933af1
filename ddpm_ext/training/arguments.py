"""What a training script can be told: one small dataclass per group of arguments, each field a flag.

The type of a field says which values are accepted (`argument_rules`). Defaults are those of diffusers' own
`train_unconditional.py`, where it has the argument, but for `resolution`, `output_dir` and `mixed_precision`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .argument_rules import (
    Channels,
    Count,
    CountOrZero,
    Folder,
    Group,
    NonNegative,
    Positive,
    PositiveOrInf,
    Share,
    ShareBelowOne,
    Size,
    Switch,
    Text,
    Variance,
    Widths,
    flag,
)
from .logging_arguments import LoggingArguments
from .model_arguments import ModelArguments
from .objectives import check_objective


if TYPE_CHECKING:
    from .point_arguments import PointDataArguments, PointModelArguments


@dataclass(frozen=True)
class DataArguments(Group):
    _argument_group_name = "Data (which images, and what becomes of them before the network sees them)"

    dataset_name: Text | None = flag(
        None,
        "'digits' (1,797 real 8x8 digits, no download), a data set on the Hub, or a local path that the `datasets`"
        " library reads.",
    )
    dataset_config_name: Text | None = flag(None, "Configuration of the data set, if it has several.")
    train_data_dir: Text | None = flag(
        None,
        "Folder of images (sub-folders are the classes) or of parquet files, or a file, glob or URL of parquet files,"
        " in place of dataset_name.",
    )
    train_split: Text = flag("train", "Split that is trained on.")
    test_split: Text = flag("test", "Split that is held out for evaluation.")
    cache_dir: Text | None = flag(None, "Where downloads are kept (default: the Hub's own cache).")
    resolution: Size | None = flag(
        None,
        "Pixels: one number for a square, or HEIGHTxWIDTH such as 96x160. The shorter side is resized, the longer one"
        " cropped (default: the images' own size, which must be the same for all).",
        metavar="SIZE",
    )
    center_crop: Switch = flag(False, "Crop the middle; otherwise a place drawn anew each time.")
    random_flip: Switch = flag(False, "Mirror half of the images, drawn anew each time.")
    image_channels: Channels | None = flag(
        None, "1 for grey, 3 for colour; images are converted (default: what the data set has).", metavar="1|3"
    )
    image_column: Text | None = flag(None, "Column that holds the images (default: the one that does).")
    label_column: Text | None = flag(None, "Column that holds the classes (default: the one that does).")
    preserve_input_precision: Switch = flag(
        False, "Keep all 16 bits of 16-bit images; otherwise images are read as 8-bit."
    )
    skip_bad_images: Switch = flag(
        False, "Count and report images that cannot be decoded; otherwise the first one is an error."
    )
    streaming: Switch = flag(
        False,
        "Read parquet files, local or of the Hub, row group by row group while training: nothing is downloaded or"
        " decoded before. An epoch shuffles the row groups, and the images only within windows of shuffle_window."
        " Needs resolution.",
    )
    shuffle_window: Count = flag(
        4096,
        "With streaming: about how many images are shuffled among each other. Memory holds two windows of encoded"
        " images, shared by the processes; resuming reads one.",
        metavar="IMAGES",
    )
    dataloader_num_workers: CountOrZero = flag(
        0, "Processes that decode images while the network computes; 0 decodes in the training process."
    )


@dataclass(frozen=True)
class ProcessArguments(Group):
    """Field for field what the constructor of `ImprovedDDPMScheduler` takes."""

    _argument_group_name = "Process (how noise is added, and what the network predicts)"

    num_train_timesteps: Count = flag(1000, "Steps from a sample to noise.", metavar="T", alias="--ddpm_num_steps")
    beta_schedule: Literal["linear", "scaled_linear", "quad", "squaredcos_cap_v2", "cosine", "sigmoid"] = flag(
        "linear",
        "How noise grows with the step; quad is short for scaled_linear, cosine for squaredcos_cap_v2.",
        alias="--ddpm_beta_schedule",
    )
    beta_start: Variance = flag(1e-4, "Variance that the first step adds (cosine does not use it).", metavar="BETA")
    beta_end: Variance = flag(0.02, "Variance that the last step adds (cosine does not use it).", metavar="BETA")
    prediction_type: Literal["epsilon", "sample", "v_prediction", "mean"] = flag(
        "epsilon",
        "What the network predicts: the noise, the clean sample x_0, v (Salimans & Ho 2022), or the mean of the step"
        " back.",
    )
    variance_type: Literal["fixed_small", "fixed_large", "learned", "learned_range"] = flag(
        "fixed_small",
        "Variance of a step back: that of the posterior, beta, a learned log-variance, or learned between the first"
        " two (Nichol & Dhariwal 2021). Learned ones double the network's output channels.",
    )
    clip_sample: Switch = flag(True, "Clip the predicted clean sample to [-1, 1] while sampling.")
    rescale_betas_zero_snr: Switch = flag(
        False, "Rescale the schedule so that the last step is pure noise (Lin et al. 2024)."
    )

    @property
    def learns_variance(self) -> bool:
        return self.variance_type in ("learned", "learned_range")


@dataclass(frozen=True)
class TrainingArguments(Group):
    _argument_group_name = "Training (how long, how fast, and what is kept)"

    output_dir: Folder = flag(
        "ddpm-model",
        "Where the pipeline, its configuration, the metrics, the samples and the checkpoints go.",
        metavar="FOLDER",
    )
    overwrite_output_dir: Switch = flag(False, "Start anew in an output folder that holds another run.")
    seed: CountOrZero = flag(
        0, "Settles everything random: the same seed gives the same run, on any number of processes."
    )
    max_train_steps: Count | None = flag(
        None, "Updates of the network (default: as num_epochs says).", metavar="STEPS"
    )
    num_epochs: Count = flag(100, "Passes over the data; not used where max_train_steps is given.")
    train_batch_size: Count = flag(16, "Samples per process and forward pass.")
    gradient_accumulation_steps: Count = flag(1, "Forward passes per update: multiplies the batch, not the memory.")
    objective: Literal["ddpm", "flow_matching"] = flag(
        "ddpm",
        "What is learned: to take noise away step by step, or the velocity of the straight path from noise to data"
        " (Lipman et al. 2023). Noise schedules, predictors, variances, bounds and their losses are ddpm's alone.",
    )
    loss: Literal["simple", "hybrid", "vlb"] | None = flag(
        None,
        "Squared error; squared error plus vlb_weight times the variational bound, which is what teaches a learned"
        " variance; or the bound alone (default: hybrid where the variance is learned, else simple).",
    )
    vlb_weight: NonNegative = flag(0.001, "Weight of the variational bound in the hybrid loss.", metavar="W")
    loss_weighting: Literal["none", "min_snr", "p2"] = flag(
        "none",
        "Weight of the squared error over the timesteps: that of the predicted quantity itself, min-SNR (Hang et al."
        " 2023) or P2 (Choi et al. 2022), either for any prediction type.",
    )
    min_snr_gamma: Positive = flag(5.0, "Where min-SNR stops growing.", metavar="GAMMA")
    p2_gamma: NonNegative = flag(1.0, "P2's exponent ...", metavar="GAMMA")
    p2_k: Positive = flag(1.0, "... and the constant added to the SNR.", metavar="K")
    timestep_sampler: Literal["uniform", "loss_second_moment", "logit_normal"] = flag(
        "uniform",
        "Which timesteps are looked at: all alike, those whose loss varies most more often (Nichol & Dhariwal 2021),"
        " for the vlb loss, or the middle ones more often (Esser et al. 2024), for flow_matching.",
    )
    learning_rate: Positive = flag(1e-4, "AdamW's learning rate once warm-up is over.", metavar="RATE")
    lr_scheduler: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
    ] = flag("cosine", "How the learning rate changes after warm-up.")
    lr_warmup_steps: CountOrZero = flag(500, "Updates in which the learning rate rises from 0.", metavar="STEPS")
    adam_beta1: ShareBelowOne = flag(0.95, "Share of the mean gradient kept at each update.", metavar="BETA")
    adam_beta2: ShareBelowOne = flag(0.999, "Share of the mean squared gradient kept at each update.", metavar="BETA")
    adam_weight_decay: NonNegative = flag(1e-6, "Decoupled weight decay, relative to the learning rate.", metavar="W")
    adam_epsilon: Positive = flag(1e-8, "Keeps AdamW's division away from zero.", metavar="EPS")
    max_grad_norm: PositiveOrInf = flag(
        1.0, "Longer gradients are shortened to this length; inf never does.", metavar="NORM"
    )
    use_ema: Switch = flag(
        False, "Average the weights over the updates; samples and the saved pipeline use the average."
    )
    ema_inv_gamma: Positive = flag(1.0, "The average's decay after n updates is 1 - (1 + n/G)^-P ...", metavar="G")
    ema_power: Positive = flag(0.75, "... with this P ...", metavar="P")
    ema_max_decay: Share = flag(0.9999, "... and never above this.", metavar="DECAY")
    ema_sigma_rel: Widths | None = flag(
        None,
        "Also keep power-function averages of these widths, such as 0.05 0.10, from which reconstruct_ema.py makes any"
        " width after training; 32 snapshots of each take 128 bytes per parameter in all (default: none).",
        metavar="WIDTH",
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(
        None, "Precision of the network alone; noise and loss stay float32 (default: what `accelerate` is set to)."
    )
    compile: Literal["auto", "always", "never"] = flag(
        "auto",
        "torch.compile the network: auto tries it where the run is long enough to win back the time that it takes, and"
        " keeps what is faster.",
    )
    checkpointing_steps: Count = flag(
        500, "Updates between two checkpoints that training can resume from.", metavar="STEPS"
    )
    checkpointing_epochs: Count | None = flag(
        None, "Passes over the data between two checkpoints, in place of checkpointing_steps.", metavar="EPOCHS"
    )
    checkpoints_total_limit: Count | None = flag(None, "Checkpoints to keep, the oldest go first (default: all).")
    resume_from_checkpoint: Text | None = flag(
        None,
        "Continue from the newest checkpoint of output_dir, or from a folder; it is an error if there is none.",
        metavar="latest|FOLDER",
    )
    resume: Switch = flag(
        False, "Continue from the newest checkpoint of output_dir if there is one, else start: for job queues."
    )


@dataclass(frozen=True)
class ClassConditionalTrainingArguments(TrainingArguments):
    label_dropout: Share = flag(
        0.1,
        "Probability that a sample is shown without its class, from which guidance learns the unconditional model.",
        metavar="P",
    )


@dataclass(frozen=True)
class Arguments:
    """Everything that a training script was told; class-conditional scripts get the `ClassConditional...` groups, and
    the script for points the `Point...` groups."""

    data: "DataArguments | PointDataArguments"
    model: "ModelArguments | PointModelArguments"
    process: ProcessArguments
    training: TrainingArguments
    logging: LoggingArguments

    def __post_init__(self) -> None:
        check_objective(self)
        timesteps, steps = self.process.num_train_timesteps, self.logging.num_inference_steps
        if steps is not None and steps > timesteps:
            raise ValueError(
                f"`num_inference_steps` is {steps}: at most num_train_timesteps, which is {timesteps}, is accepted."
            )
        if self.training.loss == "hybrid" and not self.process.learns_variance:
            raise ValueError(
                f"`loss` is 'hybrid' but `variance_type` is {self.process.variance_type!r}: the hybrid loss needs a"
                " variance that is learned, 'learned' or 'learned_range'."
            )
        dropout, scale = getattr(self.training, "label_dropout", 0.1), getattr(self.logging, "guidance_scale", 1.0)
        if dropout == 0 and scale != 1:
            raise ValueError(
                f"`guidance_scale` is {scale} but `label_dropout` is 0: guidance needs a `label_dropout` above 0,"
                " such as 0.1."
            )
