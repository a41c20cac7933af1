"""What a run looks at now and then while it trains, and what it keeps because of that."""

from collections.abc import Callable

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ddpm_ext.data.training_data import TrainingData
from ddpm_ext.pipelines import ImprovedDDPMPipeline

from .arguments import Arguments
from .best_pipeline import BestPipeline
from .held_out import COLUMNS, HeldOut
from .logs import Logs
from .loss_record import LossRecord
from .samples import Pictures


class Evaluations:
    """Draws `pictures` and measures held-out images every so often, both at the end too, and keeps the best pipeline;
    all processes call the same methods."""

    def __init__(
        self,
        arguments: Arguments,
        data: TrainingData,
        accelerator: Accelerator,
        logs: Logs,
        losses: LossRecord,
        pictures: Pictures,
        steps_per_epoch: int,
        total_steps: int,
    ) -> None:
        self.arguments, self.accelerator, self.logs = arguments, accelerator, logs
        self._losses, self._pictures = losses, pictures
        logging = arguments.logging
        self._image_steps = logging.save_images_steps or logging.save_images_epochs * steps_per_epoch
        self._total_steps = total_steps
        self.held_out = HeldOut(arguments, data, accelerator) if logging.eval_steps is not None else None
        self._best: BestPipeline | None = None
        if logging.keep_best is not None and accelerator.is_main_process:
            protocol = self.held_out.protocol(logging.keep_best)
            self._best = BestPipeline(logs.output_dir, logging.keep_best, protocol, logs.warn)

    def before(self, pipeline: Callable[[], ImprovedDDPMPipeline]) -> None:
        """Draws the noise, and what the untrained network makes of it, where that is asked for."""
        if self.arguments.logging.save_images_at_start:
            untrained = pipeline()
            self.logs.noise(self._pictures.noise(untrained, self.arguments))
            self.logs.samples(0, self._pictures.samples(untrained, self.arguments, self.accelerator))

    def after(self, step: int, pipeline: Callable[[], ImprovedDDPMPipeline]) -> bool:
        """Does what is due after `step` with what `pipeline()` makes; whether anything was."""
        draws, measures = self._is_due(step, self._image_steps), self._measures(step)
        if draws or measures:
            current = pipeline()
            if draws:
                self._draw(step, current)
            if measures:
                self._measure(step, current)
        return draws or measures

    def resume(self, step: int, pipeline: Callable[[], ImprovedDDPMPipeline]) -> None:
        """Takes up the best so far, and measures at `step` what was due there and is not logged: a run may have ended
        between its checkpoint and that."""
        if self._best is not None:
            self._best.resume(step)
        if self._measures(step) and not self._is_logged(step):
            self._measure(step, pipeline())

    @property
    def best_in_words(self) -> str | None:
        """Which pipeline is kept as the best, on the main process; None where none is."""
        return str(self._best) if self._best is not None and self._best.step else None

    def _is_due(self, step: int, every_steps: int) -> bool:
        return step % every_steps == 0 or step == self._total_steps

    def _measures(self, step: int) -> bool:
        return self.held_out is not None and self._is_due(step, self.arguments.logging.eval_steps)

    def _is_logged(self, step: int) -> bool:
        wanted = {COLUMNS[metric] for metric in self.held_out.metrics}
        found = [any(row["step"] == step and row.keys() >= wanted for row in self.logs.history)]
        broadcast_object_list(found)  # the main process alone has the history
        return found[0]

    def _draw(self, step: int, pipeline: ImprovedDDPMPipeline) -> None:
        self.logs.samples(step, self._pictures.samples(pipeline, self.arguments, self.accelerator))
        self.logs.loss_per_timestep(step, self._losses.by_timestep(self.accelerator))

    def _measure(self, step: int, pipeline: ImprovedDDPMPipeline) -> None:
        values = self.held_out.measure(pipeline)
        self.logs.measurements(step, values)
        if self._best is not None:
            self._best.offer(pipeline, step, values[COLUMNS[self._best.metric]])
        self.accelerator.wait_for_everyone()
