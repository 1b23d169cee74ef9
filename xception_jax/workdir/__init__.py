"""What a run leaves behind: checkpoints, logs, curves, status; each file whole or not there at all."""
