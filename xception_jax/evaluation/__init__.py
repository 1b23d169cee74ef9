"""Evaluation: a network's predictions on a split, their statistics, and the comparison of two networks."""
