"""`compile`: the network of a training run through torch.compile, where that pays.

    always  from the first step
    never
    auto    some steps are timed; where those that remain would take long enough to win back the time that compiling
            takes, some compiled ones are timed too, and the faster of the two goes on

What is compiled is a second way to call the same module: checkpoints, averages, samples and measurements know nothing
of it. Dropout draws what it would draw otherwise, so that only the order of float32's sums is another.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, DynamoBackend, broadcast_object_list, gather_object
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ddpm_ext.evaluation.compiled_network import COMPILER_ERRORS, COMPILER_HINT, compiler_failure


_WORTHWHILE_SECONDS = {"cpu": 600.0, "cuda": 300.0}  # that what remains must take; compiling takes about a minute
_UNTIMED, _TIMED = 3, 10
_FEWEST_STEPS = 100
_FASTER = 0.98  # a difference of less may be noise


class Compilation:
    """Calls `network`, prepared by accelerate, or what torch.compile makes of it, in a run of `total_steps`.

    `say` is told, in a line, what "auto" found. ValueError for "always" where that cannot be.
    """

    def __init__(
        self,
        network: nn.Module,
        choice: Literal["auto", "always", "never"],
        accelerator: Accelerator,
        total_steps: int,
        say: Callable[[str], None],
    ) -> None:
        self._network, self._choice, self._accelerator, self._say = network, choice, accelerator, say
        self._total_steps = total_steps
        self._compiled: nn.Module | None = None
        self._is_proven = False
        self._seconds: list[float] = []
        self._seconds_without = 0.0
        self.chosen: bool | None = None if choice == "auto" else choice == "always"
        if accelerator.distributed_type == DistributedType.FSDP:
            if choice == "always":
                raise ValueError("`compile` is 'always', which is not combined with FSDP: 'never' is accepted.")
            self.chosen = False
        if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
            self.chosen = False  # accelerate has compiled it
        is_short = total_steps < _FEWEST_STEPS
        if choice == "auto" and (is_short or accelerator.device.type not in _WORTHWHILE_SECONDS):
            self.chosen = False
        if self.chosen:
            self._compile()

    def __call__(self, *inputs: Tensor | None) -> BaseOutput:
        """The network's output in training."""
        if self._compiled is not None and not self._is_proven:
            self._prove(inputs)
        return (self._network if self._compiled is None else self._compiled)(*inputs)

    @property
    def trial_steps(self) -> int:
        """How many steps it takes at most until it is chosen."""
        return 2 * (_UNTIMED + _TIMED) if self.chosen is None else 0

    def resume(self, chosen: bool | None) -> None:
        """Takes up what "auto" had `chosen`, so that the run goes on with the same rounding."""
        if self._choice == "auto" and self.chosen is None and chosen is not None:
            self.chosen = chosen
            if chosen:
                self._compile()

    def step_begins(self) -> None:
        """Every step is to begin and end, as long as nothing is chosen."""
        if self.chosen is None:
            self._since = self._now()

    def step_ends(self, step: int) -> None:
        """The update number `step` is done."""
        if self.chosen is not None:
            return
        self._seconds.append(self._now() - self._since)
        if len(self._seconds) < _UNTIMED + _TIMED:
            return
        seconds = median(self._seconds[_UNTIMED:])
        if self._compiled is None:
            worthwhile = (self._total_steps - step) * seconds > _WORTHWHILE_SECONDS[self._accelerator.device.type]
            if self._agreed(worthwhile):
                self._compile()
                self._seconds_without, self._seconds = seconds, []
            else:
                self.chosen = False
        else:
            self._choose(seconds)

    def _choose(self, seconds: float) -> None:
        self.chosen = self._agreed(seconds < _FASTER * self._seconds_without)
        taken = f"{1000 * seconds:.1f} ms per step, and {1000 * self._seconds_without:.1f} ms before"
        ending = "" if self.chosen else ": training goes on without"
        self._say(f"compiled, which took {self._seconds[0]:.0f} s, the network needs {taken}{ending}")
        if not self.chosen:
            self._compiled = None

    def _compile(self) -> None:
        self._compiled = torch.compile(self._network, dynamic=False, options={"fallback_random": True})

    def _prove(self, inputs: tuple[Tensor | None, ...]) -> None:
        """Calls forward and backward once, for both are compiled when they are called, and nothing of it stays.

        Where that fails in one process, all give up.
        """
        learned = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        running = [(buffer, buffer.clone()) for buffer in self._network.buffers()]
        device, failure = self._accelerator.device, None
        try:
            with (
                torch.random.fork_rng([device] if device.type == "cuda" else []),
                self._accelerator.no_sync(self._network),
            ):
                torch.autograd.grad(self._compiled(*inputs)[0].sum(), learned, allow_unused=True)
        except COMPILER_ERRORS as error:
            failure = compiler_failure(error)
        for buffer, value in running:
            buffer.copy_(value)
        for found in gather_object([failure]):
            if found is not None and self._compiled is not None:
                self._give_up(found)
        self._is_proven = True

    def _give_up(self, failure: str) -> None:
        if self._choice == "always":
            raise ValueError(f"`compile` is 'always', but {failure}: 'never' is accepted, and {COMPILER_HINT}.")
        self._say(f"{failure}: training goes on without")
        self._compiled, self.chosen = None, False

    def _agreed(self, own: bool) -> bool:
        """The answer of the main process, as clocks differ."""
        answer = [own]
        broadcast_object_list(answer)
        return answer[0]

    def _now(self) -> float:
        if self._accelerator.device.type == "cuda":
            torch.cuda.synchronize(self._accelerator.device)
        return time.perf_counter()
