"""Pruning of one network: masks, and the criteria that choose them."""
