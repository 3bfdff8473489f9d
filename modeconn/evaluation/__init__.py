"""Networks over data: how a device computes, anyone's data as batches, and what is counted."""
