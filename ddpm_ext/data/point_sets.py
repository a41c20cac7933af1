"""The names of the distributions of points, which a command line knows before torch is imported."""

from typing import Literal


PointSet = Literal["swiss_roll", "two_moons", "circles", "checkerboard", "pinwheel", "gaussian_mixture"]
