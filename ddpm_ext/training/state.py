"""What an update changes and a checkpoint holds: the network, its optimizer and schedule, and its averages."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers import ModelMixin
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from .arguments import TrainingArguments
from .ema import PowerEMA, SnapshotWriter, averaged_tensors, check_same_widths
from .running_statistics import RunningStatistics
from .sharding import fill, is_sharded, load_optimizer_state, optimizer_state, whole


class TrainingState:
    """The state of a run after `step` updates of `unet`; `network` is the prepared one, to call."""

    def __init__(
        self, accelerator: Accelerator, unet: ModelMixin, arguments: TrainingArguments, total_steps: int
    ) -> None:
        self.accelerator = accelerator
        self.arguments = arguments
        self.step = 0
        self._network_class = type(unet)  # FSDP gives the prepared one a class of its own
        if accelerator.distributed_type != DistributedType.FSDP:  # which divides only what is contiguous
            unet.to(memory_format=torch.channels_last)  # a sixth faster on a CPU, more on a GPU
        optimizer = torch.optim.AdamW(
            unet.parameters(),
            lr=arguments.learning_rate,
            betas=(arguments.adam_beta1, arguments.adam_beta2),
            weight_decay=arguments.adam_weight_decay,
            eps=arguments.adam_epsilon,
            fused=True,
        )
        # Not given to accelerate, which would step it once per process: its steps are updates of the network.
        self.lr_scheduler = get_scheduler(
            arguments.lr_scheduler,
            optimizer,
            num_warmup_steps=arguments.lr_warmup_steps,
            num_training_steps=total_steps,
        )
        self.network, self.optimizer = accelerator.prepare(unet, optimizer)
        self.ema = self._make_ema() if arguments.use_ema else None
        self.statistics = RunningStatistics(self.unet, accelerator, is_averaged=self.ema is not None)
        self.power_ema = PowerEMA(self.unet, arguments.ema_sigma_rel) if arguments.ema_sigma_rel else None
        self.snapshots = SnapshotWriter(Path(arguments.output_dir) / "ema_snapshots", total_steps)

    def _make_ema(self) -> EMAModel:
        ema = EMAModel(
            self.unet.parameters(),
            decay=self.arguments.ema_max_decay,
            use_ema_warmup=True,
            inv_gamma=self.arguments.ema_inv_gamma,
            power=self.arguments.ema_power,
            foreach=True,
        )
        ema.to(self.accelerator.device)
        return ema

    @property
    def unet(self) -> ModelMixin:
        """The network itself, without what accelerate wrapped around it."""
        return self.accelerator.unwrap_model(self.network)

    def averaged_unet(self) -> ModelMixin:
        """The network to sample from: a copy with the averaged weights, or itself where there is no average."""
        return self.raw_unet() if self.ema is None else self._copy(self.ema.shadow_params, self.statistics.averages)

    def raw_unet(self) -> ModelMixin:
        """The network that is trained: itself, or a whole copy where the processes share it out."""
        if not is_sharded(self.network):
            return self.unet
        return self._copy(self.network.parameters(), self.statistics.newest)

    def _copy(self, parameters: Iterable[Tensor], statistics: Iterable[Tensor]) -> ModelMixin:
        copy = self._network_class.from_config(self.unet.config)
        copy.to(self.accelerator.device, memory_format=torch.channels_last)
        fill(copy.parameters(), (whole(parameter) for parameter in parameters))
        fill(copy.buffers(), statistics)
        return copy

    def update(self) -> Tensor:
        """Clips the gradients, updates weights and schedule; returns the gradients' norm before clipping.

        `average` is to follow.
        """
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.arguments.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:  # as float16's scaler does while it looks for its scale
            self.lr_scheduler.step()
        self.step += 1
        return whole(norm)

    def average(self) -> None:
        """Takes up into the averages what the update left."""
        if not self.accelerator.optimizer_step_was_skipped:
            if self.ema is not None:
                self.ema.step(self.network.parameters())
            self.statistics.update(self.ema.cur_decay_value if self.ema is not None else None)
            if self.power_ema is not None:
                self.power_ema.update(averaged_tensors(self.unet).values())
        if self.power_ema is not None and self.snapshots.is_due(self.step):
            averages = self.power_ema.whole()
            if self.accelerator.is_main_process:
                self.snapshots.write(averages, self.step)

    def to_save(self) -> "SavedState":
        """What a checkpoint holds besides the pipeline, whole; every process is to call it, and the first to write."""
        training = {
            "step": self.step,
            "optimizer": optimizer_state(self.unet, self.optimizer.optimizer),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "ema_step": self.ema.optimization_step if self.ema else None,
        }
        raw_unet = self.raw_unet() if self.ema is not None else None
        return SavedState(training, raw_unet, self.power_ema.whole() if self.power_ema is not None else None)

    def load(self, checkpoint: Path) -> None:
        """Takes up the state that `checkpoint` holds."""
        check_same_widths(checkpoint, self.arguments.ema_sigma_rel)
        load = self._network_class.from_pretrained
        raw = load(checkpoint, subfolder="unet_raw" if self.ema else "unet")
        fill(self.network.parameters(), raw.parameters())
        fill(self.statistics.newest, raw.buffers())
        state = torch.load(checkpoint / "state" / "training.pt", map_location="cpu", weights_only=True)
        load_optimizer_state(self.unet, self.optimizer.optimizer, state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            averaged = load(checkpoint, subfolder="unet")
            fill(self.ema.shadow_params, averaged.parameters())
            fill(self.statistics.averages, averaged.buffers())
            self.ema.optimization_step = state["ema_step"]
        if self.power_ema is not None:
            self.power_ema.load(checkpoint / "ema")
        self.step = self.snapshots.start = state["step"]


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint holds besides the pipeline: `raw_unet` where the pipeline has averaged weights."""

    training: dict[str, object]
    raw_unet: ModelMixin | None
    power_ema: PowerEMA | None

    def write(self, checkpoint: Path) -> None:
        """Adds it to `checkpoint`, which holds the pipeline."""
        if self.raw_unet is not None:
            self.raw_unet.save_pretrained(checkpoint / "unet_raw")
        if self.power_ema is not None:
            self.power_ema.save(checkpoint / "ema")
        (checkpoint / "state").mkdir()
        torch.save(self.training, checkpoint / "state" / "training.pt")
