"""What the digits benchmarks measure: whether a classifier reads a digit as the one asked for, and how far the
distribution of digits is from that of the test split."""

import torch
from sklearn.svm import SVC

from ddpm_ext.data.images import load_images, to_unit_range
from ddpm_ext.evaluation.image_metrics import frechet_distance
from ddpm_ext.evaluation.statistics import Moments


def pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 1, 8, 8) to float64 (N, 64) in [-1, 1]."""
    return to_unit_range(images, 255).flatten(1).double()


class DigitsJudge:
    """A support vector classifier (RBF, C = 10) fitted on the train split, and the test split's pixels."""

    def __init__(self) -> None:
        train, test = (load_images("digits", split=split, show_progress=False) for split in ("train", "test"))
        self.train, self.test = (data.integers(torch.arange(len(data))) for data in (train, test))
        self.train_labels, self.test_labels = train.labels, test.labels
        self._moments = Moments.of(pixels(self.test))
        self._classifier = SVC(C=10).fit(pixels(self.train), self.train_labels)

    def read_as_asked(self, images: torch.Tensor, labels: list[int] | torch.Tensor) -> float:
        """Share of the images, uint8 (N, 1, 8, 8), that the classifier reads as `labels`."""
        return float((self._classifier.predict(pixels(images)) == torch.as_tensor(labels).numpy()).mean())

    def distance(self, images: torch.Tensor) -> float:
        """Fréchet distance of the images to the test split, on 64 pixels in [-1, 1]."""
        return frechet_distance(Moments.of(pixels(images)), self._moments)
