"""Devices and processes: sharding, and how processes find each other, agree and stop."""
