"""The files of a run: checkpoints, logs, curves and status. Files are complete or do not exist."""
