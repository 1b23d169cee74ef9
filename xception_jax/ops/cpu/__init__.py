"""Lowerings for CPUs."""
