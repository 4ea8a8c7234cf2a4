"""Clips and files to embedding tables."""
