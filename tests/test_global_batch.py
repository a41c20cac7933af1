import pytest

from ddpm_ext.training.global_batch import GlobalBatch


@pytest.mark.parametrize(
    ("division", "sentence"),
    [
        ((1, 20, 1), "the launcher started 20 processes, but the data set has only 12 images"),
        ((7, 2, 1), r"`train_batch_size` makes 14 images per update \(7, times 2 processes, times 1 accumulation"),
        ((2, 2, 4), r"`train_batch_size` makes 16 images per update \(2, times 2 processes, times 4 accumulation"),
    ],
)
def test_an_update_takes_no_more_images_than_there_are(division, sentence):
    with pytest.raises(ValueError, match=sentence):
        GlobalBatch(*division).check_fits(12, "images")
    GlobalBatch(*division).check_fits(20, "images")


@pytest.mark.parametrize(
    ("processes", "accumulation_steps", "advice"),
    [
        (2, 1, "with 2 x 1 (processes x accumulation steps), `--train_batch_size 6` makes the same"),
        (3, 2, "with 3 x 2 (processes x accumulation steps), `--train_batch_size 2` makes the same"),
        (5, 1, "5 x 1 (processes x accumulation steps) does not divide 12, so other numbers of them are needed"),
    ],
)
def test_it_is_said_how_other_processes_make_the_same_batch(processes, accumulation_steps, advice):
    assert GlobalBatch(4, processes, accumulation_steps).how_to_make(12) == advice
