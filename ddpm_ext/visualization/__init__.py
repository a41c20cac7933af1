"""Pictures of what a model makes and how it learns; each function returns a figure or an image, and writes nothing.

`grids` and `trajectory` show images, `curves` losses, `process` the forward process and what the network makes of it,
`points` 2-D data. `as_image`, `as_gif` and `as_svg` turn figures and frames into files.
"""

from .curves import loss_curve, loss_per_timestep, metric_curves, nearest_distances, smoothed
from .drawing import as_gif, as_image, as_svg, opaque_image
from .grids import class_grid, image_grid, labelled_grid
from .points import point_cloud_frames, point_cloud_table, point_clouds
from .process import bound_terms, forward_strip, learned_variance, schedules, variance_fraction
from .trajectory import Trajectory, TrajectoryRecorder, telling_moments, trajectory_frames, trajectory_grid


__all__ = [
    "Trajectory",
    "TrajectoryRecorder",
    "as_gif",
    "as_image",
    "as_svg",
    "bound_terms",
    "class_grid",
    "forward_strip",
    "image_grid",
    "labelled_grid",
    "learned_variance",
    "loss_curve",
    "loss_per_timestep",
    "metric_curves",
    "nearest_distances",
    "opaque_image",
    "point_cloud_frames",
    "point_cloud_table",
    "point_clouds",
    "schedules",
    "smoothed",
    "telling_moments",
    "trajectory_frames",
    "trajectory_grid",
    "variance_fraction",
]
