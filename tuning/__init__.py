"""Sweeps and studies; imports every other package."""
