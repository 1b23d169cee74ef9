"""Programs that the benchmark starts, each in its own process; see `protocol.py`."""
