"""Loss and error on planes through networks, along random directions, and around trajectories."""
