"""Model cards made from the files in a pipeline's folder, and uploads of such folders to the Hub."""
