"""Chooses the width of the weights' average after training: a pipeline with any width, from a run's EMA snapshots.

    python train_scripts/train_unconditional.py --ema_sigma_rel 0.05 0.10 --output_dir ddpm-digits
    python train_scripts/reconstruct_ema.py --run ddpm-digits --sigma_rel 0.07 --output ddpm-digits-0.07

The width is the standard deviation of the average as a share of the training time up to its step.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm_ext.training.argument_parser import ScriptArgumentParser
from ddpm_ext.training.argument_rules import Count, Folder, Group, Text, Width, flag
from ddpm_ext.training.command_line import run_script


if TYPE_CHECKING:
    from torch import Tensor

    from ddpm_ext.pipelines import ImprovedDDPMPipeline
    from ddpm_ext.training.ema import Snapshot
    from ddpm_ext.training.post_hoc_ema import Fit


@dataclass(frozen=True)
class ReconstructionArguments(Group):
    _argument_group_name = "What to reconstruct, from what, and where to"

    run: Text | None = flag(None, "Output folder of a run with --ema_sigma_rel.", metavar="FOLDER")
    sigma_rel: Width | None = flag(None, "Width: 0.05 averages over about the last tenth of the run.", metavar="WIDTH")
    step: Count | None = flag(None, "Step that the average ends at (default: the last one with snapshots).")
    output: Folder | None = flag(None, "Where the pipeline goes: a folder, new or empty.", metavar="FOLDER")


def main() -> None:
    parser = ScriptArgumentParser([ReconstructionArguments], __doc__.split("\n")[0])
    arguments = ReconstructionArguments(**vars(parser.read(sys.argv[1:])))
    for name in ("run", "sigma_rel", "output"):
        if getattr(arguments, name) is None:
            raise ValueError(f"`{name}` must be given.")
    output = Path(arguments.output)
    if output.is_dir() and any(output.iterdir()):
        raise ValueError(f"`output` is {output}, which exists: a folder, new or empty, is accepted.")

    from ddpm_ext.pipelines.loading import load_pipeline
    from ddpm_ext.training.checkpoints import newest_pipeline
    from ddpm_ext.training.ema import weighted_sum

    snapshots = _snapshots(Path(arguments.run), arguments.step)
    solution = _fit(snapshots, arguments.sigma_rel)
    pipeline = load_pipeline(newest_pipeline(arguments.run))
    _put(weighted_sum(snapshots, solution.coefficients.tolist()), pipeline)
    pipeline.save_pretrained(str(output))
    widths = ", ".join(f"{width:g}" for width in sorted({snapshot.profile.sigma_rel for snapshot in snapshots}))
    print(
        f"{output} holds the pipeline with an average of sigma_rel {arguments.sigma_rel:g} at step "
        f"{snapshots[-1].step}, from {len(snapshots)} snapshots (sigma_rel {widths}; steps {snapshots[0].step} to "
        f"{snapshots[-1].step}); error of the fit: {solution.error:.2%}"
    )


def _snapshots(run: Path, step: int | None) -> "list[Snapshot]":
    """The snapshots of the run up to `step`, at which there must be some; all where it is None."""
    from ddpm_ext.training.ema import list_snapshots

    snapshots = list_snapshots(run / "ema_snapshots")
    if not snapshots:
        raise ValueError(f"`run` is {run}, which holds no ema_snapshots: a run with --ema_sigma_rel is accepted.")
    steps = {snapshot.step for snapshot in snapshots}
    if step is not None and step not in steps:
        nearest = min(steps, key=lambda other: abs(other - step))
        raise ValueError(f"`step` is {step}: a step with snapshots is accepted, of which {nearest} is the nearest.")
    return [snapshot for snapshot in snapshots if step is None or snapshot.step <= step]


def _fit(snapshots: "list[Snapshot]", sigma_rel: float) -> "Fit":
    from ddpm_ext.training.post_hoc_ema import TOLERATED_ERROR, Profile, fit, nearest_reachable

    stored = [snapshot.profile for snapshot in snapshots]
    wanted = Profile(sigma_rel, stored[-1].updates)
    solution = fit(stored, wanted)
    if solution.error > TOLERATED_ERROR:
        raise ValueError(
            f"`sigma_rel` is {sigma_rel:g}, which the snapshots meet with an error of {solution.error:.0%} only: at "
            f"most {TOLERATED_ERROR:.0%} is accepted, and {nearest_reachable(stored, wanted):g} is the nearest width "
            "that they reach."
        )
    return solution


def _put(weights: "dict[str, Tensor]", pipeline: "ImprovedDDPMPipeline") -> None:
    from ddpm_ext.training.ema import averaged_tensors

    tensors = averaged_tensors(pipeline.unet)
    if {name: t.shape for name, t in tensors.items()} != {name: w.shape for name, w in weights.items()}:
        raise ValueError("`run` holds snapshots of another network than its pipeline's.")
    for name, tensor in tensors.items():
        tensor.data.copy_(weights[name])


if __name__ == "__main__":
    run_script(main)
