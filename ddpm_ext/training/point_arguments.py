"""What the script for points can be told, where that is not what every training script can be told."""

from dataclasses import dataclass

from ddpm_ext.data.point_sets import PointSet

from .argument_rules import Count, Counts, Group, Switch, flag
from .arguments import ClassConditionalTrainingArguments
from .logging_arguments import ClassConditionalLoggingArguments


@dataclass(frozen=True)
class PointDataArguments(Group):
    _argument_group_name = "Data (which points of the plane)"

    dataset_name: PointSet = flag("swiss_roll", "The distribution that points are drawn from.")
    num_points: Count = flag(20_000, "How many points are drawn to train on; `seed` settles which.")


@dataclass(frozen=True)
class PointModelArguments(Group):
    _argument_group_name = "Model (a multilayer perceptron)"

    hidden_sizes: Counts | None = flag(
        None, "Widths of the hidden layers; the first is also that of the time embedding (default: 128 128 128)."
    )


@dataclass(frozen=True)
class PointTrainingArguments(ClassConditionalTrainingArguments):
    class_conditional: Switch = flag(False, "Tell the network the class of each point, where the data have classes.")


@dataclass(frozen=True)
class PointLoggingArguments(ClassConditionalLoggingArguments):
    eval_batch_size: Count = flag(2000, "Points in a picture of samples, and for the distance to fresh points.")
