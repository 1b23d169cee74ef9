"""Losses and metrics of a network's logits, per example."""
