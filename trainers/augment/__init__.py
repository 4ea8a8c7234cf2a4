"""Batched augmentation with per-sample parameters: drawing and applying are two functions."""
