"""Eigenvalues, trace and spectral density of the Hessian, and how flat the surroundings of a network are."""
