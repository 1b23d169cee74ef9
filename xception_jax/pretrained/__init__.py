"""Weights of other frameworks: their names and layouts, and ours."""
