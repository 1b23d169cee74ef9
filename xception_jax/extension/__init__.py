"""Registries through which programs add their own networks, data sets, losses, metrics and other components; the check
of settings' values."""
