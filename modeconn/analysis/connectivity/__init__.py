"""Linear mode connectivity between networks that exist: barriers, matrices, layers, features, averages, soups."""
