"""Robustness, equivariance and projection of an encoder."""
