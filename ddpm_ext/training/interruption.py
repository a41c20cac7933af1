"""A run that is told to stop (SIGTERM from a scheduler that needs the node, SIGINT from a keyboard) finishes its step
first."""

import signal
import threading
import time
from types import FrameType

from accelerate import Accelerator


INTERRUPTED = 75
"""Exit code of a run that was told to stop and can be resumed (EX_TEMPFAIL of sysexits.h: try again later)."""

_AGREEMENT_STEPS = 10
_REPETITION_SECONDS = 1.0


class Interruption:
    """Remembers a signal until all processes have agreed on it; one more of the same kind acts at once, as ever.

    A launcher hands on what a terminal has already sent to all, so a repetition within a second counts as the same.

    Use as a context manager around the training loop, which asks `is_agreed` after every step.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.signal: signal.Signals | None = None
        self._former: dict[signal.Signals, object] = {}
        self._since = 0.0

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python takes signals there alone
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal == number and now - self._since > _REPETITION_SECONDS:
            signal.signal(number, self._former[self.signal])
            signal.raise_signal(number)
        elif self.signal != number:
            self.signal, self._since = signal.Signals(number), now

    def is_agreed(self, step: int) -> bool:
        """Whether any process was told to stop; the same answer on all, who ask each other every few steps."""
        if self.accelerator.num_processes == 1:
            return self.signal is not None
        if self.signal is not None:
            self.accelerator.set_trigger()
        return step % _AGREEMENT_STEPS == 0 and self.accelerator.check_trigger()
