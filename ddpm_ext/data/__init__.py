"""Data: images as batches in [-1, 1] (`images`), wherever they come from (`sources`)."""
