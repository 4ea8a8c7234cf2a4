"""Sweeps and studies: the room that uses all others."""
