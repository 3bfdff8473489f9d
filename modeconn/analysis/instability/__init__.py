"""Instability analysis (Frankle et al. 2020): train, fork, interpolate, measure barriers."""
