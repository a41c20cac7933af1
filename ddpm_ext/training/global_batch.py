"""The samples of one update, and how processes and accumulation steps divide them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GlobalBatch:
    """`train_batch_size` samples in each of `accumulation_steps` passes of each of `processes`."""

    train_batch_size: int
    processes: int
    accumulation_steps: int

    @property
    def size(self) -> int:
        return self.train_batch_size * self.processes * self.accumulation_steps

    def check_fits(self, num_samples: int, noun: str) -> None:
        """ValueError where the data set has fewer samples, called `noun`, than one update takes."""
        if self.processes > num_samples:
            raise ValueError(
                f"the launcher started {self.processes} processes, but the data set has only {num_samples} {noun}: "
                "at most that many processes are accepted."
            )
        if self.size > num_samples:
            raise ValueError(
                f"`train_batch_size` makes {self.size} {noun} per update ({self.train_batch_size}, times "
                f"{self.processes} processes, times {self.accumulation_steps} accumulation steps), but the data set "
                f"has only {num_samples}: a global batch of at most that many is accepted."
            )

    def how_to_make(self, size: int) -> str:
        """What to change for a global batch of `size`."""
        passes = self.processes * self.accumulation_steps
        division = f"{self.processes} x {self.accumulation_steps} (processes x accumulation steps)"
        if size % passes == 0:
            return f"with {division}, `--train_batch_size {size // passes}` makes the same"
        return f"{division} does not divide {size}, so other numbers of them are needed"
