"""A run that is told to stop (SIGTERM from a scheduler that needs the node, SIGINT from a keyboard) finishes its step
first."""

import signal
import threading
from types import FrameType

from accelerate import Accelerator


INTERRUPTED = 75
"""Exit code of a run that was told to stop and can be resumed (EX_TEMPFAIL of sysexits.h: try again later)."""

_AGREEMENT_STEPS = 10


class Interruption:
    """Remembers a signal until all processes have agreed on it; a second one of the same kind acts at once, as ever.

    Use as a context manager around the training loop, which asks `is_agreed` after every step.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.signal: signal.Signals | None = None
        self._former: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python takes signals there alone
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._former[self.signal])

    def is_agreed(self, step: int) -> bool:
        """Whether any process was told to stop; the same answer on all, who ask each other every few steps."""
        if self.accelerator.num_processes == 1:
            return self.signal is not None
        if self.signal is not None:
            self.accelerator.set_trigger()
        return step % _AGREEMENT_STEPS == 0 and self.accelerator.check_trigger()
