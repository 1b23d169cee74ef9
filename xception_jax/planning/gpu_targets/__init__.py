"""GPUs as XLA describes them, a file each."""
