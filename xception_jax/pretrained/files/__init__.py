"""Readers of weight files, one a format: `read(path)` gives the arrays by the file's names, and what else it says."""
