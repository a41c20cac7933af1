"""What an update changes and a checkpoint holds: the network, its optimizer and schedule, its averages, and what the
timestep sampler has learned."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator, init_empty_weights
from accelerate.utils import DistributedType
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor

from ddpm_ext.diffusion import TimestepSampler

from .arguments import TrainingArguments
from .ema import PowerEMA, SnapshotWriter, averaged_tensors, check_same_widths
from .host_copy import HostCopy
from .running_statistics import RunningStatistics
from .sharding import fill, is_sharded, load_optimizer_state, optimizer_state, whole


class TrainingState:
    """The state of a run after `step` updates of `unet`; `network` is the prepared one, to call."""

    def __init__(
        self,
        accelerator: Accelerator,
        unet: ModelMixin,
        timesteps: TimestepSampler,
        arguments: TrainingArguments,
        total_steps: int,
    ) -> None:
        self.accelerator = accelerator
        self.timesteps = timesteps
        self.arguments = arguments
        self.step = 0
        self._network_class = type(unet)  # FSDP gives the prepared one a class of its own
        # `from_config` fills in defaults for these, among which diffusers counts all that was given by position.
        self._config = {**unet.config, "_use_default_values": []}
        # Channels last is faster on a GPU and no faster on a CPU; FSDP divides only what is contiguous.
        is_last = accelerator.device.type == "cuda" and accelerator.distributed_type != DistributedType.FSDP
        self._memory_format = torch.channels_last if is_last else torch.contiguous_format
        unet.to(memory_format=self._memory_format)
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
        self._noted: list[Tensor] = []
        self._host_copy = HostCopy(keeps=accelerator.is_main_process)

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
        copy = self._network_class.from_config(self._config)
        copy.to(self.accelerator.device, memory_format=self._memory_format)
        fill(copy.parameters(), (whole(parameter) for parameter in parameters))
        fill(copy.buffers(), statistics)
        return copy

    def note(self, loss: Tensor, t: Tensor) -> None:
        """The losses of the timesteps `t`, each (B,), of one batch: what the timestep sampler learns at the update.

        It learns from those of the whole global batch, in its order, on every process.
        """
        if self.timesteps.learns_from_losses:
            self._noted.append(self.accelerator.gather(torch.stack([t.double(), loss.detach().double()], dim=1)))

    def update(self) -> Tensor:
        """Clips the gradients, updates weights and schedule; returns the gradients' norm before clipping.

        `average` is to follow.
        """
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.arguments.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:  # as float16's scaler does while it looks for its scale
            self.lr_scheduler.step()
        if self._noted:
            noted = torch.cat(self._noted)
            self.timesteps.update(noted[:, 0].long(), noted[:, 1])
            self._noted.clear()
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

    def progress(self) -> dict[str, float]:
        """The learning rate, and how far the average looks back, for a log."""
        values = {"learning_rate": self.lr_scheduler.get_last_lr()[0]}
        if self.ema is not None:
            decay = self.ema.cur_decay_value
            values |= {"ema_decay": decay, "ema_width_steps": 1 / (1 - decay)}
        return values

    def to_save(self) -> "SavedState | None":
        """A copy of it, for a checkpoint; every process must ask, and the first one gets it.

        It is in the memory of the one before, which must be written by then.
        """
        training = {
            "step": self.step,
            "optimizer": optimizer_state(self.unet, self.optimizer.optimizer),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "ema_step": self.ema.optimization_step if self.ema else None,
        }
        copied = self._host_copy.take(
            {
                "training": training,
                "timesteps": self.timesteps.state_dict(),
                "newest": [*self.network.parameters(), *self.statistics.newest],
                "averaged": [*self.ema.shadow_params, *self.statistics.averages] if self.ema else None,
                "power_ema": self.power_ema.averages if self.power_ema else None,
            }
        )
        if copied is None:
            return None
        return SavedState(
            self._empty_unet,
            copied["training"],
            copied["timesteps"],
            copied["newest"],
            copied["averaged"],
            self.power_ema.with_averages(copied["power_ema"]) if self.power_ema else None,
        )

    @cached_property
    def _empty_unet(self) -> ModelMixin:
        """A network without weights, made as diffusers makes those that it loads."""
        with init_empty_weights():
            return self._network_class.from_config(self._config)

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
        self.timesteps.load_state_dict(torch.load(checkpoint / "state" / "timesteps.pt", weights_only=True))
        self.step = self.snapshots.start = state["step"]


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint holds, in memory of its own: weights and running statistics for the network `empty`, as lists,
    the rest as it is written; `averaged` is None where there is no average."""

    empty: ModelMixin
    training: dict[str, object]
    timesteps: dict[str, Tensor]
    newest: list[Tensor]
    averaged: list[Tensor] | None
    power_ema: PowerEMA | None

    @property
    def step(self) -> int:
        """The number of updates after which it was taken."""
        return self.training["step"]

    def write(self, checkpoint: Path, make_pipeline: Callable[[ModelMixin], DiffusionPipeline]) -> None:
        """Writes it into the folder `checkpoint`, which is a pipeline then."""
        make_pipeline(self._unet(self.newest if self.averaged is None else self.averaged)).save_pretrained(
            str(checkpoint)
        )
        if self.averaged is not None:
            self._unet(self.newest).save_pretrained(checkpoint / "unet_raw")
        if self.power_ema is not None:
            self.power_ema.save(checkpoint / "ema")
        (checkpoint / "state").mkdir()
        torch.save(self.training, checkpoint / "state" / "training.pt")
        torch.save(self.timesteps, checkpoint / "state" / "timesteps.pt")

    def _unet(self, tensors: Sequence[Tensor]) -> ModelMixin:
        """The network, with these weights and statistics until the next call."""
        names = [name for name, _ in (*self.empty.named_parameters(), *self.empty.named_buffers())]
        named = dict(zip(names, tensors, strict=True))
        self.empty.load_state_dict({name: named[name] for name in self.empty.state_dict()}, assign=True)
        return self.empty
