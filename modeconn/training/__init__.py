"""Training: SGD noise as a function, states, the training loop, and the fork. Knows data, models and execution."""
