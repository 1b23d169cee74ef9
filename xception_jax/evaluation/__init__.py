"""Evaluation: what a network says of a split, the statistics of it, and the comparison of two networks."""
