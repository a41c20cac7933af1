import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ddpm_ext.diffusion import GaussianDiffusion, make_betas
from ddpm_ext.visualization import (
    as_gif,
    as_image,
    as_svg,
    bound_terms,
    class_grid,
    forward_strip,
    image_grid,
    labelled_grid,
    learned_variance,
    loss_curve,
    loss_per_timestep,
    metric_curves,
    point_cloud_frames,
    point_cloud_table,
    point_clouds,
    schedules,
    variance_fraction,
)


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


@pytest.mark.parametrize(
    "losses, ticks", [([0.6, 0.2], "0.3"), ([3.0, 0.1], "0.5"), ([10.0, 1e-4], "$\\mathdefault{10^{-2}}$")]
)
def test_a_logarithmic_axis_has_plain_numbers_where_it_is_short(losses, ticks):
    (axes,) = loss_curve([1, 2], losses).axes
    axes.figure.draw_without_rendering()
    assert ticks in [label.get_text() for label in axes.get_yticklabels()]


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


def test_curves_share_their_axes_and_are_named():
    figure = metric_curves({"first": ([1, 2], [1.0, 2.0]), "second": ([2], [3.0])}, "loss", log_scale=True)
    (axes,) = figure.axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 1], [2, 2]], [[2, 3]]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "second"]
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "loss"
    (axes,) = metric_curves({"alone": ([1, 2], [0.0, 2.0])}, "loss", log_scale=True).axes
    assert axes.get_legend() is None and axes.get_yscale() == "linear"


def test_an_svg_is_one_element_with_text_as_text():
    text = as_svg(loss_curve([1, 2], [1.0, 0.5]))
    assert text.startswith("<svg") and text.rstrip().endswith("</svg>")
    assert ">training loss</text>" in text and "<image" not in text


# ------------------------------------------------------------------ words and images


def tile(value: int, channels: int = 1) -> torch.Tensor:
    return torch.full((channels, 16, 16), value, dtype=torch.uint8)


def colors(picture: Image.Image, opaque_only: bool = True) -> set[tuple[int, ...]]:
    pixels = np.asarray(picture.convert("RGBA")).reshape(-1, 4)
    return {tuple(pixel[:3].tolist()) for pixel in pixels if pixel[3] == 255 or not opaque_only}


def test_a_labelled_grid_has_its_tiles_where_they_belong_and_no_background():
    grid = labelled_grid([[tile(10), None], [tile(20), tile(30, 3)]])
    assert grid.size == (2 * 64 + 4, 2 * 64 + 4) and grid.mode == "RGBA"
    pixels = np.asarray(grid)
    for (row, column), value in {(0, 0): 10, (1, 0): 20, (1, 1): 30}.items():
        place = pixels[row * 68 : row * 68 + 64, column * 68 : column * 68 + 64]
        assert (place == (value, value, value, 255)).all()
    assert (pixels[:64, 64:, 3] == 0).all() and (pixels[64:68, :, 3] == 0).all()


def test_words_get_the_room_that_they_need():
    bare = labelled_grid([[tile(0)] * 2] * 2)
    labelled = labelled_grid([[tile(0)] * 2] * 2, ["a", "b"], ["c", "d"])
    wide = labelled_grid([[tile(0)] * 2] * 2, ["a", "b"], ["a name of many letters", "d"])
    grouped = labelled_grid([[tile(0)] * 2] * 2, rows_per_group=1)
    assert labelled.width > bare.width and labelled.height > bare.height
    assert wide.width > labelled.width + 60 and wide.height == labelled.height
    assert grouped.height == bare.height + 8


def test_the_edges_of_letters_have_the_ink_of_the_letters():
    """Blended with black, they would show on white and on black pages alike."""
    labelled = labelled_grid([[tile(255)]], ["Wörter"], ["t = 1"])
    assert len(colors(labelled, opaque_only=False)) == 2


def test_a_class_grid_has_a_column_for_each_class_in_order():
    images = torch.stack([tile(value) for value in (50, 10, 51, 11, 12)])
    grid = np.asarray(class_grid(images, [5, 1, 5, 1, 1], [str(i) for i in range(6)]))
    middles = grid[grid.shape[0] - 3 * 68 + 4 + 32 :: 68, 32::68]
    np.testing.assert_array_equal(middles[..., 0] * (middles[..., 3] == 255), [[10, 50], [11, 51], [12, 0]])


def test_many_classes_have_a_row_each():
    images = torch.stack([tile(value) for value in range(26)])
    grid = np.asarray(class_grid(images, [i % 13 for i in range(26)], ["a name"] * 13))
    middles = grid[32::68, grid.shape[1] - 2 * 68 + 4 + 32 :: 68, 0]
    np.testing.assert_array_equal(middles, [[i, i + 13] for i in range(13)])


# ------------------------------------------------------------------ GIFs


def frames_of(gif: bytes) -> list[Image.Image]:
    picture = Image.open(io.BytesIO(gif))
    found = []
    for index in range(picture.n_frames):
        picture.seek(index)
        found.append((picture.convert("RGB"), picture.info["duration"]))
    return found


def test_a_gif_shows_its_frames_and_rests_on_the_last():
    made = [labelled_grid([[tile(value)]]) for value in (0, 255, 130)]
    gif = as_gif(made, seconds_per_frame=0.05, hold_seconds=1)
    assert Image.open(io.BytesIO(gif)).info["loop"] == 0
    frames = frames_of(gif)
    assert [duration for _, duration in frames] == [50, 50, 1000]
    assert [frame.getpixel((5, 5))[0] for frame, _ in frames] == pytest.approx([0, 255, 130], abs=2)


def test_what_is_transparent_has_the_background_of_the_gif():
    frame = labelled_grid([[tile(255), None]])
    for background, expected in (("#102030", (16, 32, 48)), ("#fcfcfc", (252,) * 3), ("#171717", (23,) * 3)):
        assert frames_of(as_gif([frame], background=background))[0][0].getpixel((100, 30)) == expected


def test_a_gif_keeps_colours():
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    image[0] = 200
    frames = frames_of(as_gif([labelled_grid([[tile(0)]]), labelled_grid([[image]])]))
    assert frames[1][0].getpixel((5, 5)) == (200, 0, 0)


def test_a_gif_needs_a_frame():
    with pytest.raises(ValueError, match="`frames` is empty"):
        as_gif([])


# ------------------------------------------------------------------ the process


PROCESS = GaussianDiffusion(make_betas("cosine", 20))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_forward_strip_goes_from_the_image_to_the_noise_with_the_prediction_below(channels):
    x_0, noise = torch.full((2, channels, 16, 16), 0.5), torch.full((2, channels, 16, 16), -1.0)
    asked = []

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(t.tolist())
        return torch.full_like(x_t, -0.5)

    strip = forward_strip(PROCESS, x_0, noise, [3, 10], predict)
    assert asked == [[3, 3], [10, 10]]
    pixels = np.asarray(strip)
    left, top = strip.width - 4 * 68 + 4, strip.height - 4 * 68 + 4 - 8
    first, second = (pixels[top + 68 * row + 32, left + 32 :: 68] for row in (0, 1))
    signal, spread = PROCESS.table["sqrt_alphas_cumprod"], PROCESS.table["sqrt_one_minus_alphas_cumprod"]
    expected = [0.5, *(0.5 * float(signal[t]) - float(spread[t]) for t in (3, 10)), -1]
    np.testing.assert_allclose(first[:, 0] / 127.5 - 1, expected, atol=1 / 127.5)
    assert second[:, 3].tolist() == [0, 255, 255, 0]
    assert second[1:3, 0].tolist() == [64, 64]


def test_schedules_are_compared_by_signal_and_by_snr():
    left, right = schedules({"cosine": PROCESS, "linear": GaussianDiffusion(make_betas("linear", 10))}).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), PROCESS.table["alphas_cumprod"])
    np.testing.assert_allclose(right.lines[0].get_ydata(), PROCESS.snr(torch.arange(20)))
    assert left.lines[1].get_xdata()[[0, -1]].tolist() == pytest.approx([0.1, 1])
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["cosine", "linear"]


def test_a_learned_variance_is_drawn_between_its_bounds():
    timesteps = [1, 7, 19]
    log_variances = torch.stack([PROCESS.table["log_betas"][t].expand(40) for t in timesteps])
    beta, posterior, mean = learned_variance(PROCESS, timesteps, log_variances).axes[0].lines
    np.testing.assert_allclose(mean.get_ydata(), beta.get_ydata())
    np.testing.assert_allclose(posterior.get_ydata(), PROCESS.table["posterior_log_variance"][timesteps])
    fractions = torch.linspace(0, 1, 11).expand(3, 11)
    axes = variance_fraction(timesteps, fractions).axes[0]
    assert [float(line.get_ydata()[0]) for line in axes.lines] == pytest.approx([1, 0, 0.5])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.1, 0.9))


def test_the_terms_of_the_bound_are_on_logarithmic_axes_unless_one_is_not_positive():
    axes = bound_terms([0, 5, 19], torch.tensor([[1.0, 3.0], [0.5, 0.5], [0.1, 0.1]])).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[1, 2], [6, 0.5], [20, pytest.approx(0.1)]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert bound_terms([0, 1], torch.zeros(2, 3)).axes[0].get_yscale() == "linear"


# ------------------------------------------------------------------ points


def test_point_clouds_have_one_scale_and_real_points_behind():
    points = torch.stack([torch.eye(2) * scale for scale in (3.0, 2.0, 1.0)])
    figure = point_clouds(points, ["noise", "half way", "points"], reference=torch.zeros(5, 2), columns=2)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == ["noise", "half way", "points"]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in shown}) == 1
    for axes, expected in zip(shown, points, strict=True):
        behind, cloud = axes.collections
        np.testing.assert_allclose(cloud.get_offsets(), expected)
        assert len(behind.get_offsets()) == 5


def test_the_frames_of_a_point_cloud_move():
    frames = point_cloud_frames(torch.randn(3, 50, 2), ["a", "b", "c"], pixels=120)
    assert [frame.size for frame in frames] == [(120, 120)] * 3
    assert len({frame.tobytes() for frame in frames}) == 3
    assert len(frames_of(as_gif(frames))) == 3


def test_a_limit_is_that_of_all_clouds():
    figure = point_clouds(torch.randn(2, 50, 2), limit=0.5)
    assert {axes.get_xlim() for axes in figure.axes} == {(-0.5, 0.5)}


def test_a_table_of_point_clouds_has_words_at_its_edges_and_one_scale():
    clouds = [[torch.eye(2) * (3 * row + column) for column in range(3)] for row in range(2)]
    figure = point_cloud_table(clouds, ["linear", "cosine"], ["noise", "x_0", "mean"], torch.zeros(5, 2))
    assert [axes.get_title() for axes in figure.axes] == ["noise", "x_0", "mean", "", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["linear", "", "", "cosine", "", ""]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    np.testing.assert_allclose(figure.axes[4].collections[1].get_offsets(), clouds[1][1])
