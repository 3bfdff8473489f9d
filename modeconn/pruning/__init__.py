"""Masks, the criteria that choose them, and lottery tickets."""
