"""Lottery-ticket studies: iterative magnitude pruning with rewinding, and its controls."""
