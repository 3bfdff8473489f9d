"""The landscape between and around networks: curves of low loss, planes, and curvature."""
