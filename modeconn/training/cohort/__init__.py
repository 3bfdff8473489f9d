"""Several trajectories trained together as one batched network."""
