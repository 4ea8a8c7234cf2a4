"""Shallow heads on frozen embeddings, and the constant baselines beside them."""
