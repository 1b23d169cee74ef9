"""Tests of runs as real processes that are interrupted, damaged and compared."""
