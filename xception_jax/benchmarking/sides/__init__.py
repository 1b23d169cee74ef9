"""Programs that the benchmark starts, each in a process of its own; see `protocol.py`."""
