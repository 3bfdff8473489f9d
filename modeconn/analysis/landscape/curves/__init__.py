"""Curves of low loss between networks: Bezier curves, polygonal chains, elastic bands, spanning trees."""
