"""Averages of many networks and of one run: what is averaged, for how long, and its statistics measured anew."""
