"""Frozen encoder to embeddings, to metrics with confidence, to a report."""
