"""What `evaluate.py` can be told: one small dataclass per group of arguments, each field a flag."""

from dataclasses import dataclass
from typing import Literal

from .argument_rules import (
    Channels,
    Count,
    CountOrZero,
    Folder,
    Group,
    Size,
    Switch,
    Text,
    Texts,
    flag,
)


@dataclass(frozen=True)
class EvaluationArguments(Group):
    _argument_group_name = "What to measure, and where to put it"

    model: Text | None = flag(
        None, "Folder or Hub repository of a pipeline, or an .npz of samples.", metavar="FOLDER|REPO|NPZ"
    )
    metrics: Texts | None = flag(
        None,
        "Any of fid, kid, precision_recall, class_accuracy, nll and memorisation (default: fid).",
        metavar="METRIC",
    )
    output: Folder | None = flag(None, "Folder for the results (default: evaluation, in the model's folder).")
    num_images: Count = flag(10_000, "Images to sample; of an .npz, as many as it has at most.")
    features: Text = flag(
        "inception",
        "What images are compared by: inception (the published FID), dinov2, pixels, a TorchScript file, or a vision"
        " model of transformers.",
        metavar="NAME|FILE|REPO",
    )
    classifier: Text = flag(
        "nearest",
        "What reads the classes: the nearest reference image, a TorchScript file, or an image classifier of"
        " transformers.",
        metavar="nearest|FILE|REPO",
    )
    reference: Literal["train", "test"] = flag("train", "Split that the samples are compared with.")
    reference_images: Count | None = flag(None, "Images of that split (default: all).")
    reference_cache: Text | None = flag(
        None, "Folder that statistics of the reference are kept in (default: in the Hub's cache).", metavar="FOLDER"
    )
    allow_few_images: Switch = flag(False, "Measure fid also with fewer images than the features have dimensions.")
    likelihood: Literal["estimated", "exact"] = flag(
        "estimated", "bits/dim from a twentieth of the steps, or from all of them."
    )
    likelihood_images: Count = flag(1000, "Images of the test split, and for memorisation of both, to take it of.")
    weights: Literal["saved", "raw"] = flag(
        "saved", "The weights that the pipeline was saved with, averaged if the run did so, or those of training."
    )


@dataclass(frozen=True)
class ReferenceDataArguments(Group):
    """Field for field what `load_images` takes, but for the splits."""

    _argument_group_name = "Data (default: what the model's folder says that it was trained on)"

    dataset_name: Text | None = flag(None, "'digits', a data set on the Hub, or a local path.")
    dataset_config_name: Text | None = flag(None, "Configuration of the data set, if it has several.")
    train_data_dir: Text | None = flag(None, "Folder of images or of parquet files, in place of dataset_name.")
    train_split: Text = flag("train", "Split that was trained on.")
    test_split: Text = flag("test", "Split that was held out.")
    cache_dir: Text | None = flag(None, "Where downloads are kept (default: the Hub's own cache).")
    resolution: Size | None = flag(
        None, "The samples' size, where the data have another: 32, or HEIGHTxWIDTH.", metavar="SIZE"
    )
    image_channels: Channels | None = flag(None, "1 for grey, 3 for colour, where the data have other.", metavar="1|3")
    image_column: Text | None = flag(None, "Column that holds the images (default: the one that does).")
    label_column: Text | None = flag(None, "Column that holds the classes (default: the one that does).")
    skip_bad_images: Switch = flag(False, "Leave out images that cannot be decoded.")
    dataloader_num_workers: CountOrZero = flag(0, "Processes that decode images; 0 decodes in this one.")
