"""Paths between networks: linear interpolation, barriers on it, and their uncertainty."""
