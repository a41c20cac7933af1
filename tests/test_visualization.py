import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ddpm_ext.visualization import as_image, image_grid, loss_curve, loss_per_timestep


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_image_in_reading_order(channels):
    images = torch.arange(1, 6, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, channels, 4, 6) * 40
    grid = np.asarray(image_grid(images, columns=3, scale=2))
    assert grid.shape == (2 * (8 + 2) + 2, 3 * (12 + 2) + 2, 3)
    for i in range(5):
        row, column = divmod(i, 3)
        tile = grid[2 + row * 10 : 10 + row * 10, 2 + column * 14 : 14 + column * 14]
        assert (tile == 40 * (i + 1)).all()


def test_small_images_are_enlarged_without_smoothing():
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    images[..., ::2] = 255
    grid = np.asarray(image_grid(images))
    assert grid.shape[0] == 64 + 2 * 8
    assert set(np.unique(grid)) == {0, 255}


def test_large_images_keep_their_size():
    assert image_grid(torch.zeros(2, 3, 100, 200, dtype=torch.uint8), columns=1).size == (200 + 2 * 2, 2 * 102 + 2)


@pytest.mark.parametrize("count, columns, rows", [(2, 2, 1), (4, 2, 2), (5, 3, 2), (10, 4, 3)])
def test_a_grid_is_about_square(count, columns, rows):
    width, height = image_grid(torch.zeros(count, 1, 64, 64, dtype=torch.uint8)).size
    assert (width, height) == (columns * 66 + 2, rows * 66 + 2)


def test_a_loss_curve_shows_the_losses_and_a_smoother_line():
    steps = list(range(0, 4000, 10))
    losses = [1 + 0.5 * (-1) ** i for i in range(len(steps))]
    figure = loss_curve(steps, losses, title="digits")
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    raw, smooth = axes.lines
    np.testing.assert_allclose(raw.get_xydata(), np.column_stack([steps, losses]))
    np.testing.assert_allclose(smooth.get_ydata()[100:], 1, atol=0.1)
    assert axes.get_yscale() == "log" and axes.get_title() == "digits" and axes.get_xlabel() == "step"


def test_the_smoothed_loss_starts_at_the_loss():
    _, smooth = loss_curve(range(100), [2.0] * 100).axes[0].lines
    np.testing.assert_allclose(smooth.get_ydata(), 2)


def test_a_loss_that_is_not_positive_has_a_linear_axis(tmp_path):
    figure = loss_curve([1, 2], [0.5, -0.1])
    assert figure.axes[0].get_yscale() == "linear"
    figure.savefig(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_a_single_loss_can_be_drawn(tmp_path):
    loss_curve([1], [0.5]).savefig(tmp_path / "loss.png")


def test_drawing_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    loss_curve([1], [0.5])
    assert dict(matplotlib.rcParams) == before


def test_the_loss_per_timestep_is_the_mean_of_each_bin_where_there_is_one():
    counts = torch.tensor([1.0, 3.0, 0.0, 0.0, 2.0, 0.0])
    sums = torch.tensor([1.0, 7.0, 0.0, 0.0, 1.0, 0.0])
    (line,) = loss_per_timestep(sums, counts, bins=3).axes[0].lines
    assert line.get_xdata() == pytest.approx([0.5, 4.5])
    assert line.get_ydata() == pytest.approx([2.0, 0.5])


def test_a_figure_becomes_pixels():
    assert as_image(loss_curve([1, 2], [1.0, 0.5]), dpi=50).size == (350, 200)
