"""Analysis: paths between networks, barriers between networks that exist, and studies of instability."""
