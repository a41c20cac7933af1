"""The best pipeline of a run, for `keep_best`: `best/` is a whole pipeline, and `best/best.json` says why it is best.

A run that is killed while it replaces the folder leaves the new one or the former one, and `--resume` finds either.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ddpm_ext.pipelines import ImprovedDDPMPipeline

from .checkpoints import WRITE_ERRORS


BEST = "best"
_OF_THE_RUN = ("config.yaml", "run.json", "metrics.jsonl")  # from which evaluate.py and a card know how it was trained


class BestPipeline:
    """Keeps in `output_dir` the pipeline with the lowest `metric`, measured as `protocol` says.

    Only the main process may use it. `warn` is told, in a sentence, what could not be written.
    """

    def __init__(
        self,
        output_dir: Path,
        metric: str,
        protocol: Mapping[str, str | int | float],
        warn: Callable[[str], None],
    ) -> None:
        self.folder, self._output_dir = output_dir / BEST, output_dir
        self._former, self._partial = (output_dir / f".{name}-{BEST}" for name in ("former", "partial"))
        self.metric, self.protocol = metric, dict(protocol)
        self.value, self.step = math.inf, 0
        self._warn = warn

    def resume(self, step: int) -> None:
        """Takes up the best so far of the run that goes on from `step`.

        One of a later step is not: the run comes to that step again. Nor is one that was measured otherwise.
        """
        shutil.rmtree(self._partial, ignore_errors=True)
        if self._former.exists() and not self.folder.exists():
            os.replace(self._former, self.folder)
        try:
            there = json.loads((self.folder / "best.json").read_text())
            is_comparable = (there["metric"], there["protocol"]) == (self.metric, self.protocol)
            if is_comparable and there["step"] <= step:
                self.value, self.step = float(there["value"]), int(there["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return

    def offer(self, pipeline: ImprovedDDPMPipeline, step: int, value: float) -> None:
        """Keeps `pipeline`, of `step`, if its `value` is the lowest so far."""
        if not value < self.value:
            return
        try:
            self._write(pipeline, {"metric": self.metric, "value": value, "step": step, "protocol": self.protocol})
            self.value, self.step = value, step
        except WRITE_ERRORS as error:
            self._warn(f"{BEST}/ of step {step} could not be written ({error}); training goes on without it")

    def _write(self, pipeline: ImprovedDDPMPipeline, about: Mapping[str, object]) -> None:
        for left in (self._partial, self._former):
            shutil.rmtree(left, ignore_errors=True)
        try:
            pipeline.save_pretrained(str(self._partial))
            (self._partial / "best.json").write_text(json.dumps(about, indent=2) + "\n")
            for name in _OF_THE_RUN:
                if (self._output_dir / name).exists():
                    shutil.copy2(self._output_dir / name, self._partial / name)
            if self.folder.exists():
                os.replace(self.folder, self._former)
            os.replace(self._partial, self.folder)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
        shutil.rmtree(self._former, ignore_errors=True)

    def __str__(self) -> str:
        """Such as "step 500, whose fid was 3.21"."""
        return f"step {self.step:,}, whose {self.metric} was {self.value:.4g}"
