"""Training: what a script can be told, and what it does between reading a batch and saving a pipeline."""
