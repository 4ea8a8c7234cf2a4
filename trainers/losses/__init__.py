"""Contrastive losses of the global batch."""
