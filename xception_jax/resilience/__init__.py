"""Runs as real processes that are interrupted, damaged and compared."""
