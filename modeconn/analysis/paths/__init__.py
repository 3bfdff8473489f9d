"""Paths between networks: linear interpolation, the barriers on it, and how sure they are."""
