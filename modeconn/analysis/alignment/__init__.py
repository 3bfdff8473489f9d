"""Alignment: networks up to the permutations of their units that leave their function unchanged."""
