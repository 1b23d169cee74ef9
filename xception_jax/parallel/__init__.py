"""Devices and processes: which holds what, how processes find each other, agree and stop."""
