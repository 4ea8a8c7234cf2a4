"""Collectives, BatchNorm over ranks, gradient caching, Ray Train."""
