"""One training run: what stands around the ten lines of a training script that are the algorithm.

    run = Run(arguments, unet, data, make_pipeline)
    for batch in run.batches():
        ...                                  # noising, network, loss
        run.update(loss, t, weight)
    run.finish()

Everything that repeats itself from script to script is here: processes and precision, the stream of batches and random
numbers, the update with its clipping, schedule and average, checkpoints, logs and samples.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor

from ddpm_ext.data.training_data import TrainingData
from ddpm_ext.diffusion import TimestepSampler
from ddpm_ext.pipelines import ImprovedDDPMPipeline
from ddpm_ext.publishing.model_card import write_model_card

from .arguments import Arguments
from .checkpoint_writer import Checkpoints
from .compilation import Compilation
from .evaluations import Evaluations
from .global_batch import GlobalBatch
from .interruption import INTERRUPTED, Interruption
from .logs import Logs
from .loss_record import LossRecord
from .output_folder import (
    begin_output_folder,
    check_output_folder,
    closing_words,
    replace_pipeline,
    upload_words,
    uploads_of,
)
from .processes import check_processes, on_cpu, prepare_cpu, use_tensor_cores
from .recipes import flatten
from .samples import IMAGES, Pictures
from .sharding import check_distribution
from .state import TrainingState
from .step_profile import StepProfile
from .stream import Stream


class Run:
    """A run of `arguments` that trains `unet` on `data`; `make_pipeline(unet)` is what is saved and sampled from.

    `pictures` show its samples. `random` are the draws of the batch at hand.
    """

    def __init__(
        self,
        arguments: Arguments,
        unet: ModelMixin,
        data: TrainingData,
        timesteps: TimestepSampler,
        make_pipeline: Callable[[ModelMixin], ImprovedDDPMPipeline],
        pictures: Pictures = IMAGES,
    ):
        self.arguments, training = arguments, arguments.training
        self.data, self.make_pipeline, self.pictures = data, make_pipeline, pictures
        self.output_dir = Path(training.output_dir)
        resuming = training.resume or training.resume_from_checkpoint is not None
        check_output_folder(self.output_dir, training.overwrite_output_dir, resuming)
        self.accelerator = accelerator = Accelerator(
            cpu=on_cpu(),
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            mixed_precision=training.mixed_precision,
            log_with=None if arguments.logging.logger == "none" else arguments.logging.logger,
            project_dir=str(self.output_dir / arguments.logging.logging_dir),
        )
        check_processes()
        check_distribution(accelerator)
        prepare_cpu()
        use_tensor_cores()
        global_batch = GlobalBatch(
            training.train_batch_size, accelerator.num_processes, training.gradient_accumulation_steps
        )
        self.global_batch_size = global_batch.size
        self.steps_per_epoch = max(1, round(len(data) / self.global_batch_size))
        self.total_steps = training.max_train_steps or training.num_epochs * self.steps_per_epoch
        global_batch.check_fits(len(data), data.noun)
        self._losses = LossRecord(arguments.process.num_train_timesteps)
        self.logs = Logs(arguments.logging, accelerator, self.output_dir, data.noun)
        self.checkpoints = Checkpoints(
            arguments, data, global_batch, self.steps_per_epoch, accelerator, self.logs.warn
        )
        self.evaluations = Evaluations(
            arguments, data, accelerator, self.logs, self._losses, pictures, self.steps_per_epoch, self.total_steps
        )
        self.state = TrainingState(accelerator, unet, timesteps, training, self.total_steps)
        self.compilation = Compilation(
            self.state.network, training.compile, accelerator, self.total_steps, self.logs.say
        )
        usual_steps = self.total_steps - self.compilation.trial_steps
        self.profile = StepProfile(
            arguments.logging.profile, self.output_dir / "profile", accelerator, usual_steps, self.logs
        )
        self._stream = Stream(data, global_batch, training.seed, self.total_steps, accelerator)
        self._gradient_norm = torch.zeros(())
        self.uploads = uploads_of(arguments, self.logs.warn)
        about = self.checkpoints.resume(self.state)
        self._tracker_run_id = about.get("tracker_run_id")
        self.compilation.resume(about.get("compiled"))
        if accelerator.is_main_process:
            begin_output_folder(arguments, accelerator, data, resuming)
        accelerator.wait_for_everyone()

    @property
    def network(self) -> Compilation:
        """The network to call: in the precision of the run, shared by its processes, and compiled where that pays."""
        return self.compilation

    @property
    def step(self) -> int:
        """The number of updates done."""
        return self.state.step

    # ------------------------------------------------------------------ the stream

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Batches of this process until the last update, as `data` makes them: samples in [-1, 1], and "labels".

        Between two batches stands one forward and backward pass; the update is made when the global batch is complete.
        """
        self.logs.start(flatten(self.arguments), self.step, self.total_steps, self._tracker_run_id)
        if self.step > 0:
            self.evaluations.resume(self.step, self.pipeline)
        else:
            self.evaluations.before(self.pipeline)
        self.logs.resume_clock()
        self.state.network.train()
        stream = self._stream.batches(self.step)
        with Interruption(self.accelerator) as interruption, self.logs.bar, self.profile:
            while self.step < self.total_steps:
                self.compilation.step_begins()
                for _ in range(self.arguments.training.gradient_accumulation_steps):
                    self.profile.mark("data")
                    self.random, batch = next(stream)
                    self.profile.mark("forward")
                    with self.accelerator.accumulate(self.state.network):
                        yield batch
                self.compilation.step_ends(self.step)
                self._after_update(stops=interruption.is_agreed(self.step))
                if self.compilation.chosen is not None:  # while it tries, steps are not what they will be
                    self.profile.step_ends()

    # ------------------------------------------------------------------ the update

    def update(self, loss: Tensor, t: Tensor, weight: Tensor) -> None:
        """Backward for `weight` * `loss` of the timesteps `t`, each (B,); at the end of the global batch, the update.

        The timestep sampler learns from the losses of the whole global batch, in its order, on every process.
        """
        self.profile.mark("backward")
        loss = loss.to(torch.promote_types(loss.dtype, torch.float32))
        self._losses.add(loss, t, completes_update=self.accelerator.sync_gradients)
        self.state.note(loss, t)
        self.accelerator.backward((weight * loss).mean())
        if self.accelerator.sync_gradients:
            self.profile.mark("optimizer")
            self._gradient_norm = self.state.update()
            self.profile.mark("EMA")
            self.state.average()
        self.profile.mark("other")

    def _after_update(self, stops: bool) -> None:
        logging = self.arguments.logging
        self.logs.advance(self.global_batch_size)
        last = self.step == self.total_steps
        checkpoint_due = self.step % self.checkpoints.every_steps == 0 or last or stops
        if checkpoint_due or self.step % logging.logging_steps == 0:
            self._log()  # before a checkpoint: a run whose loss is not finite stops here
        if checkpoint_due:
            self.save_checkpoint()
        if stops and not last:
            self._exit_interrupted()
        has_looked = self.evaluations.after(self.step, self.pipeline)
        if has_looked:
            self.state.network.train()
        if self.step % (logging.save_model_epochs * self.steps_per_epoch) == 0 and not last:
            self.save_pipeline()
        if checkpoint_due or has_looked:
            self.logs.resume_clock()

    def _exit_interrupted(self) -> None:
        self.checkpoints.wait()  # all of them: a launcher ends those that go on when the first one has gone
        self.logs.finish()
        self.accelerator.end_training()
        if self.accelerator.is_main_process:
            print(f"stopped after step {self.step} of {self.total_steps}: the same command with `--resume` goes on.")
        raise SystemExit(INTERRUPTED)

    def _log(self) -> None:
        try:
            values = self._losses.summary(self.step, self.accelerator)
        except ValueError as error:
            kept = self.checkpoints.newest()
            last_good = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
            raise ValueError(f"{error}: training stopped, {last_good}; a lower `learning_rate` may help.") from None
        values |= self.state.progress()
        values["gradient_norm"] = float(self._gradient_norm)
        values["epoch"] = self.step * self.global_batch_size / len(self.data)
        values[f"{self.data.noun}_seen"] = self.step * self.global_batch_size
        self.logs.metrics(self.step, values)

    # ------------------------------------------------------------------ what is kept

    def pipeline(self) -> ImprovedDDPMPipeline:
        """The pipeline as it would be saved now: of the averaged weights where there is an average."""
        return self.make_pipeline(self.state.averaged_unet())

    def save_pipeline(self) -> None:
        """Puts the pipeline at the root of the output folder."""
        pipeline = self.pipeline()
        if self.accelerator.is_main_process:
            replace_pipeline(pipeline, self.output_dir)
            write_model_card(self.output_dir, licence=self.arguments.logging.hub_license)
            if self.uploads is not None and self.step < self.total_steps:
                self.uploads.start(self.output_dir, f"Step {self.step}")
        self.accelerator.wait_for_everyone()

    def save_checkpoint(self) -> None:
        """Takes a copy of the state, which becomes `checkpoints/checkpoint-<step>` while the training goes on."""
        about = {"tracker_run_id": self.logs.tracker.run_id, "compiled": self.compilation.chosen}
        self.checkpoints.save(self.state, self.make_pipeline, about)

    def finish(self) -> None:
        """Saves the pipeline, uploads it if asked, and says where everything is and how to load it."""
        self.logs.draw_losses()
        self.save_pipeline()
        pipeline = self.pipeline()
        if self.accelerator.is_main_process:
            self.logs.trajectory(self.step, *self.pictures.motion(pipeline, self.arguments))
        self.logs.finish()
        self.checkpoints.wait()
        self.accelerator.end_training()
        if not self.accelerator.is_main_process:
            return
        print(closing_words(self.output_dir, pipeline, self.evaluations.best_in_words))
        if self.uploads is not None:
            address = self.uploads.finish(self.output_dir)
            print(upload_words(self.output_dir, self.uploads.repo_id, address))
