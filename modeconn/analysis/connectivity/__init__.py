"""Connectivity of networks that exist: barriers, matrices, layers, features, soups."""
