"""Analysis: paths between networks, barriers on them, and instability. Only `instability` and `jobs` know training."""
