"""`profile`: where the time of a step goes, as a trace (chrome://tracing, ui.perfetto.dev) and as a page.

A step is a sequence of parts, each of which ends where the next begins. On a GPU, which works while the host goes on,
a part also has the time of the kernels that were launched in it.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from ddpm_ext.publishing.markdown import markdown_table

from .logs import Logs


PARTS = {
    "data": "the next batch, and its flips",
    "forward": "noising, the network and the loss",
    "backward": "the gradient",
    "optimizer": "clipping, the update and the learning rate",
    "EMA": "the averages of the weights",
    "other": "logs, checkpoints, samples, measurements",
}
_MARK = "part of the step: "
_UNTOUCHED, _WARM_UP = 3, 2
_OPERATORS = 15


class StepProfile:
    """Profiles `steps` of the `usual_steps` of a run, on the main process, into `folder`, once; None profiles nothing.

    Use as a context manager around the training loop. ValueError where there are not so many.
    """

    def __init__(
        self, steps: int | None, folder: Path, accelerator: Accelerator, usual_steps: int, logs: Logs
    ) -> None:
        most = max(0, usual_steps - _UNTOUCHED - _WARM_UP)
        if steps is not None and steps > most:
            raise ValueError(
                f"`profile` is {steps}, but after the first ones the run has {most} steps: at most that many are "
                "accepted."
            )
        self._steps = steps if accelerator.is_main_process else None
        self._folder, self._device, self._logs = folder, accelerator.device.type, logs
        self._seen = 0
        self._profiler: profile | None = None
        self._part: record_function | None = None

    def __enter__(self) -> "StepProfile":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if self._profiler is not None:  # of a run that was stopped meanwhile
            self._profiler.stop()
            self._profiler = None

    def mark(self, part: str) -> None:
        """The part of the step, of `PARTS`, that begins here."""
        if self._profiler is not None:
            self._close()
            self._part = record_function(_MARK + part)
            self._part.__enter__()

    def step_ends(self) -> None:
        """A step is done; the last one that is to be profiled writes the files."""
        if self._steps is None:
            return
        self._seen += 1
        self._close()
        if self._profiler is not None:
            self._profiler.step()
        if self._seen == _UNTOUCHED:
            self._start()
        elif self._seen == _UNTOUCHED + _WARM_UP + self._steps:
            self._finish()

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self._device == "cuda")
        self._profiler = profile(
            activities=activities, schedule=schedule(wait=0, warmup=_WARM_UP, active=self._steps, repeat=1)
        )
        self._profiler.start()

    def _finish(self) -> None:
        self._profiler.stop()
        page = as_page(self._profiler.events(), self._profiler.key_averages(), self._steps, self._device)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "profile.md").write_text(page)
            self._profiler.export_chrome_trace(str(self._folder / "trace.json"))
            self._logs.say(f"{self._folder / 'profile.md'} says where the time of a step goes")
        except (OSError, RuntimeError) as error:
            self._logs.warn(f"the profile could not be written ({error}); training goes on without it")
        self._profiler, self._steps = None, None

    def _close(self) -> None:
        if self._part is not None:
            self._part.__exit__(None, None, None)
            self._part = None


def as_page(events: Iterable[FunctionEvent], averages: EventList, steps: int, device: str) -> str:
    """Markdown: parts of a step, the operators that take longest, and what the host waits for."""
    host, kernels = _by_part(events)
    total = sum(host.values())
    on_gpu = device == "cuda"
    processor = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads of the CPU"
    head = ["part", "what it is", "ms", "share", *(["ms on the GPU"] if on_gpu else [])]
    rows = [
        [part, what, _ms(host[part] / steps), f"{host[part] / total:.1%}"]
        + ([_ms(kernels[part] / steps)] if on_gpu else [])
        for part, what in PARTS.items()
    ]
    rows.append(["**all**", "", _ms(total / steps), "100%", *([_ms(sum(kernels.values()) / steps)] if on_gpu else [])])
    return (
        f"# Where the time of a step goes\n\nMeans over {steps} steps, on {processor}, torch {torch.__version__}. "
        "Being watched makes a step slower: shares are what to read. `trace.json` has every call; ui.perfetto.dev "
        f"opens it.\n\n## Parts\n\n{markdown_table(head, rows)}\n"
        f"## Operators\n\nTime in the operator itself, without those that it calls.\n\n"
        f"{_operators(averages, steps, total, on_gpu)}\n"
        f"## Waiting\n\n{_waits(averages, steps, on_gpu)}\n"
    )


def _by_part(events: Iterable[FunctionEvent]) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds of the host in each part, and of the kernels that were launched in it, from whichever thread."""
    of_host = [event for event in events if event.device_type == DeviceType.CPU]
    marks = [event for event in of_host if event.name.startswith(_MARK)]
    spans = [(mark.time_range.start, mark.time_range.end, mark.name.removeprefix(_MARK)) for mark in marks]
    host, kernels = defaultdict(float), defaultdict(float)
    for start, end, part in spans:
        host[part] += end - start
    for event in of_host:
        if event.kernels:
            part = next((part for start, end, part in spans if start <= event.time_range.start < end), "other")
            kernels[part] += sum(kernel.duration for kernel in event.kernels)
    return host, kernels


def _operators(averages: EventList, steps: int, total: float, on_gpu: bool) -> str:
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = [
        entry
        for entry in averages
        if entry.device_type == DeviceType.CPU and not entry.key.startswith((_MARK, "ProfilerStep"))
    ]
    found.sort(key=lambda entry: getattr(entry, name), reverse=True)
    rows = [
        [
            f"`{entry.key}`",
            f"{entry.count / steps:.0f}",
            _ms(getattr(entry, name) / steps),
            f"{getattr(entry, name) / total:.1%}",
        ]
        for entry in found[:_OPERATORS]
    ]
    return markdown_table(["operator", "calls", "ms on the GPU" if on_gpu else "ms", "share of the step"], rows)


def _waits(averages: EventList, steps: int, on_gpu: bool) -> str:
    if not on_gpu:
        return "There is no device that the host could wait for."
    found = [entry for entry in averages if entry.key.startswith("cuda") and "Synchronize" in entry.key]
    rows = [[f"`{entry.key}`", f"{entry.count / steps:.1f}", _ms(entry.cpu_time_total / steps)] for entry in found]
    return markdown_table(["the host waits in", "calls", "ms"], rows) if rows else "The host never waited for the GPU."


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f}"
